"""One of their clocks that is far ahead neither wins for ever nor makes all that follows look old."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from streams.rules import clocks
from streams.rules.clock_errors import Measured
from streams.rules.conflicts import decide
from streams.rules.sides import Agreed, Kind, Ours, Terms, Theirs

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def theirs(document, minutes, **more) -> Theirs:
    return Theirs(document, at(minutes), at(minutes), **more)


def test_a_time_that_was_put_right_is_off_by_the_doubt_alone():
    assert Measured(timedelta(minutes=60), timedelta(minutes=61)).doubt == timedelta(minutes=1)
    assert Measured(timedelta(minutes=-60), timedelta(minutes=61)).doubt == timedelta(minutes=1)
    assert Measured(timedelta(minutes=5), timedelta()).doubt == timedelta()


def test_a_time_far_in_the_future_counts_as_five_minutes_from_its_receipt():
    assert clocks.bounded(at(60), at(0)) == at(5)
    assert clocks.bounded(at(5), at(0)) == at(5)
    assert clocks.bounded(at(-60), at(0)) == at(-60)


@pytest.mark.parametrize(
    ("known", "event", "received", "error", "reason"),
    [
        (90_000, 6, 6, 0, "newer_there"),  # one event of a mad clock does not make all that follow old
        (90_000, 64, 4, 60, "newer_there"),  # nor does it where the clock is an hour ahead, which is known
        (64, 63, 4, 60, "stale"),  # two events of a clock an hour ahead, in the wrong order
        (64, 63, 4, 0, "stale"),
        (8, 7, 6, 0, "stale"),  # a little ahead is as right as any
    ],
)
def test_a_clock_that_was_set_right_is_believed(known, event, received, error, reason):
    told = theirs({"a": "t"}, event, received_at=at(received))
    agreed = Agreed({"a": "b"}, at=at(known))
    decision = decide(Ours({"a": "b"}, at(0)), told, agreed, Terms(clock_error=timedelta(minutes=error)))
    assert decision.reason == reason


def test_a_mad_clock_does_not_win_for_ever():
    mad = at(10**6)
    first = Theirs({"a": "mad"}, mad, clocks.bounded(mad, at(1)), received_at=at(1))
    taken = decide(Ours({"a": "mine"}, at(0)), first, Agreed({"a": "b"}, at=START), Terms())
    assert taken.write == {"a": "mad"}
    edited = Ours({"a": "again"}, at(10))
    kept = decide(edited, theirs({"a": "normal"}, 8, received_at=at(8)), Agreed(taken.base, at=mad), Terms())
    assert (kept.kind, kept.losers[0].theirs) == (Kind.KEEP, "normal")
