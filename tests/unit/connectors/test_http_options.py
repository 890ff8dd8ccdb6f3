"""What a client may be asked for: HTTP/2, compressed bodies, and who is asked before a request and told after it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from connectors import bodies, http
from connectors.errors import Ambiguous, NotApplied, Suspicious
from tests.unit.connectors.test_http import Names, answer, server

NAME = "system.example"


def tls(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a fresh certificate for NAME, and one of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    day = timedelta(days=1)
    start = datetime.now(UTC) - day
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + 3 * day)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
    signed = made.sign(key, hashes.SHA256())
    pem = signed.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(private + pem)
    (folder / "cert.pem").write_bytes(pem)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(folder / "both.pem")
    serving.set_alpn_protocols(["h2"])
    return serving, ssl.create_default_context(cafile=str(folder / "cert.pem"))


class Http2:
    """A server that speaks HTTP/2 only; answers when `together` calls are open."""

    def __init__(self, together: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.together, self.body, self.headers = together, body, headers
        self.connections = 0
        self.got: dict[int, bytes] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        h2 = H2Connection(H2Configuration(client_side=False))
        h2.initiate_connection()
        ended: list[int] = []
        writer.write(h2.data_to_send())
        while data := await reader.read(65536):
            for event in h2.receive_data(data):
                if isinstance(event, RequestReceived):
                    self.got[event.stream_id] = b""
                elif isinstance(event, DataReceived):
                    self.got[event.stream_id] += event.data
                elif isinstance(event, StreamEnded):
                    ended.append(event.stream_id)
            if len(ended) >= self.together:
                for stream in ended:
                    h2.send_headers(stream, [(":status", "200"), ("x-ratelimit-limit", "7"), *self.headers])
                    h2.send_data(stream, self.body, end_stream=True)
                ended = []
            writer.write(h2.data_to_send())
        writer.close()


@contextlib.asynccontextmanager
async def http2(serving: ssl.SSLContext, together: int, body: bytes, *headers: tuple[str, str]):
    system = Http2(together, body, *headers)
    listening = socket.create_server(("127.0.0.1", 0))
    running = await asyncio.start_server(system.serve, sock=listening, ssl=serving)
    try:
        yield system, f"https://{NAME}:{listening.getsockname()[1]}/"
    finally:
        running.close()


@pytest.mark.covers("F067")
async def test_calls_share_one_connection_of_http2(tmp_path: Path) -> None:
    serving, trusting = tls(tmp_path)
    heard: list[str] = []

    def after(status: int, headers: Mapping[str, str]) -> None:
        heard.append(f"{status} {headers.get('X-RateLimit-Limit')}")

    names = Names({NAME: ["127.0.0.1"]})
    async with (
        http2(serving, 5, b"{}") as (system, url),
        http.client(http2=True, allow_private=True, verify=trusting, resolver=names, after=after) as client,
    ):
        calls = [http.exchange(client, "POST", url, content=f"{i}".encode()) for i in range(5)]
        answers = await asyncio.gather(*calls)
    assert [found.body for found in answers] == [b"{}"] * 5
    assert sorted(system.got.values()) == [b"0", b"1", b"2", b"3", b"4"]
    assert system.connections == 1
    assert heard == ["200 7"] * 5


async def test_http2_goes_nowhere_else(tmp_path: Path) -> None:
    serving, trusting = tls(tmp_path)
    names = Names({NAME: ["127.0.0.1"], "mixed.example": ["93.184.216.34", "10.0.0.1"]})
    async with (
        http2(serving, 1, b"{}") as (system, url),
        http.client(http2=True, verify=trusting, resolver=names) as client,
    ):
        for address in (url, "https://mixed.example/", "https://169.254.169.254/", "https://[fe80::1]/"):
            with pytest.raises(Suspicious, match="address_refused"):
                await http.exchange(client, "GET", address)
        with pytest.raises(Suspicious, match="http_refused"):
            await http.exchange(client, "GET", "http://93.184.216.34/")
    assert system.connections == 0


async def test_http2_believes_no_certificate_of_somebody_else(tmp_path: Path) -> None:
    serving, _ = tls(tmp_path)
    names = Names({NAME: ["127.0.0.1"]})
    async with (
        http2(serving, 1, b"{}") as (_, url),
        http.client(http2=True, allow_private=True, resolver=names) as client,
    ):
        with pytest.raises(Suspicious, match="tls_failed"):
            await http.exchange(client, "POST", url, content=b"{}")


async def test_a_server_without_http2_is_spoken_to_as_before() -> None:
    got: list[bytes] = []
    async with (
        server(answer("200 OK", b"{}", "set-cookie: a=b", "connection: close"), answer("200 OK"), count=got) as url,
        http.client(http2=True) as client,
    ):
        assert (await http.exchange(client, "GET", url)).body == b"{}"
        await http.exchange(client, "GET", url)
    assert b"HTTP/1.1" in got[0]
    assert b"cookie" not in got[1].lower()


async def test_nobody_listening_is_surely_not_applied_in_http2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    async with http.client(http2=True) as client:
        with pytest.raises(NotApplied, match="no_connection"):
            await http.exchange(client, "POST", f"http://localhost:{port}", content=b"{}")


BOMB = gzip.compress(b"0" * 10_000_000)


async def test_a_bomb_is_not_inflated_beyond_its_cap(tmp_path: Path) -> None:
    async with server(answer("200 OK", BOMB, "content-encoding: gzip")) as url, http.client() as client:
        with pytest.raises(Ambiguous, match="answer_too_large"):
            await http.exchange(client, "GET", url, cap_bytes=1_000_000)
    serving, trusting = tls(tmp_path)
    names = Names({NAME: ["127.0.0.1"]})
    async with (
        http2(serving, 1, BOMB, ("content-encoding", "gzip")) as (_, url),
        http.client(http2=True, allow_private=True, verify=trusting, resolver=names) as client,
    ):
        with pytest.raises(Ambiguous, match="answer_too_large"):
            await http.exchange(client, "GET", url, cap_bytes=1_000_000)


async def test_inflating_stops_where_the_cap_is() -> None:
    """However much one piece of the answer holds, little more than the cap is ever in memory."""
    bomb = gzip.compress(b"0" * 200_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(Ambiguous, match="answer_too_large"):
            await bodies.read(chunks(bomb, len(bomb)), "gzip", 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


async def chunks(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def headless(data: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-15)
    return engine.compress(data) + engine.flush()


TEXT = b"a record, and another record; " * 40_000


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [
        (None, TEXT),
        ("identity", TEXT),
        ("gzip", gzip.compress(TEXT)),
        ("GZIP ", gzip.compress(TEXT[:999]) + gzip.compress(TEXT[999:])),
        ("x-gzip", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", headless(TEXT)),
    ],
)
async def test_what_is_compressed_comes_out_whole(encoding: str | None, sent: bytes) -> None:
    assert await bodies.read(chunks(sent), encoding, len(TEXT)) == TEXT
    with pytest.raises(Ambiguous, match="answer_too_large"):
        await bodies.read(chunks(sent), encoding, len(TEXT) - 1)


@pytest.mark.parametrize(
    ("encoding", "sent", "code"),
    [
        ("br", b"x", "answer_unreadable"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"x")), "answer_unreadable"),
        ("gzip", b"no gzip", "answer_unreadable"),
        ("gzip", gzip.compress(TEXT[:5000])[:-9], "answer_unreadable"),
        ("gzip", gzip.compress(b"") * 1000, "answer_too_large"),
    ],
)
async def test_what_cannot_be_read(encoding: str, sent: bytes, code: str) -> None:
    with pytest.raises(Ambiguous, match=code):
        await bodies.read(chunks(sent), encoding, 10_000)


async def test_an_empty_body_needs_no_inflating() -> None:
    assert await bodies.read(chunks(b""), "gzip", 10) == b""


@pytest.mark.covers("F066")
async def test_large_bodies_are_sent_compressed() -> None:
    got: list[bytes] = []
    body = b'{"name":"Ann"}' * 1000

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        got.extend((head.lower(), await reader.readexactly(length)))
        writer.write(answer("200 OK", b"{}", "connection: close"))
        await writer.drain()
        writer.close()

    listening = socket.create_server(("127.0.0.1", 0))
    running = await asyncio.start_server(read, sock=listening)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    for option in ({}, {"http2": True}):
        async with http.client(compress=True, **option) as client:
            await http.exchange(client, "POST", url, content=body, headers={"content-type": "application/json"})
            await http.exchange(client, "POST", url, content=b"small")
    running.close()
    large, small = got[0:2], got[2:4]
    assert b"content-encoding: gzip" in large[0]
    assert b"content-type: application/json" in large[0]
    assert len(large[1]) < 200
    assert gzip.decompress(large[1]) == body
    assert b"content-encoding" not in small[0]
    assert small[1] == b"small"
    assert got[5] == large[1], "the same bytes, however they are sent"


@pytest.mark.parametrize("surface", ["exchange", "httpx"])
@pytest.mark.parametrize("through", ["session", "http2"])
async def test_every_request_is_asked_for_and_every_answer_told(surface: str, through: str) -> None:
    events: list[object] = []

    async def before() -> None:
        events.append("before")

    def after(status: int, headers: Mapping[str, str]) -> None:
        events.append((status, headers.get("Retry-After")))

    last = "connection: close"
    answers = (answer("200 OK", b"", last), answer("429 Too Many", b"", "retry-after: 3", last), b"")
    async with (
        server(*answers) as url,
        http.client(http2=through == "http2", before=before, after=after) as client,
    ):
        for _ in answers:
            with contextlib.suppress(Exception):
                await (http.exchange(client, "POST", url, content=b"{}") if surface == "exchange" else client.post(url))
    assert events == ["before", (200, None), "before", (429, "3"), "before", (0, None)]


async def test_who_is_asked_may_refuse() -> None:
    async def before() -> None:
        raise NotApplied("rate_budget", "not now")

    told: list[int] = []
    async with http.client(before=before, after=lambda status, _: told.append(status)) as client:
        with pytest.raises(NotApplied, match="rate_budget"):
            await http.exchange(client, "POST", "http://127.0.0.1:9/", content=b"{}")
    assert told == []
