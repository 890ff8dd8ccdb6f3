"""The one clock of an emulator: settable, and strictly increasing where it stamps records."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_TICK = timedelta(milliseconds=1)


class Clock:
    """A system's clock with millisecond precision.

    Args:
        real: seconds since 1970, the time it runs along with.
    """

    def __init__(self, real: Callable[[], float]) -> None:
        self._real = real
        self.reset()

    def reset(self) -> None:
        """Run with the real time."""
        self._skew = timedelta(0)
        self._standing: datetime | None = None
        self._last = datetime.min.replace(tzinfo=UTC)

    def set(self, now: datetime) -> None:
        """Stand still at `now`, but for the ticks of stamps."""
        self._standing = self._last = now - _TICK

    def skew(self, seconds: float) -> None:
        """Run, `seconds` ahead of the real time."""
        self._standing, self._skew = None, timedelta(seconds=seconds)
        self._last = datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        """The system's time, cut to milliseconds; never before the last stamp."""
        now = self._standing or datetime.fromtimestamp(self._real(), UTC) + self._skew
        return max(now.replace(microsecond=now.microsecond // 1000 * 1000), self._last)

    def stamp(self, *, again: bool = False) -> datetime:
        """A time for a changed record, later than any before; with `again` the last one once more."""
        if not again:
            self._last = max(self.now(), self._last + _TICK)
        return self._last
