"""What real systems write into their headers, and what it means."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from connectors.rates import Told, read

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
EPOCH = int(NOW.timestamp())
DATE = "Mon, 02 Mar 2026 09:59:50 GMT"
"""Their clock, ten seconds behind ours."""


@pytest.mark.covers("R15")
@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        pytest.param(200, {"content-type": "application/json"}, None, id="nothing"),
        pytest.param(
            200,
            {
                "X-PCO-API-Request-Rate-Limit": "100",
                "X-PCO-API-Request-Rate-Count": "37",
                "X-PCO-API-Request-Rate-Period": "20",
            },
            Told(100, 63, 20.0),
            id="Planning Center",
        ),
        pytest.param(
            429,
            {
                "X-PCO-API-Request-Rate-Limit": "100",
                "X-PCO-API-Request-Rate-Count": "118",
                "X-PCO-API-Request-Rate-Period": "20 seconds",
                "Retry-After": "7",
            },
            Told(100, 0, 20.0, None, 7.0),
            id="Planning Center, refused",
        ),
        pytest.param(
            200,
            {"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "29", "X-RateLimit-Reset": "60"},
            Told(30, 29, None, 60.0),
            id="OpenSPP: time to go",
        ),
        pytest.param(
            200,
            {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "4987", "x-ratelimit-reset": str(EPOCH + 1800)},
            Told(5000, 4987, None, 1800.0),
            id="GitHub: time of day",
        ),
        pytest.param(
            200,
            {
                "date": DATE,
                "x-ratelimit-limit": "5000",
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": str(EPOCH),
            },
            Told(5000, 0, None, 10.0),
            id="a time of day is by their clock",
        ),
        pytest.param(
            200,
            {
                "x-rate-limit-limit": "600",
                "x-rate-limit-remaining": "599",
                "x-rate-limit-reset": str((EPOCH + 60) * 1000),
            },
            Told(600, 599, None, 60.0),
            id="Okta's spelling, milliseconds",
        ),
        pytest.param(
            200,
            {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"},
            Told(100, 76, 21600.0, None),
            id="Docker Hub",
        ),
        pytest.param(
            200,
            {
                "RateLimit-Limit": "100, 100;w=60",
                "RateLimit-Remaining": "98",
                "RateLimit-Reset": "42",
            },
            Told(100, 98, 60.0, 42.0),
            id="draft 2",
        ),
        pytest.param(
            200,
            {
                "RateLimit-Policy": "100;w=60",
                "RateLimit-Limit": "100",
                "RateLimit-Remaining": "98",
                "RateLimit-Reset": "42",
            },
            Told(100, 98, 60.0, 42.0),
            id="draft 6",
        ),
        pytest.param(
            200,
            {"RateLimit-Policy": "100;w=60", "RateLimit": "limit=100, remaining=98, reset=42"},
            Told(100, 98, 60.0, 42.0),
            id="draft 7",
        ),
        pytest.param(
            200,
            {"RateLimit-Policy": '"default";q=100;w=60', "RateLimit": '"default";r=98;t=42'},
            Told(100, 98, 60.0, 42.0),
            id="draft 8",
        ),
        pytest.param(
            200,
            {
                "RateLimit-Policy": '"burst";q=10;w=1, "day";q=1000;w=86400',
                "RateLimit": '"burst";r=9;t=1, "day";r=7;t=99',
            },
            Told(1000, 7, 86400.0, 99.0),
            id="two policies: the slower one",
        ),
        pytest.param(
            200,
            {
                "RateLimit-Policy": '"burst";q=10;w=1, "day";q=1000;w=86400',
                "RateLimit": '"burst";r=0;t=1, "day";r=7;t=99',
            },
            Told(1000, 7, 86400.0, 99.0, 1.0),
            id="two policies: the faster one is used up",
        ),
        pytest.param(503, {"retry-after": "120"}, Told(retry_after_s=120.0), id="down for a while"),
        pytest.param(
            503,
            {"date": DATE, "retry-after": "Mon, 02 Mar 2026 10:00:20 GMT"},
            Told(retry_after_s=30.0),
            id="down until a time of their day",
        ),
        pytest.param(200, {"retry-after": "120"}, None, id="no refusal, no waiting"),
        pytest.param(429, {"content-type": "text/plain"}, None, id="Primero: refused without a word"),
        pytest.param(200, {"x-ratelimit-limit": "unlimited"}, None, id="no number"),
        pytest.param(
            200, {"x-ratelimit-limit": "0", "x-ratelimit-remaining": "0"}, None, id="a limit of nothing is none"
        ),
        pytest.param(200, {"x-ratelimit-limit": "-1", "x-ratelimit-remaining": "-1"}, None, id="minus one is none"),
        pytest.param(200, {"ratelimit": '"default";r=98;t=42'}, None, id="no policy to the name"),
    ],
)
def test_what_headers_tell(status: int, headers: dict[str, str], told: Told | None) -> None:
    assert read(status, CIMultiDict(headers), NOW) == told


NAMES = ["ratelimit", "ratelimit-policy", "ratelimit-limit", "x-ratelimit-limit", "x-ratelimit-reset", "retry-after"]
PIECES = st.sampled_from([*'0129;,="rtqw -.', "limit=", "w=60", "1e999", "9" * 40])


@given(st.integers(100, 599), st.dictionaries(st.sampled_from(NAMES), st.lists(PIECES, max_size=12).map("".join)))
def test_nonsense_tells_nothing_or_something_usable(status: int, headers: dict[str, str]) -> None:
    told = read(status, headers, NOW)
    if told is not None:
        assert told.limit is None or told.limit > 0
        for number in (told.remaining, told.period_s, told.resets_in_s, told.retry_after_s):
            assert number is None or number >= 0
