"""What every kind of answer and failure means: the table of rule R13."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import aiohttp
import httpx
import pytest

from connectors import answers
from connectors.errors import Ambiguous, ConnectorError, NotApplied, Rejected, Suspicious, Unauthorized

NOW = datetime(2025, 10, 3, 9, 0, 0, tzinfo=UTC)
HTML = {"content-type": "text/html; charset=utf-8"}
JSON = {"content-type": "application/json"}

STATUSES: list[tuple[int, dict[str, str], type[ConnectorError] | None]] = [
    (200, JSON, None),
    (201, {}, None),
    (204, {}, None),
    (299, {"content-type": "text/plain"}, None),
    (200, HTML, Suspicious),
    (200, {"content-type": "application/xhtml+xml"}, Suspicious),
    (301, {}, Suspicious),
    (302, HTML, Suspicious),
    (304, {}, Suspicious),
    (307, JSON, Suspicious),
    (400, JSON, Rejected),
    (404, JSON, Rejected),
    (404, HTML, Suspicious),
    (405, {}, Rejected),
    (409, JSON, Rejected),
    (410, {}, Rejected),
    (413, {}, Rejected),
    (422, JSON, Rejected),
    (451, {}, Rejected),
    (401, JSON, Unauthorized),
    (403, JSON, Unauthorized),
    (401, HTML, Unauthorized),
    (408, {}, NotApplied),
    (425, {}, NotApplied),
    (429, JSON, NotApplied),
    (429, HTML, NotApplied),
    (500, {}, Ambiguous),
    (502, HTML, Ambiguous),
    (503, {"retry-after": "5"}, Ambiguous),
    (504, {}, Ambiguous),
    (599, {}, Ambiguous),
    (101, {}, Suspicious),
    (600, {}, Suspicious),
    (999, {}, Suspicious),
]


@pytest.mark.covers("F086", "R13")
@pytest.mark.parametrize(("status", "headers", "expected"), STATUSES)
def test_statuses(status: int, headers: dict[str, str], expected: type[ConnectorError] | None) -> None:
    error = answers.classify(status, httpx.Headers(headers), NOW)
    assert (None if error is None else type(error)) is expected
    if error is not None:
        assert error.status == status


@pytest.mark.parametrize(
    ("value", "now", "seconds"),
    [
        (None, NOW, None),
        ("0", NOW, 0.0),
        ("120", None, 120.0),
        (" 7 ", NOW, 7.0),
        ("Fri, 03 Oct 2025 09:00:30 GMT", NOW, 30.0),
        ("Fri, 03 Oct 2025 08:00:00 GMT", NOW, 0.0),
        ("Fri, 03 Oct 2025 09:00:30 GMT", None, None),
        ("Friday, 03-Oct-25 09:00:30 GMT", NOW, 30.0),
        ("soon", NOW, None),
        ("-5", NOW, None),
        ("1.5", NOW, None),
        ("٣", NOW, None),
        ("", NOW, None),
    ],
)
def test_retry_after(value: str | None, now: datetime | None, seconds: float | None) -> None:
    assert answers.retry_after(value, now) == seconds


def test_the_wish_to_wait_reaches_the_error() -> None:
    error = answers.classify(429, {"retry-after": "Fri, 03 Oct 2025 09:01:00 GMT"}, NOW)
    assert isinstance(error, NotApplied)
    assert error.retry_after == timedelta(minutes=1).total_seconds()


def caused(failure: Exception, cause: Exception) -> Exception:
    failure.__cause__ = cause
    return failure


KEY: Any = Mock(ssl=True, host="h", port=1)
FAILURES: list[tuple[Exception, type[ConnectorError]]] = [
    (aiohttp.ClientConnectorError(KEY, OSError(111, "refused")), NotApplied),
    (aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "unknown")), NotApplied),
    (aiohttp.ConnectionTimeoutError(), NotApplied),
    (aiohttp.ServerDisconnectedError(), Ambiguous),
    (aiohttp.ClientOSError(104, "reset"), Ambiguous),
    (aiohttp.ClientConnectionResetError(), Ambiguous),
    (aiohttp.SocketTimeoutError(), Ambiguous),
    (aiohttp.ClientPayloadError(), Ambiguous),
    (aiohttp.ClientResponseError(Mock(), ()), Ambiguous),
    (aiohttp.InvalidURL("x"), Suspicious),
    (aiohttp.NonHttpUrlClientError("x"), Suspicious),
    (aiohttp.ClientConnectorCertificateError(KEY, Exception("expired")), Suspicious),
    (aiohttp.ClientConnectorSSLError(KEY, OSError(1, "handshake")), Suspicious),
    (TimeoutError(), Ambiguous),
    (TimeoutError(), Ambiguous),
    (ConnectionResetError(), Ambiguous),
    (httpx.ConnectError("x"), NotApplied),
    (httpx.ConnectTimeout("x"), NotApplied),
    (httpx.PoolTimeout("x"), NotApplied),
    (httpx.ReadTimeout("x"), Ambiguous),
    (httpx.WriteTimeout("x"), Ambiguous),
    (httpx.ReadError("x"), Ambiguous),
    (httpx.WriteError("x"), Ambiguous),
    (httpx.RemoteProtocolError("x"), Ambiguous),
    (httpx.DecodingError("x"), Ambiguous),
    (httpx.UnsupportedProtocol("x"), Suspicious),
    (httpx.InvalidURL("x"), Suspicious),
    (caused(httpx.ConnectError("x"), aiohttp.ClientConnectorCertificateError(KEY, Exception("x"))), Suspicious),
    (Suspicious("address_refused", "x"), Suspicious),
]


@pytest.mark.covers("R13", "C21")
@pytest.mark.parametrize(
    ("failure", "expected"), FAILURES, ids=lambda value: getattr(value, "__name__", repr(value))[:40]
)
def test_failures(failure: Exception, expected: type[ConnectorError]) -> None:
    error = answers.classify_failure(failure)
    assert type(error) is expected


def test_a_failure_s_own_text_stays_inside() -> None:
    failure = httpx.ReadError("https://x.org/?token=canary")
    assert "canary" not in str(answers.classify_failure(failure).as_json())


@pytest.mark.parametrize("value", [None, "", "never", "Fri, 99 Oct 2025 09:00:00 GMT"])
def test_no_date(value: str | None) -> None:
    assert answers.http_date(value) is None
