"""Whether a system may be called: a breaker keeps one that does not answer from being hammered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from connectors.contract import Failed, Outcome
from connectors.errors import Ambiguous, NotApplied

OPEN_AFTER = 3
OPEN_CAP_S = 10.0


@dataclass(slots=True)
class Breaker:
    """Closed: calls go. Open: none before `until`. Half open: one call at a time probes whether the system is back.

    Three failures in a row open it. A call that hung while others were answered tells of its record, not of the system,
    however many of them end at once. A wish for later (Retry-After) closes the door at the first one, but is no failure
    of the system: a record is never excused by it.
    """

    failures: int = 0
    until: datetime | None = None
    last_good: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Open or half open: the system is down as far as we know."""
        return self.failures >= OPEN_AFTER

    def room(self, now: datetime, in_flight: int, concurrency: int) -> int:
        """How many more calls may start."""
        if self.until and now < self.until:
            return 0
        return max(0, (1 if self.is_open else concurrency) - in_flight)

    def note(self, outcome: Outcome, sent_at: datetime, now: datetime) -> None:
        """Learn from one call's outcome."""
        if not isinstance(outcome, Failed) or not isinstance(outcome.error, NotApplied | Ambiguous):
            self.failures, self.until, self.last_good = 0, None, now
            return
        error = outcome.error
        if self.last_good and self.last_good > sent_at and error.status is None:
            return
        wish = error.retry_after if isinstance(error, NotApplied) else None
        if error.status != 429:
            self.failures += 1
        wait = wish or 0.0
        if self.is_open:
            wait = max(wait, min(2.0 ** (self.failures - OPEN_AFTER), OPEN_CAP_S))
        if wait:
            self.until = max(self.until or now, now + timedelta(seconds=wait))
