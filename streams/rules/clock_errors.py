"""How far their clock is from ours, told by the `Date` of one answer. Pure.

A `Date` is cut to the second, and was written somewhere between our request and their answer; within that, the two
clocks may agree. Only what cannot be explained so is an error, and then the largest one that explains it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

GRAIN = timedelta(seconds=1)
"""Of a `Date` header."""
LONGEST = timedelta(days=1)
"""A clock that is further off says nothing of times at all; what is measured of it is cut to this."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement.

    Args:
        ahead: how far their clock is ahead of ours, at best guess; zero where the two may agree.
        error: the most that it may be off; zero where the two may agree.
    """

    ahead: timedelta
    error: timedelta

    @property
    def doubt(self) -> timedelta:
        """How far a time may be off that was put right by `ahead`."""
        return max(self.error - abs(self.ahead), timedelta())


IN_TIME = Measured(timedelta(), timedelta())
"""Their clock is ours, as far as is known."""


def measure(date: datetime, sent_at: datetime, answered_at: datetime) -> Measured:
    """What an answer with this `Date` tells."""
    guess = (date + GRAIN / 2) - (sent_at + (answered_at - sent_at) / 2)
    doubt = abs(answered_at - sent_at) / 2 + GRAIN / 2
    if abs(guess) <= doubt:
        return Measured(timedelta(), timedelta())
    return Measured(max(-LONGEST, min(guess, LONGEST)), min(abs(guess) + doubt, LONGEST))


def overlap(least: timedelta, error: timedelta) -> timedelta:
    """How far a poll reaches back behind its checkpoint, where their clock may be off so much (rule R20).

    Args:
        least: as the manifest says; it may be short, the measured error counts all the same.
    """
    return max(least, 2 * error)


def read_through(date: datetime | None, newest: datetime | None, began: datetime) -> datetime | None:
    """Up to which time of theirs a poll that has read all of its pages has read (rule R20); None: it cannot be told.

    Args:
        date: their clock when they answered its first question; what they do later is the next poll's.
        newest: of the times that it read, where they tell no `date`.
        began: our clock before it asked. Nothing counts beyond: a time of theirs that lies in the future would make
            the next poll skip all that happens until then.
    """
    told = date or newest
    return min(told, began) if told else None
