"""What follows an attempt: done, again with the same or with new bytes, find out first, given up, or stop the lane.

The error's class says which recoveries are safe (rule R13), the system's create tier what a lost answer to a create
means (rule R8), the policy when and how long (rule R14; `seed`: F072–F076).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from connectors.contract import Accepted, CreateTier, Delivered, Failed, Manifest, Op, Outcome
from connectors.errors import Ambiguous, ConnectorError, NotApplied, Rejected, Stale, Unauthorized

DURABLE_STEPS_S = (1, 5, 30, 120, 600, 1800, 3600, 7200, 14400, 21600)
DURABLE_HORIZON = timedelta(hours=76)
SEED_CAP_S = 300
SEED_ATTEMPTS = 10
SEARCHES = 2
"""How often a search must find nothing before a create is sent again."""
CHECK_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Done:
    """They have it."""


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Again at this time; `keep_bytes` when only the very same bytes under the same key are safe. `free`: the record
    is not at fault, the attempt does not count."""

    at: datetime
    keep_bytes: bool
    free: bool = False


@dataclass(frozen=True, slots=True)
class Resolve:
    """Find out what they did, at this time: `search` for our marker, or `check` the token of their 202."""

    at: datetime
    how: str
    token: str | None = None
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Refetch:
    """They hold a newer version: read it, decide, and write again at this time if need be."""

    at: datetime


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Not without a change or a person."""


@dataclass(frozen=True, slots=True)
class StopLane:
    """No record is at fault: the lane pauses until somebody looks. `keep_bytes` as in RetryAt."""

    keep_bytes: bool


@dataclass(frozen=True, slots=True)
class Park:
    """A person decides; the order is kept."""


Next = Done | RetryAt | Resolve | Refetch | GiveUp | StopLane | Park


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt that has an outcome.

    Args:
        number: of attempts so far, this one included.
        resent: these bytes had been sent before, so that an earlier try may have been applied.
        first_sent_at: when these bytes were sent first.
        searches: how often a search has found nothing.
    """

    op: Op
    number: int
    first_failed_at: datetime | None
    resent: bool
    first_sent_at: datetime
    searches: int = 0


@dataclass(frozen=True, slots=True)
class Terms:
    """How one connection retries.

    Args:
        policy: `durable` (76 h, full jitter) or `seed` (1 s doubling to 300 s, 10 attempts, network errors only).
        spread: a random number from 0 to 1.
    """

    policy: str
    manifest: Manifest
    spread: Callable[[], float]


def after(
    outcome: Outcome, attempt: Attempt, *, terms: Terms, now: datetime, down_until: datetime | None = None
) -> Next:
    """Decide what follows a write.

    Args:
        down_until: the breaker is open until then: the system is down, and no record is to blame for it.
    """
    if isinstance(outcome, Delivered):
        return Done()
    if isinstance(outcome, Accepted):
        wait = timedelta(seconds=outcome.retry_after or CHECK_EVERY_S)
        return Resolve(now + wait, "check", outcome.token)
    match outcome.error:
        case Rejected():
            return _refused(attempt, terms)
        case Stale() as stale:
            return Refetch(now + _backoff(stale, attempt, terms))
        case Unauthorized():
            return StopLane(keep_bytes=attempt.resent)
        case NotApplied() | Ambiguous() as passing:
            return _later(passing, attempt, terms, now, down_until)
        case _:
            return StopLane(keep_bytes=True)


def _refused(attempt: Attempt, terms: Terms) -> Next:
    """After a refusal. Of a repeated create it does not say what became of the first try, and under the same key other
    bytes must not be sent: where the key is all that holds the two together, a person decides."""
    doubtful = attempt.op is Op.CREATE and attempt.resent
    return Park() if doubtful and terms.manifest.create_tier is CreateTier.KEYED else GiveUp()


def _later(
    error: NotApplied | Ambiguous, attempt: Attempt, terms: Terms, now: datetime, down_until: datetime | None
) -> Next:
    """After a failure that may pass by itself."""
    doubtful = attempt.resent or isinstance(error, Ambiguous)
    if doubtful and attempt.op is Op.CREATE and (told := _doubt(attempt, terms.manifest, now)):
        return told
    if down_until is not None and terms.policy == "durable":
        return RetryAt(max(down_until, now), keep_bytes=doubtful, free=True)
    if _exhausted(terms.policy, attempt, now, network=error.status is None):
        return GiveUp()
    return RetryAt(now + _backoff(error, attempt, terms), keep_bytes=doubtful)


def after_search(failure: ConnectorError | None, attempt: Attempt, *, terms: Terms, now: datetime) -> Next:
    """Decide what follows a search that found nothing (`failure` None) or failed."""
    if isinstance(failure, Unauthorized):
        return StopLane(keep_bytes=True)
    if failure is not None:
        if not isinstance(failure, NotApplied | Ambiguous):
            return Park()
        return Resolve(now + _backoff(failure, attempt, terms), "search", tries=attempt.searches)
    if attempt.searches + 1 < SEARCHES:
        return Resolve(now + max(terms.manifest.read_lag, timedelta(seconds=1)), "search", tries=attempt.searches + 1)
    return RetryAt(now, keep_bytes=False, free=True)


def after_check(outcome: Outcome, token: str, attempt: Attempt, *, terms: Terms, now: datetime) -> Next:
    """Decide what follows a question about a write they had accepted (`token`)."""
    if isinstance(outcome, Failed):
        match outcome.error:
            case NotApplied() | Ambiguous() as passing:
                return Resolve(now + _backoff(passing, attempt, terms), "check", token)
            case Rejected():
                return GiveUp()
            case _:
                return StopLane(keep_bytes=True)
    return after(outcome, attempt, terms=terms, now=now)


def left_over(attempt: Attempt, *, manifest: Manifest, now: datetime) -> Next | None:
    """What to do with a write whose worker is gone: None to send the same bytes again, else what is safe instead."""
    return _doubt(attempt, manifest, now) if attempt.op is Op.CREATE else None


def _doubt(attempt: Attempt, manifest: Manifest, now: datetime) -> Next | None:
    """A create that may have been applied: None where a repeat of the same bytes has no second effect."""
    match manifest.create_tier:
        case CreateTier.CLIENT_ID:
            return None
        case CreateTier.KEYED:
            return None if now - attempt.first_sent_at < manifest.key_ttl / 2 else Park()
        case CreateTier.SEARCH:
            return Resolve(now + manifest.read_lag, "search")
        case CreateTier.NONE:
            return Park()


def delay_s(policy: str, attempt: int, spread: Callable[[], float]) -> float:
    """Seconds to wait after the attempt with this number, counted from 1."""
    if policy == "seed":
        return min(2.0 ** (attempt - 1), SEED_CAP_S)
    return float(DURABLE_STEPS_S[min(attempt, len(DURABLE_STEPS_S)) - 1] * spread())


def _backoff(error: ConnectorError, attempt: Attempt, terms: Terms) -> timedelta:
    wished = (error.retry_after or 0.0) if isinstance(error, NotApplied) else 0.0
    own = delay_s(terms.policy, attempt.number, terms.spread)
    return timedelta(seconds=max(wished * (1 + 0.1 * terms.spread()), own))


def _exhausted(policy: str, attempt: Attempt, now: datetime, *, network: bool) -> bool:
    if policy == "seed":
        return attempt.number >= SEED_ATTEMPTS or not network
    return attempt.first_failed_at is not None and now - attempt.first_failed_at > DURABLE_HORIZON
