"""The HTTP client against a socket: what it refuses to do, and what it makes of broken answers."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ipaddress
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from connectors import http
from connectors.egress import Egress, is_global, is_loopback
from connectors.errors import Ambiguous, NotApplied, Rejected, Suspicious


@contextlib.asynccontextmanager
async def server(*answers: bytes, count: list[bytes] | None = None) -> AsyncIterator[str]:
    """Answers each request with the next of the byte strings, then closes; gives the base URL."""
    waiting = list(answers)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if count is not None:
            count.append(head)
        writer.write(waiting.pop(0))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    listening = socket.create_server(("127.0.0.1", 0))
    running = await asyncio.start_server(handle, sock=listening)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        running.close()


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_a_good_answer_comes_whole_with_its_date() -> None:
    got: list[bytes] = []
    good = answer("200 OK", b'{"a":1}', "Content-Type: application/json", "Date: Fri, 03 Oct 2025 09:00:00 GMT")
    async with server(good, count=got) as url, http.client() as client:
        found = await http.exchange(client, "GET", f"{url}/x?a=1", params={"since": "2025-10-03T09:00:00.000Z"})
    assert (found.status, found.body, found.says_json) == (200, b'{"a":1}', True)
    assert found.date is not None
    assert found.date.isoformat() == "2025-10-03T09:00:00+00:00"
    assert got[0].startswith(b"GET /x?a=1&since=2025-10-03T09:00:00.000Z ")
    assert b"cookie" not in got[0].lower()


async def test_redirects_are_not_followed() -> None:
    got: list[bytes] = []
    away = answer("302 Found", b"", "Location: http://169.254.169.254/")
    async with server(away, count=got) as url, http.client() as client:
        with pytest.raises(Suspicious, match="http_302"):
            await http.exchange(client, "POST", url, content=b"{}")
    assert len(got) == 1


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (b"", Ambiguous),
        (b"nonsense\r\n\r\n", Ambiguous),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", Ambiguous),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", Ambiguous),
        (answer("200 OK", b"not gzip", "content-encoding: gzip"), Ambiguous),
        (answer("400 Bad Request"), Rejected),
        (answer("429 Too Many", b"", "retry-after: 3"), NotApplied),
    ],
)
async def test_broken_answers(broken: bytes, error: type[Exception]) -> None:
    async with server(broken, broken) as url:
        async with http.client() as client:
            with pytest.raises(error):
                await http.exchange(client, "POST", url, content=b"{}")
        # The same through httpx's own surface, for adapters that need it.
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(), trust_env=False) as plain:
            with pytest.raises(error):
                await http.exchange(plain, "POST", url, content=b"{}")


async def test_a_connection_cut_after_sending_is_no_failed_connect_in_httpx_either() -> None:
    async with server(b"") as url, http.client() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(url, content=b"{}")


async def test_nobody_listening_is_surely_not_applied() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    listening.close()
    async with http.client() as client:
        with pytest.raises(NotApplied, match="no_connection"):
            await http.exchange(client, "POST", f"http://127.0.0.1:{port}", content=b"{}")
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port}")


async def test_an_answer_above_its_cap_is_not_read_on() -> None:
    bomb = gzip.compress(b"0" * 5_000_000)
    answers = (answer("200 OK", b"x" * 2000), answer("200 OK", bomb, "content-encoding: gzip"))
    async with server(*answers) as url, http.client() as client:
        with pytest.raises(Ambiguous, match="answer_too_large"):
            await http.exchange(client, "GET", url, cap_bytes=1000)
        with pytest.raises(Ambiguous, match="answer_too_large"):
            await http.exchange(client, "GET", url, cap_bytes=1_000_000)


@pytest.mark.covers("F085")
@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://example.org/", "http_refused"),
        ("http://10.0.0.5/", "http_refused"),
        ("https://10.0.0.5/", "address_refused"),
        ("https://169.254.169.254/latest/meta-data", "address_refused"),
        ("https://[::ffff:10.0.0.5]/", "address_refused"),
        ("https://[fe80::1]/", "address_refused"),
        ("https://100.64.0.1/", "address_refused"),
        ("https://internal.example/", "address_refused"),
        ("ftp://example.org/", "url_invalid"),
        ("https:///x", "url_invalid"),
        ("http://[bad/", "url_invalid"),
    ],
)
async def test_where_no_request_may_go(url: str, code: str) -> None:
    async with http.client(resolver=Names({"internal.example": ["93.184.216.34", "192.168.1.9"]})) as client:
        with pytest.raises(Suspicious, match=code):
            await http.exchange(client, "GET", url)


async def test_what_may_be_allowed() -> None:
    Egress(allow_http=True).check_url("http", "example.org")
    Egress(allow_private=True).check_url("https", "10.0.0.5")
    Egress().check_url("http", "localhost")
    Egress().check_url("http", "127.0.0.1")
    Egress().check_url("http", "[::1]")
    Egress().check_url("https", "example.org")


async def test_the_checked_address_is_the_one_connected_to() -> None:
    """A name that changes between check and use cannot: it is resolved once."""
    names = Names({"rebinding.example": ["127.0.0.1"]})
    async with server(answer("200 OK")) as url, http.client(allow_http=True, resolver=names) as client:
        with pytest.raises(Suspicious, match="address_refused"):
            await http.exchange(client, "GET", url.replace("127.0.0.1", "rebinding.example"))
    allowed = http.client(allow_http=True, allow_private=True, resolver=names)
    async with server(answer("200 OK")) as url, allowed as client:
        await http.exchange(client, "GET", url.replace("127.0.0.1", "rebinding.example"))
    assert names.asked == ["rebinding.example"] * 2


async def test_settings_of_the_environment_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with server(answer("200 OK"), answer("200 OK")) as url, http.client() as client:
        await http.exchange(client, "GET", url)
        assert (await client.get(url)).status_code == 200


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:7f00:1::", False),
        ("fc00::1", False),
        ("ff02::1", False),
    ],
)
def test_public_addresses(address: str, expected: bool) -> None:
    assert is_global(ipaddress.ip_address(address)) is expected


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_loopback_hosts(host: str) -> None:
    assert is_loopback(host)
    assert not is_loopback(host + ".example.org")


class Names(AbstractResolver):
    """A resolver that knows these names."""

    def __init__(self, known: dict[str, list[str]]) -> None:
        self.known = known
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family or socket.AF_INET, proto=0, flags=0)
            for address in self.known[host]
        ]

    async def close(self) -> None:
        pass
