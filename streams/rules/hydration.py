"""Reads of single records: what follows each, and when one poll does the work of many of them.

What is absent is not deleted. They may not show yet what they have just made, or answer from a copy that lags: only a
record that is missing twice, with their lag between, is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from connectors.errors import Ambiguous, ConnectorError, NotApplied, Stale, Suspicious, Unauthorized
from streams.rules import retries

BURST = 50
"""More pending reads of one type than this are one poll."""
POLL_PAUSE = timedelta(seconds=5)
"""Between two polls that are made for reads: each reads its overlap again."""
_TICK = timedelta(milliseconds=1)
CONFIRM_AFTER = timedelta(seconds=5)
"""How long a record must be missing at least before it is gone."""


@dataclass(frozen=True, slots=True)
class Tries:
    """What became of a read so far.

    Args:
        failures: in a row.
        missed_at: when they first had no such record; None when they had, or were not asked.
    """

    failures: int = 0
    first_failed_at: datetime | None = None
    missed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """They have it: publish it."""


@dataclass(frozen=True, slots=True)
class Gone:
    """They have it no more, since this time of ours at the latest: publish a delete."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Again:
    """Read it again at this time."""

    at: datetime
    tries: Tries


@dataclass(frozen=True, slots=True)
class GiveUp:
    """They will not give it: a dead letter."""


@dataclass(frozen=True, slots=True)
class Stop:
    """No record is at fault: the connection pauses until somebody looks."""


Next = Found | Gone | Again | GiveUp | Stop


def after_answer(*, found: bool, tries: Tries, read_lag: timedelta, now: datetime) -> Next:
    """Decide what follows an answer."""
    if found:
        return Found()
    missed_at = tries.missed_at or now
    confirmed_at = missed_at + max(read_lag, CONFIRM_AFTER)
    if tries.missed_at is not None and now >= confirmed_at:
        return Gone(missed_at)
    return Again(confirmed_at, Tries(missed_at=missed_at))


def gone_at(at: datetime, *, ahead: timedelta, known_at: datetime | None) -> datetime:
    """When a record went, by their clock, which tells nothing of it: later than every state of it that we know.

    Args:
        at: when it was missed first.
        ahead: how far their clock is ahead of ours.
        known_at: their time of the newest state that we know.
    """
    theirs = at + ahead
    return known_at + _TICK if known_at is not None and known_at >= theirs else theirs


def after_failure(
    error: ConnectorError,
    tries: Tries,
    *,
    policy: str,
    spread: Callable[[], float],
    now: datetime,
    down_until: datetime | None = None,
) -> Next:
    """Decide what follows a read that failed.

    Args:
        down_until: the system does not answer and is left alone until then: no record is to blame for it.
    """
    if isinstance(error, Unauthorized | Suspicious):
        return Stop()
    if not isinstance(error, NotApplied | Ambiguous | Stale):
        return GiveUp()
    if down_until is not None:
        return Again(max(down_until, now), tries)
    failed = replace(tries, failures=tries.failures + 1, first_failed_at=tries.first_failed_at or now)
    if now - (failed.first_failed_at or now) > retries.DURABLE_HORIZON:
        return GiveUp()
    wished = (error.retry_after or 0.0) if isinstance(error, NotApplied) else 0.0
    wait = max(wished * (1 + 0.1 * spread()), retries.delay_s(policy, failed.failures, spread))
    return Again(now + timedelta(seconds=wait), failed)


def by_poll(pending: int, *, polled: bool, failures: int) -> bool:
    """Whether pending reads of one type are left to a poll.

    Args:
        pending: reads that were wanted after the last poll began, so that the next one may spare them.
        polled: the type is polled at all.
        failures: of its polls, in a row: one that does not work spares nothing.
    """
    return polled and not failures and pending > BURST


def poll_is_due(polled_at: datetime | None, now: datetime) -> bool:
    """Whether the poll that spares reads may begin."""
    return polled_at is None or now - polled_at >= POLL_PAUSE
