"""The one HTTP client of all adapters: how it is made, how it sends, how much it reads.

Place in the flow: the dispatcher and the polls open one client per connection with `client()`, an adapter sends
through `exchange()`; `connectors.egress` says where it may go, `connectors.answers` what came of it.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import httpx
from aiohttp.abc import AbstractResolver

from connectors import answers
from connectors.egress import Egress, GuardedTransport
from connectors.errors import Ambiguous

TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 4.0
"""Shorter than any server we know keeps an idle connection, so that a POST seldom meets a closing one."""
ANSWER_CAP_BYTES = 1 << 20
"""Most bytes of an answer to a write, after decompression."""
POLL_CAP_BYTES = 64 << 20
"""Most bytes of one page of a poll, after decompression."""


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


def client(
    *,
    allow_http: bool = False,
    allow_private: bool = False,
    timeout_s: float = TIMEOUT_S,
    max_connections: int = 128,
    verify: ssl.SSLContext | bool = True,
    resolver: AbstractResolver | None = None,
) -> httpx.AsyncClient:
    """The HTTP client of one connection; close it with `aclose()`.

    It follows no redirect, reads no proxy or netrc setting from the environment, keeps no cookies, speaks plain HTTP
    only to loopback hosts, and connects only to public addresses and this machine. A refused address raises
    Suspicious (`http_refused`, `address_refused`) from the request.

    Args:
        allow_http: plain HTTP is allowed to any host.
        allow_private: private, shared and link-local addresses are allowed.
        timeout_s: of connecting (at most 10 s), and of each silence while sending and reading.
        resolver: how names become addresses, for tests.
    """
    limits = httpx.Limits(
        max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=KEEPALIVE_S
    )
    egress = Egress(allow_http=allow_http, allow_private=allow_private)
    return httpx.AsyncClient(
        transport=GuardedTransport(egress, verify=verify, limits=limits, resolver=resolver),
        trust_env=False,
        follow_redirects=False,
        timeout=_timeout(timeout_s),
        headers={"user-agent": "syncline", "accept": "application/json"},
    )


async def exchange(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    cap_bytes: int = ANSWER_CAP_BYTES,
) -> Answer:
    """Send one request and read its 2xx answer.

    Raises the ConnectorError that `connectors.answers` gives for anything else; an answer above `cap_bytes` is
    Ambiguous (`answer_too_large`).
    """
    timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else _timeout(timeout_s)
    try:
        request = http.build_request(method, url, content=content, headers=headers, params=params, timeout=timeout)
        response = await http.send(request, stream=True)
        try:
            date = answers.http_date(response.headers.get("date"))
            problem = answers.classify(response.status_code, response.headers, date)
            if problem is not None:
                raise problem
            return Answer(response.status_code, response.headers, await _read(response, cap_bytes), date)
        finally:
            await response.aclose()
    except (httpx.HTTPError, httpx.InvalidURL) as failure:
        raise answers.classify_failure(failure) from failure


async def _read(response: httpx.Response, cap_bytes: int) -> bytes:
    chunks, size = [], 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > cap_bytes:
            raise Ambiguous("answer_too_large", f"the answer has more than {cap_bytes} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(CONNECT_TIMEOUT_S, seconds))
