"""What an answer, or the lack of one, means: HTTP in, the error class that names the recovery out. Pure.

Place in the flow: `connectors.http.exchange` asks here after every request of every adapter, so that "surely not
applied" and "perhaps applied" mean the same everywhere. Nothing of a body, a query string or a header value gets into
an error's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import httpx

from connectors.errors import Ambiguous, ConnectorError, NotApplied, Rejected, Suspicious, Unauthorized

_REFUSED_BEFORE_WORK = frozenset({408, 425, 429})
_UNTRUSTED = (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError)
_NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
)
_BAD_ADDRESS = (ValueError, aiohttp.NonHttpUrlClientError, httpx.UnsupportedProtocol, httpx.InvalidURL)
"""yarl and aiohttp say ValueError, which has many children; nothing else in a request raises it."""
_LOOK_AT_URL = "Check the connection's URL."


def classify(status: int, headers: Mapping[str, str], now: datetime | None) -> ConnectorError | None:
    """What an answer means: None for a 2xx that is not HTML, else the error whose class names the recovery.

    Args:
        headers: with lower-case names, or case-insensitive.
        now: what a Retry-After date is relative to, best their own `Date`; None ignores such a date.
    """
    if _is_html(headers) and status < 500 and status not in _REFUSED_BEFORE_WORK and status not in (401, 403):
        # Error pages of servers and proxies are often HTML; where a record was expected it is a login or portal page.
        return Suspicious("html_answer", f"the answer ({status}) is a web page", _LOOK_AT_URL, status=status)
    code, cause = f"http_{status}", f"the system answered {status}"
    if 200 <= status < 300:
        return None
    if status in _REFUSED_BEFORE_WORK:
        wait = retry_after(headers.get("retry-after"), now)
        return NotApplied(code, cause, status=status, retry_after=wait)
    if status in (401, 403):
        return Unauthorized(code, cause, "Check the connection's credential.", status=status)
    if 400 <= status < 500:
        return Rejected(code, cause, "Correct the record, or the mapping that made it.", status=status)
    if 500 <= status < 600:
        # Also a 503 with Retry-After: a proxy in front may have passed the request on before it gave up.
        return Ambiguous(code, cause, status=status)
    return Suspicious(code, cause, _LOOK_AT_URL, status=status)


def classify_failure(failure: Exception) -> ConnectorError:
    """What a request without a whole answer means: NotApplied only when nothing can have been sent.

    Args:
        failure: what aiohttp raised, or httpx as `connectors.egress` has it.
    """
    if isinstance(failure, ConnectorError):
        return failure
    kind = type(failure).__name__
    if isinstance(failure, _UNTRUSTED) or isinstance(failure.__cause__, _UNTRUSTED):
        return Suspicious("tls_failed", "the system's certificate is not trusted", "Check the system's certificate.")
    if isinstance(failure, _NEVER_SENT):
        return NotApplied("no_connection", f"no connection to the system ({kind})")
    if isinstance(failure, _BAD_ADDRESS):
        return Suspicious("url_invalid", "the address is no http or https URL", _LOOK_AT_URL)
    if isinstance(failure, httpx.TimeoutException | TimeoutError):
        return Ambiguous("no_answer", f"no answer in time ({kind})")
    return Ambiguous("answer_cut", f"the connection broke before the whole answer came ({kind})")


def retry_after(value: str | None, now: datetime | None) -> float | None:
    """Seconds to wait after a Retry-After header in either form; None when absent or not understood."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdecimal():
        return float(value)
    when = http_date(value)
    return None if when is None or now is None else max(0.0, (when - now).total_seconds())


def http_date(value: str | None) -> datetime | None:
    """An HTTP date as an aware UTC time; None when absent or not understood."""
    if not value:
        return None
    try:
        parsed = parsedate_to_datetime(value)
    except ValueError:
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def _is_html(headers: Mapping[str, str]) -> bool:
    return "html" in headers.get("content-type", "").lower()
