"""How far their times may be believed. Pure.

A time that lies further in our future than any clock error we know of was written by a wrong clock. It neither wins for
ever (`bounded`), nor makes all that follows look old (`is_beyond`).
"""

from __future__ import annotations

from datetime import datetime, timedelta

FUTURE_LIMIT = timedelta(minutes=5)
"""How far in our future their times may lie before they are taken for a wrong clock."""


def bounded(at: datetime, received_at: datetime) -> datetime:
    """Their time as it is compared with ours."""
    return min(at, received_at + FUTURE_LIMIT)


def is_beyond(at: datetime, received_at: datetime | None, error: timedelta) -> bool:
    """Whether a time cannot have passed when something was received, by a clock that may be so far ahead."""
    return received_at is not None and at > received_at + FUTURE_LIMIT + error
