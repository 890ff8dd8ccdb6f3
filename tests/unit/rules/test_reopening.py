"""What an event that comes late tells of the times of what they hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from streams.rules.reopening import EVERY_OTHER, Lost, Moved, Span, noted, reopen
from streams.rules.sides import Agreed, Kind, Loser, Ours, Policy, Terms, Theirs

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def told(document, minutes: float) -> Theirs:
    return Theirs(document, at(minutes), at(minutes))


def lost(value: str, minutes: float) -> Lost:
    return Lost("f", value, at(minutes))


def late(document, minutes: float, *values: Lost, ours="X", edited=9.0, after=0.0, terms=Terms(), shared=True, **more):  # noqa: B008
    """An event that comes after they told X at 9, and something else at `after`."""
    ours = Ours({"f": ours}, at(9), edited_at={"f": at(edited)}, **more)
    spans = {"f": Span(at(after), at(9))}
    return reopen(ours, told(document, minutes), Agreed({"f": "X"}, at=at(9)), terms, spans, values, shared=shared)


@pytest.mark.covers("F058", "R11")
@pytest.mark.parametrize(
    ("values", "written", "time"),
    [
        ((), {}, 3),
        ((lost("L", 5),), {"f": "L"}, 5),
        ((lost("L", 2),), {}, 3),  # it was older in truth, too
        ((lost("L", 5), lost("M", 6), lost("K", 1)), {"f": "M"}, 6),
        ((lost("L", 5), lost("X", 9)), {"f": "L"}, 5),  # X itself, as it was believed to be
        ((lost("L", 5), lost("X", 7)), {}, 3),  # somebody else wrote the same, later than all others
        ((Lost("g", "L", at(5)),), {}, 3),  # another field
    ],
)
def test_a_value_that_was_there_earlier_gives_way_to_what_is_newer_in_truth(values, written, time):
    found = late({"f": "X"}, 3, *values)
    decision = found.decision
    assert (decision.write, decision.times, decision.remote_needs_correction) == (
        written,
        {"f": at(time)},
        bool(written),
    )
    assert (found.spans, found.moved) == ({"f": Span(at(0), at(3))}, (Moved("f", "X", at(9), at(3)),))
    expected = [Loser("f", "X", value, "X", "ours", "written_earlier") for value in written.values()]
    assert list(decision.losers) == expected
    assert (decision.kind, decision.hidden, decision.base) == (Kind.KEEP, True, {"f": "X"})


@pytest.mark.parametrize("terms", [Terms(policy) for policy in Policy if policy is not Policy.LWW] + [
    Terms(protected=frozenset("f")), Terms(fields={"f": Policy.LOCAL}), Terms(tolerance=timedelta(minutes=2))
])  # fmt: skip
def test_only_what_was_decided_by_time_is_decided_again(terms):
    assert late({"f": "X"}, 3, lost("L", 5), terms=terms).decision.write == {}


@pytest.mark.parametrize("more", [{"ours": "Y"}, {"edited": 8.0}])
def test_a_value_that_is_not_theirs_keeps_its_time(more):
    """Even where it is the same: a user of ours wrote it at a time of their own."""
    found = late({"f": "X"}, 3, lost("L", 5), **more)
    assert (found.decision.kind, found.decision.reason, found.spans["f"].by) == (Kind.DROP, "stale", at(3))


def test_they_held_something_else_in_between():
    assert late({"f": "X"}, 3, lost("L", 5), after=4) is None
    found = late({"f": "W"}, 4, lost("L", 5))
    assert (found.decision.kind, found.spans, found.moved) == (Kind.DROP, {"f": Span(at(4), at(9))}, ())


def test_nothing_is_written_for_a_time_that_nobody_will_ask_for():
    assert late({"f": "X"}, 3, shared=False) is None
    assert late({"f": "X"}, 3, lost("L", 5), shared=False).decision.write == {"f": "L"}


@pytest.mark.parametrize(
    ("document", "minutes", "more"),
    [({"f": "X"}, 9, {}), ({"f": "X"}, 12, {}), ({"g": 1}, 3, {}), ({"f": "X"}, 3, {"deleted": True})],
)
def test_what_tells_nothing_new(document, minutes, more):
    assert late(document, minutes, lost("L", 5), **more) is None


def test_spans_are_noted_of_what_changes():
    first = noted({}, {"a": 1, "b": 1}, None, None, at(1))
    assert first == {EVERY_OTHER: Span(None, at(1))}
    second = noted(first, {"a": 2, "b": 1, "email/e1": {"address": "x"}}, {"a": 1, "b": 1}, at(1), at(4))
    assert second == first | {"a": Span(at(1), at(4))}
