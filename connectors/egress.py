"""Where a connection may go: the address checks of every outgoing request, and the transport that holds them.

Place in the flow: below `connectors.http.client`. A URL in a connection is somebody's input; without these checks it
could point our workers at metadata services and neighbours inside the network. Names are resolved once, checked, and
the checked addresses are the ones connected to.

The transport is aiohttp's under httpx's surface: httpx's own pool scans its connections and falls to some hundred
requests per second with 64 in flight. It reports a connection that was cut *after* sending as a failed connect;
`GuardedTransport` puts that right, because "surely not applied" must be true when it is said.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpcore
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from httpx_aiohttp import AiohttpTransport
from yarl import URL

from connectors.errors import Suspicious

_LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost"})
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Egress:
    """What a connection's requests may reach beyond public https addresses and this very machine.

    Args:
        allow_http: plain http to any host, not to loopback hosts only.
        allow_private: private, shared and link-local addresses, for systems inside one's own network.
    """

    allow_http: bool = False
    allow_private: bool = False

    def check_url(self, scheme: str, host: str) -> None:
        """Raise Suspicious (`url_invalid`, `http_refused`, `address_refused`) for a URL that may not be asked."""
        if scheme not in ("https", "http") or not host:
            raise Suspicious("url_invalid", "the address is no http or https URL", "Check the connection's URL.")
        if scheme == "http" and not self.allow_http and not is_loopback(host):
            raise Suspicious(
                "http_refused",
                "plain http would send the data in the clear",
                "Use an https URL, or allow http for this connection.",
            )
        address = _literal(host)
        if address is not None and not is_loopback(host):
            self.check_address(address)

    def check_address(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        """Raise Suspicious (`address_refused`) for an address that may not be connected to."""
        if not self.allow_private and not is_global(address):
            raise Suspicious(
                "address_refused",
                "the host is inside a private network",
                "Check the connection's URL, or allow private addresses for this connection.",
            )


def is_loopback(host: str) -> bool:
    """Whether a URL's host names this very machine, as written. Pure."""
    address = _literal(host)
    return host.lower() in _LOOPBACK_NAMES if address is None else address.is_loopback


def is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is a public one, also when it is wrapped in an IPv6 address. Pure."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_global(inner)
    return address.is_global and not address.is_multicast


class GuardedTransport(AiohttpTransport):
    """aiohttp's transport with the egress checks, truthful exceptions and no cookies."""

    def __init__(
        self,
        egress: Egress,
        *,
        verify: ssl.SSLContext,
        limits: httpx.Limits,
        resolver: AbstractResolver | None,
    ) -> None:
        super().__init__(verify=verify, trust_env=False, limits=limits, client=self._session)
        self._egress = egress
        self._resolver = _CheckedResolver(egress, resolver)

    def session(self, url: URL) -> aiohttp.ClientSession:
        """The session below, for requests that do without httpx's surface; raises Suspicious for a refused URL."""
        self._egress.check_url(url.scheme, url.raw_host or "")
        if not isinstance(self.client, aiohttp.ClientSession):
            self.client = self.get_client()
        return self.client

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            ssl=self.ssl_context,
            limit=self.limits.max_connections or 0,
            keepalive_timeout=self.limits.keepalive_expiry,
            resolver=self._resolver,
        )
        session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
        # aiohttp sends a PUT or DELETE once more by itself when the connection breaks; trying again is the pipeline's
        session._retry_connection = False  # noqa: SLF001  it has no public name
        return session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises Suspicious for a refused address, else httpx's exceptions."""
        self._egress.check_url(request.url.scheme, request.url.host)
        try:
            return await super().handle_async_request(request)
        except httpx.ConnectTimeout as failure:
            cause = failure.__cause__
            if isinstance(cause, aiohttp.ConnectionTimeoutError):
                raise
            if isinstance(cause, aiohttp.ClientConnectorError):
                raise httpx.ConnectError("no connection") from cause
            raise httpx.RemoteProtocolError("the connection broke") from cause
        except aiohttp.ClientError as failure:
            raise httpx.RemoteProtocolError("the answer is no HTTP") from failure


class MultiplexedTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport, for HTTP/2, with the same egress checks."""

    def __init__(
        self,
        egress: Egress,
        *,
        verify: ssl.SSLContext,
        limits: httpx.Limits,
        resolver: AbstractResolver | None,
    ) -> None:
        super().__init__(verify=verify, trust_env=False, http2=True, limits=limits)
        self._egress = egress
        # httpx has no argument for it: the pool is the one it makes, but for where its connections go
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=verify,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http2=True,
            network_backend=_CheckedBackend(_CheckedResolver(egress, resolver)),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises Suspicious for a refused address, else httpx's exceptions."""
        self._egress.check_url(request.url.scheme, request.url.host)
        try:
            return await super().handle_async_request(request)
        except httpx.ConnectError as failure:
            if _is_about_tls(failure):
                raise Suspicious(
                    "tls_failed", "the system's certificate is not trusted", "Check the system's certificate."
                ) from failure
            raise


class _CheckedBackend(httpcore.AnyIOBackend):
    """Connects to the addresses that were checked, in their order, and to no name."""

    def __init__(self, resolver: _CheckedResolver) -> None:
        self._resolver = resolver

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the base class says so
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            found = await self._resolver.resolve(host, port, socket.AF_UNSPEC)
        except OSError as failure:
            raise httpcore.ConnectError("no address") from failure
        for place in found[:-1]:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await super().connect_tcp(place["host"], port, timeout, local_address, socket_options)
        return await super().connect_tcp(found[-1]["host"], port, timeout, local_address, socket_options)


class _CheckedResolver(AbstractResolver):
    """Names to addresses, each checked; one bad address refuses the name."""

    def __init__(self, egress: Egress, inner: AbstractResolver | None) -> None:
        self._egress = egress
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if self._inner is None:  # made here, because it wants a running loop
            self._inner = aiohttp.ThreadedResolver()
        found = await self._inner.resolve(host, port, family)
        if not is_loopback(host):
            for result in found:
                self._egress.check_address(ipaddress.ip_address(result["host"].partition("%")[0]))
        return found

    async def close(self) -> None:
        if self._inner is not None:
            await self._inner.close()


def _is_about_tls(failure: BaseException | None) -> bool:
    while failure is not None and not isinstance(failure, ssl.SSLError):
        failure = failure.__cause__ or failure.__context__
    return failure is not None


@functools.lru_cache(maxsize=1024)
def _literal(host: str) -> Any:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
