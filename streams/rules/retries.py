"""What follows an attempt: done, again later with the same or with new bytes, given up, or the whole lane stops.

The error's class says which recoveries are safe (rule R13); the policy says when and how long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from connectors.contract import Delivered, Outcome
from connectors.errors import Ambiguous, NotApplied, Rejected, Unauthorized

DURABLE_STEPS_S = (1, 5, 30, 120, 600, 1800, 3600, 7200, 14400, 21600)
DURABLE_HORIZON = timedelta(hours=76)
SEED_CAP_S = 300
SEED_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Done:
    """They have it."""


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Again at this time; `keep_bytes` when only the very same bytes under the same key are safe."""

    at: datetime
    keep_bytes: bool


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


Next = Done | RetryAt | GiveUp | StopLane | Park


def after(
    outcome: Outcome,
    *,
    policy: str,
    attempt: int,
    first_failed_at: datetime | None,
    resent: bool,
    now: datetime,
    spread: Callable[[], float],
) -> Next:
    """Decide what follows an attempt.

    Args:
        policy: `durable` (76 h, full jitter) or `seed` (1 s doubling to 300 s, 10 attempts, network errors only).
        attempt: attempts so far, this one included.
        resent: whether these bytes had been sent before, so that an earlier try may have been applied.
        spread: a random number from 0 to 1.
    """
    if isinstance(outcome, Delivered):
        return Done()
    error = outcome.error
    if isinstance(error, Rejected):
        return GiveUp()
    if isinstance(error, Unauthorized):
        return StopLane(keep_bytes=resent)
    if not isinstance(error, NotApplied | Ambiguous):
        return StopLane(keep_bytes=True)
    if _exhausted(policy, attempt, first_failed_at, now, network=error.status is None):
        return GiveUp()
    wished = (error.retry_after or 0.0) if isinstance(error, NotApplied) else 0.0
    delay = max(wished * (1 + 0.1 * spread()), delay_s(policy, attempt, spread))
    return RetryAt(now + timedelta(seconds=delay), keep_bytes=resent or isinstance(error, Ambiguous))


def delay_s(policy: str, attempt: int, spread: Callable[[], float]) -> float:
    """Seconds to wait after the attempt with this number, counted from 1."""
    if policy == "seed":
        return min(2.0 ** (attempt - 1), SEED_CAP_S)
    return float(DURABLE_STEPS_S[min(attempt, len(DURABLE_STEPS_S)) - 1] * spread())


def _exhausted(policy: str, attempt: int, first_failed_at: datetime | None, now: datetime, *, network: bool) -> bool:
    if policy == "seed":
        return attempt >= SEED_ATTEMPTS or not network
    return first_failed_at is not None and now - first_failed_at > DURABLE_HORIZON
