"""The guard against mass changes: an accidental DELETE here or there, a runaway UPDATE. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

Kind = Literal["deletes", "updates", "their_deletes"]
"""Ours on the way to them, and what they delete of ours."""

WINDOW = timedelta(minutes=10)
LEARNS_FROM = timedelta(days=30)
FLOORS: Mapping[Kind, int] = {"deletes": 20, "updates": 10_000, "their_deletes": 20}
LINKED_PERCENT = 2
HEADROOM = 2
"""Updates may be this many times the busiest window so far. Deletes are never learned: their bound is a person's."""


def window(now: datetime) -> datetime:
    """The start of the window that `now` is in."""
    seconds = WINDOW.total_seconds()
    return datetime.fromtimestamp(now.timestamp() // seconds * seconds, UTC)


def bound(kind: Kind, chosen: Mapping[str, int | None], measured: int) -> int | None:
    """How many records may change in one window; None for no bound.

    Args:
        chosen: the connection's `guard`.
        measured: for updates the records in the busiest window of the last 30 days; for their deletes those linked.
    """
    if kind in chosen:
        return chosen[kind]
    learned = {"updates": measured * HEADROOM, "their_deletes": measured * LINKED_PERCENT // 100}
    return max(FLOORS[kind], learned.get(kind, 0))


def admits(limit: int | None, counted: int, more: int) -> bool:
    """Whether `more` records may change in a window in which `counted` already did."""
    return limit is None or counted + more <= limit
