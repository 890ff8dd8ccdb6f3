"""The one HTTP client of all adapters: how it is made, how it sends, how much it reads.

Place in the flow: the dispatcher and the polls open one client per connection with `client()`, an adapter sends
through `exchange()`; `connectors.egress` says where it may go, `connectors.answers` what came of it.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, NamedTuple

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver
from yarl import URL

from connectors import answers, bodies
from connectors.egress import Egress, GuardedTransport, MultiplexedTransport
from connectors.errors import ConnectorError, Rejected

TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 4.0
"""Shorter than any server we know keeps an idle connection, so that a POST seldom meets a closing one."""
ANSWER_CAP_BYTES = 1 << 20
"""Most bytes of an answer to a write, after decompression."""
POLL_CAP_BYTES = 64 << 20
"""Most bytes of one page of a poll, after decompression."""
REFUSAL_CAP_BYTES = 64 << 10
"""Most bytes that are read of the body of a refusal."""
CHUNK_BYTES = 64 << 10
HEADERS = {"user-agent": "syncline", "accept": "application/json", "accept-encoding": "gzip, deflate"}


Before = Callable[[], Awaitable[None]]
After = Callable[[int, Mapping[str, str]], None]
Timed = Callable[[], After]
Explain = Callable[[Rejected, bytes], ConnectorError]


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer, whole and within its cap.

    Args:
        date: their clock when they answered, from the `Date` header; None without one.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    date: datetime | None

    @property
    def says_json(self) -> bool:
        """Whether they call the body JSON."""
        return "json" in self.headers.get("content-type", "").lower()


def client(  # noqa: PLR0913  all by name
    *,
    allow_http: bool = False,
    allow_private: bool = False,
    timeout_s: float = TIMEOUT_S,
    max_connections: int = 128,
    verify: ssl.SSLContext | None = None,
    resolver: AbstractResolver | None = None,
    http2: bool = False,
    compress: bool = False,
    before: Before | None = None,
    after: After | None = None,
    timed: Timed | None = None,
) -> httpx.AsyncClient:
    """The HTTP client of one connection; close it with `aclose()`.

    It follows no redirect, reads no proxy or netrc setting from the environment, keeps no cookies, speaks plain HTTP
    only to loopback hosts, and connects only to public addresses and this machine. A refused address raises
    Suspicious (`http_refused`, `address_refused`) from the request.

    Args:
        allow_http: plain HTTP is allowed to any host.
        allow_private: private, shared and link-local addresses are allowed.
        timeout_s: of connecting (at most 10 s), and of each silence while sending and reading.
        verify: how servers are verified, by default with the certificates httpx knows.
        resolver: how names become addresses, for tests.
        http2: speak HTTP/2 with servers that do, many calls on one connection. It costs more CPU than it saves unless
            connections are few or far.
        compress: send bodies above 1 KiB as gzip.
        before: awaited before every request, whoever makes it; what it raises ends the request.
        after: told status and headers of every answer, 0 and nothing when none came.
        timed: asked when a request leaves for who shall be told its answer, as `after` is.
    """
    limits = httpx.Limits(
        max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=KEEPALIVE_S
    )
    egress = Egress(allow_http=allow_http, allow_private=allow_private)
    kind = MultiplexedTransport if http2 else GuardedTransport
    transport = kind(egress, verify=verify or certificates(), limits=limits, resolver=resolver)
    return _Client(transport, timeout_s, compress=compress, before=before, after=after, timed=timed)


@functools.cache
def certificates() -> ssl.SSLContext:
    """Made once: reading all root certificates takes tens of milliseconds, and polls open a client each time."""
    return httpx.create_ssl_context(trust_env=False)


async def exchange(  # noqa: PLR0913  all but three by name
    http: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    cap_bytes: int = ANSWER_CAP_BYTES,
    explain: Explain | None = None,
) -> Answer:
    """Send one request and read its 2xx answer.

    Args:
        explain: makes the error of a refusal (400, 404, 409, 412, 422 …) from its body, so that it tells their words.

    Raises the ConnectorError that `connectors.answers` gives for anything else; an answer above `cap_bytes` is
    Ambiguous (`answer_too_large`).
    """
    reading = _Reading(cap_bytes, explain)
    if content is not None and isinstance(http, _Client) and http.compress and (packed := bodies.compressed(content)):
        content, headers = packed, {**(headers or {}), "content-encoding": "gzip"}
    try:
        if isinstance(http, _Client) and http.session is not None:
            return await _through_session(http, method, url, content, headers, params, timeout_s, reading)
        return await _through_httpx(http, method, url, content, headers, params, timeout_s, reading)
    except (aiohttp.ClientError, httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as failure:
        raise answers.classify_failure(failure) from failure


class _Reading(NamedTuple):
    """How an answer is read."""

    cap_bytes: int
    explain: Explain | None


class _Client(httpx.AsyncClient):
    """httpx's client that knows its transport.

    `exchange` goes straight to the session below: httpx's own models cost more than half of a request's CPU, and that
    CPU is the limit of the dispatcher.
    """

    def __init__(
        self,
        transport: GuardedTransport | MultiplexedTransport,
        timeout_s: float,
        *,
        compress: bool,
        before: Before | None,
        after: After | None,
        timed: Timed | None,
    ) -> None:
        super().__init__(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            timeout=_timeout(timeout_s),
            headers=HEADERS,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )
        self.session = transport.session if isinstance(transport, GuardedTransport) else None
        self.timeout_s = timeout_s
        self.compress = compress
        self.before = before or _at_once
        self.after = after or _unheard
        self.timed = timed

    async def begin(self) -> After:
        """Wait until a request may leave; who is to be told its answer."""
        await self.before()
        if self.timed is None:
            return self.after
        heard = self.timed()

        def tell(status: int, headers: Mapping[str, str]) -> None:
            heard(status, headers)
            self.after(status, headers)

        return tell

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Every request that goes through httpx's surface."""
        tell = await self.begin()
        try:
            response = await super().send(request, **options)
        except BaseException:
            tell(0, {})
            raise
        tell(response.status_code, response.headers)
        return response


async def _at_once() -> None:
    return


def _unheard(_status: int, _headers: Mapping[str, str]) -> None:
    return


async def _through_session(
    http: _Client,
    method: str,
    url: str,
    content: bytes | None,
    headers: Mapping[str, str] | None,
    params: Mapping[str, str] | None,
    timeout_s: float | None,
    reading: _Reading,
) -> Answer:
    address = URL(url).update_query(params) if params else URL(url)
    if http.session is None:
        raise TypeError("the client has no session")
    session = http.session(address)
    tell = await http.begin()
    try:
        response = await session.request(
            method,
            address,
            data=content,
            headers={**HEADERS, **(headers or {})},
            allow_redirects=False,
            auto_decompress=False,
            timeout=_session_timeout(timeout_s or http.timeout_s),
        )
    except BaseException:
        tell(0, {})
        raise
    tell(response.status, response.headers)
    async with response:
        chunks = response.content.iter_chunked(CHUNK_BYTES)
        head = await _checked(response.status, response.headers, chunks, reading.explain)
        body = await bodies.read(chunks, response.headers.get("content-encoding"), reading.cap_bytes)
        return Answer(*head, body, _date(response.headers))


async def _through_httpx(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    content: bytes | None,
    headers: Mapping[str, str] | None,
    params: Mapping[str, str] | None,
    timeout_s: float | None,
    reading: _Reading,
) -> Answer:
    timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else _timeout(timeout_s)
    async with http.stream(
        method, url, content=content, headers=headers, params=params, timeout=timeout, follow_redirects=False
    ) as response:
        chunks = response.aiter_raw()
        head = await _checked(response.status_code, response.headers, chunks, reading.explain)
        body = await bodies.read(chunks, response.headers.get("content-encoding"), reading.cap_bytes)
        return Answer(*head, body, _date(response.headers))


async def _checked(
    status: int, headers: Mapping[str, str], chunks: AsyncIterator[bytes], explain: Explain | None
) -> tuple[int, Mapping[str, str]]:
    problem = answers.classify(status, headers, _date(headers))
    if isinstance(problem, Rejected) and explain:
        body = await bodies.read(chunks, headers.get("content-encoding"), REFUSAL_CAP_BYTES)
        raise explain(problem, body) from None
    if problem is not None:
        raise problem
    return status, headers


def _date(headers: Mapping[str, str]) -> datetime | None:
    return answers.http_date(headers.get("date"))


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(CONNECT_TIMEOUT_S, seconds))


@functools.cache
def _session_timeout(seconds: float) -> aiohttp.ClientTimeout:
    connect = min(CONNECT_TIMEOUT_S, seconds)
    return aiohttp.ClientTimeout(total=None, connect=seconds, sock_connect=connect, sock_read=seconds)
