"""What a system tells of its limits, read from the headers of an answer. Pure.

Place in the flow: the rate budget of a connection (`streams.outbound.budgets`) asks here after every answer. Nothing
about any system's limits is written down anywhere: they are what its answers say.

| headers | who sends them |
|---|---|
| `X-PCO-API-Request-Rate-Limit`, `-Count`, `-Period` | Planning Center |
| `RateLimit` and `RateLimit-Policy` | the IETF draft, from version 8 on |
| `RateLimit: limit=…, remaining=…, reset=…` | the draft's versions 7 and before |
| `RateLimit-Limit`, `-Remaining`, `-Reset` | the draft's first versions |
| `X-RateLimit-…`, `X-Rate-Limit-…` | everybody else; the reset is a time to go or a time of day |
| `Retry-After` | anybody who refuses, with 429 or 503 |
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from connectors import answers

REFUSALS = frozenset({429, 503})

MOST_CALLS = 1_000_000_000
"""A limit above this is none."""
_EPOCH_FROM = 1e9
"""A reset above this many seconds is a time of day, not a time to go."""
_MILLISECONDS_FROM = 1e11
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_FAMILIES = ("ratelimit", "x-ratelimit", "x-rate-limit")


@dataclass(frozen=True, slots=True)
class Told:
    """What one answer told of one limit; None for what it did not.

    Args:
        limit: calls in a window.
        remaining: calls that are left in this window, this answer's own already taken off.
        period_s: how long a window is.
        resets_in_s: until the window ends, or until calls come back.
        retry_after_s: they want no call before.
    """

    limit: int | None = None
    remaining: int | None = None
    period_s: float | None = None
    resets_in_s: float | None = None
    retry_after_s: float | None = None


def read(status: int, headers: Mapping[str, str], now: datetime) -> Told | None:
    """What an answer tells of limits; None when it tells nothing.

    Args:
        headers: case-insensitive, or with lower-case names.
        now: our time; their `Date` goes before it, since a time of day is by their clock.
    """
    told = _planning_center(headers) or _structured(headers) or _three_headers(headers, now)
    if status in REFUSALS and (value := headers.get("retry-after")) is not None:
        wait = answers.retry_after(value, _their_time(headers, now))
        if wait is not None:
            told = told or Told()
            return Told(told.limit, told.remaining, told.period_s, told.resets_in_s, wait)
    return told


def _planning_center(headers: Mapping[str, str]) -> Told | None:
    limit = _limit(headers.get("x-pco-api-request-rate-limit"))
    if limit is None:
        return None
    count = _number(headers.get("x-pco-api-request-rate-count"))
    remaining = None if count is None else max(0, limit - int(min(count, limit)))
    return Told(limit, remaining, _number(headers.get("x-pco-api-request-rate-period")) or None)


def _structured(headers: Mapping[str, str]) -> Told | None:
    """`RateLimit: "name";r=50;t=30` with `RateLimit-Policy: "name";q=100;w=60`, or the older `limit=…, remaining=…`."""
    value = headers.get("ratelimit")
    policy = headers.get("ratelimit-policy")
    if value is None:
        return None
    if "limit=" in value:
        old = dict(part.strip().split("=", 1) for part in value.split(",") if "=" in part)
        limit = _limit(old.get("limit"))
        if limit is None:
            return None
        window = next((w for _, q, w in _policies(policy) if q == limit), None)
        return Told(limit, _whole(_number(old.get("remaining"))), window, _number(old.get("reset")))
    return _slowest(value, list(_policies(policy)))


def _slowest(value: str, policies: list[tuple[str, int, float | None]]) -> Told | None:
    """Of several limits the one that allows the fewest calls over a long time: always the same one, so that it can be
    learned. The others are heard when nothing is left of them, like a Retry-After.
    """
    states = dict(_items(value))
    found: list[tuple[float, Told]] = []
    used_up: list[float] = []
    for name, quota, window in policies:
        given = states.get(name)
        if given is None:
            continue
        remaining, resets = _whole(_number(given.get("r"))), _number(given.get("t"))
        if remaining == 0 and resets:
            used_up.append(resets)
        found.append((quota / (window or resets or 60.0), Told(quota, remaining, window, resets)))
    if not found:
        return None
    slowest = min(found, key=lambda pair: pair[0])[1]
    others = max(used_up, default=None)
    return Told(slowest.limit, slowest.remaining, slowest.period_s, slowest.resets_in_s, others)


def _policies(value: str | None) -> Iterator[tuple[str, int, float | None]]:
    """Name, quota and window of each policy; an older policy is called by its quota."""
    for name, given in _items(value or ""):
        quota = _limit(given.get("q", name))
        if quota is not None:
            yield name, quota, _number(given.get("w"))


def _items(value: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The items of a structured list, each with its parameters."""
    for item in value.split(","):
        name, *parameters = item.strip().split(";")
        if name:
            given = dict(p.strip().split("=", 1) for p in parameters if "=" in p)
            yield name.strip().strip('"'), given


def _three_headers(headers: Mapping[str, str], now: datetime) -> Told | None:
    for family in _FAMILIES:
        value = headers.get(f"{family}-limit")
        if value is None:
            continue
        limit = _limit(value)
        if limit is None:
            return None
        window = re.search(r"(?:w|window)=(\d+)", value) or re.search(r"w=(\d+)", headers.get(f"{family}-policy") or "")
        resets = _number(headers.get(f"{family}-reset"))
        if resets is not None and resets > _EPOCH_FROM:
            seconds = resets / 1000 if resets > _MILLISECONDS_FROM else resets
            resets = max(0.0, seconds - _their_time(headers, now).timestamp())
        remaining = _whole(_number(headers.get(f"{family}-remaining")))
        return Told(limit, remaining, float(window[1]) if window else None, resets)
    return None


def _their_time(headers: Mapping[str, str], now: datetime) -> datetime:
    return answers.http_date(headers.get("date")) or now


@functools.lru_cache(maxsize=4096)
def _number(value: str | None) -> float | None:
    """The first number in a value: `20 seconds` is 20, `100, 100;w=60` is 100."""
    found = _NUMBER.search(value) if value and not value.lstrip().startswith("-") else None
    return float(found[0]) if found else None


def _limit(value: str | None) -> int | None:
    """A number of calls that can be one."""
    found = _number(value)
    return int(found) or None if found and found <= MOST_CALLS else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(min(value, MOST_CALLS))
