"""Who wins: tables for what the rules say, properties for what they promise of every state."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.rules.conflicts import decide
from streams.rules.field_conflicts import compare_versions
from streams.rules.mapping import differences
from streams.rules.sides import Agreed, Kind, Ours, Over, Policy, Terms, Theirs, merged

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def ours(document, minutes=0.0, **more) -> Ours:
    return Ours(document, at(minutes), **more)


def theirs(document, minutes=0.0, **more) -> Theirs:
    return Theirs(document, at(minutes), at(minutes), **more)


def agreed(base, minutes=0.0, **more) -> Agreed:
    return Agreed(base, at=at(minutes), **more)


# a) dominated -----------------------------------------------------------------------------------------------------


@pytest.mark.covers("F059")
@pytest.mark.parametrize(
    ("event", "known", "reason"),
    [
        (theirs({"a": 2}, 1), agreed({"a": 1}, 2), "stale"),
        (theirs({"a": 1}, 2), agreed({"a": 1}, 2), "duplicate"),
        (theirs({"a": 2}, 2), agreed({"a": 1}, 2), ""),
        (theirs({"a": 2}, 3), agreed({"a": 1}, 2), ""),
        (theirs({"a": 2}, 3), Agreed({"a": 1}), ""),
        # Their counter is asked before their clock, which may have been set back.
        (theirs({"a": 2}, 1, version="8"), agreed({"a": 1}, 2, version="7"), ""),
        (theirs({"a": 2}, 3, version="6"), agreed({"a": 1}, 2, version="7"), "stale"),
        (theirs({"a": 2}, 1, version='W/"x"'), agreed({"a": 1}, 2, version='W/"y"'), "stale"),
        # One instant, nothing to count by: the one that reached us later is the later one, whoever comes first now.
        (theirs({"a": 2}, 2, received_at=at(5)), agreed({"a": 1}, 2, received_at=at(6)), "stale"),
        (theirs({"a": 2}, 2, received_at=at(7)), agreed({"a": 1}, 2, received_at=at(6)), ""),
    ],
)
def test_old_and_repeated_events_are_dropped(event, known, reason):
    decision = decide(ours({"a": 1}), event, known, Terms())
    assert (decision.reason if decision.kind is Kind.DROP else "") == reason


# b) to d) -----------------------------------------------------------------------------------------------------------


@pytest.mark.covers("F055", "F058", "C2")
@pytest.mark.parametrize(
    ("base", "mine", "mine_at", "event", "kind", "result", "rule", "correct"),
    [
        ("A", "A", 9, theirs({"f": "B"}, 5), Kind.TAKE, "B", None, False),  # only they: no clock is asked
        ("A", "B", 1, theirs({"f": "A"}, 5), Kind.KEEP, "B", None, True),  # only we
        ("A", "B", 1, theirs({"f": "B"}, 5), Kind.KEEP, "B", None, False),  # the same edit on both sides
        ("A", "B", 1, theirs({"f": "C"}, 5), Kind.TAKE, "C", "last_write", False),
        ("A", "B", 9, theirs({"f": "C"}, 5), Kind.KEEP, "B", "last_write", True),
        ("A", "B", 5, theirs({"f": "C"}, 5, version="8"), Kind.TAKE, "C", "higher_version", False),
        ("A", "B", 5, theirs({"f": "C"}, 5, version="6"), Kind.KEEP, "B", "higher_version", True),
        ("A", "B", 5, theirs({"f": "C"}, 5, version="7"), Kind.TAKE, "C", "remote_on_tie", False),
        ("A", "B", 5, theirs({"f": "C"}, 5, version="etag"), Kind.TAKE, "C", "remote_on_tie", False),
        ("A", "A", 0, theirs({"f": None}, 5), Kind.TAKE, None, None, False),  # empty is a value
        ("A", "A", 0, theirs({}, 5), Kind.KEEP, "A", None, False),  # absent says nothing
    ],
)
def test_a_field(base, mine, mine_at, event, kind, result, rule, correct):
    decision = decide(ours({"f": mine}, mine_at, version=7), event, agreed({"f": base}), Terms())
    assert (decision.kind, merged({"f": mine}, decision.write)["f"]) == (kind, result)
    assert [loser.rule for loser in decision.losers] == ([rule] if rule else [])
    assert decision.remote_needs_correction is correct
    assert decision.base["f"] == event.document.get("f", base)


@pytest.mark.covers("F055", "T6")
def test_empty_values_are_values():
    decision = decide(
        ours({"a": 0, "b": "", "c": False}, 9),
        theirs({"a": 5, "b": "x", "c": True}, 5),
        agreed({"a": 1, "b": "y", "c": None}),
        Terms(),
    )
    assert decision.kind is Kind.KEEP
    assert {(loser.field, loser.ours) for loser in decision.losers} == {("a", 0), ("b", ""), ("c", False)}


def test_two_edits_of_different_fields_both_survive():
    decision = decide(
        ours({"a": "mine", "b": 1}, 9), theirs({"a": 0, "b": "theirs"}, 5), agreed({"a": 0, "b": 1}), Terms()
    )
    assert (decision.kind, decision.write, decision.losers) == (Kind.MERGE, {"b": "theirs"}, ())
    assert decision.remote_needs_correction


@pytest.mark.covers("F057")
@pytest.mark.parametrize(
    ("policy", "kind", "write", "rules"),
    [
        (Policy.LWW, Kind.MERGE, {"b": 22}, []),
        (Policy.LOCAL, Kind.MERGE, {"b": 22}, ["policy"]),
        (Policy.REMOTE, Kind.TAKE, {"a": 12, "b": 22}, ["policy"]),
        (Policy.MANUAL, Kind.ASK, {"b": 22}, []),
        (Policy.LWW_RECORD, Kind.KEEP, {}, ["last_write", "last_write"]),
    ],
)
def test_policies_decide_only_what_both_changed(policy, kind, write, rules):
    decision = decide(
        ours({"a": 11, "b": 20}, 9), theirs({"a": 12, "b": 22}, 5), agreed({"a": 10, "b": 20}), Terms(policy)
    )
    assert (decision.kind, decision.write) == (kind, write)
    assert [loser.rule for loser in decision.losers] == (rules or (["last_write"] if policy is Policy.LWW else []))
    assert [q.field for q in decision.questions] == (["a"] if policy is Policy.MANUAL else [])


def test_the_whole_record_goes_to_the_later_write():
    decision = decide(
        ours({"a": 11, "b": 21}, 1), theirs({"a": 12, "b": 20}, 5), agreed({"a": 10, "b": 20}), Terms(Policy.LWW_RECORD)
    )
    assert decision.write == {"a": 12, "b": 20}
    assert {(loser.field, loser.ours) for loser in decision.losers} == {("a", 11), ("b", 21)}


def test_a_protected_field_waits_for_a_person_and_is_not_overwritten_there():
    decision = decide(
        ours({"national_id": "N1", "b": 1}, 9),
        theirs({"national_id": "N2", "b": 2}, 5),
        agreed({"national_id": "N0", "b": 1}),
        Terms(protected=frozenset({"national_id"})),
    )
    assert (decision.kind, decision.write, decision.remote_needs_correction) == (Kind.ASK, {"b": 2}, False)
    assert [(q.field, q.base, q.ours, q.theirs, q.rule) for q in decision.questions] == [
        ("national_id", "N0", "N1", "N2", "protected")
    ]


def test_a_fast_clock_does_not_win_for_ever():
    event = Theirs({"f": "C"}, at(60), written_at=at(5))
    assert decide(ours({"f": "B"}, 9), event, agreed({"f": "A"}), Terms()).kind is Kind.KEEP


def test_within_the_tolerance_times_are_equal():
    close = Terms(tolerance=timedelta(minutes=5))
    assert decide(ours({"f": "B"}, 9), theirs({"f": "C"}, 5), agreed({"f": "A"}), close).write == {"f": "C"}


# an event that our own last push overtook ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine_at", "event_at", "result", "correct"),
    [
        (6, 5, "mine", True),  # it happened before our push: the later write stays, and is sent again
        (4, 5, "old", True),  # they wrote later than we did: theirs, but they hold our push, so it goes back
        (6, 11, "old", False),  # after our push: plainly newer
    ],
)
def test_a_delayed_event_does_not_revert_our_push(mine_at, event_at, result, correct):
    known = Agreed({"f": "mine"}, at=at(1), pushed_at=at(10))
    decision = decide(ours({"f": "mine"}, mine_at), theirs({"f": "old"}, event_at), known, Terms())
    after = merged({"f": "mine"}, decision.write)
    assert (after["f"], decision.remote_needs_correction) == (result, correct)
    assert bool(differences(after, decision.base)) is correct, "the dispatcher compares with the base"


def test_our_push_coming_back_before_its_answer_does_not_revert_a_newer_edit():
    known = agreed({"f": "A"}, in_flight={"f": "pushed"})
    decision = decide(ours({"f": "newer"}, 5), theirs({"f": "pushed"}, 6), known, Terms())
    assert (decision.kind, decision.write, decision.losers) == (Kind.KEEP, {}, ())
    assert decision.base == {"f": "pushed"}


# parts --------------------------------------------------------------------------------------------------------------

ANN, BOB = {"address": "ann@example.org"}, {"address": "bob@example.org"}


@pytest.mark.parametrize(
    ("base", "mine", "event", "write", "correct"),
    [
        ({}, {}, {"email/1": ANN}, {"email/1": ANN}, False),  # they added one
        ({}, {"email/1": ANN}, {"email/1": None}, {}, True),  # we added one, they never had it
        ({"email/1": ANN}, {"email/1": ANN}, {"email/1": None}, {"email/1": None}, False),  # they removed one
        ({"email/1": ANN}, {}, {"email/1": ANN}, {}, True),  # we removed one
        ({"email/1": ANN}, {}, {"email/1": None}, {}, False),  # both did
        ({"email/1": ANN}, {"email/1": ANN}, {"email/1": BOB}, {"email/1": BOB}, False),
    ],
)
def test_parts_are_units(base, mine, event, write, correct):
    root = {"f": 1}
    decision = decide(ours(root | mine), theirs(root | event, 5), agreed(root | base), Terms())
    assert (decision.write, decision.remote_needs_correction) == (write, correct)
    assert decision.base == merged(root | base, event)


def test_a_part_we_removed_does_not_come_back_with_a_delayed_event():
    known = Agreed({"f": 1}, at=at(0), pushed_at=at(10))
    removed = ours({"f": 1}, 0, edited_at={"email/1": at(8)})
    late = theirs({"f": 1, "email/1": ANN}, 5)
    assert decide(removed, late, known, Terms()).write == {}


# no base, first meeting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mine_at", "write"), [(9, {"email/2": BOB}), (1, {"a": 2, "b": 2, "email/2": BOB})])
def test_without_a_base_the_later_record_wins_and_nobody_loses_a_part(mine_at, write):
    mine = {"a": 1, "b": 1, "c": 3, "email/1": ANN}
    decision = decide(
        ours(mine, mine_at), theirs({"a": 2, "b": 2, "c": 3, "email/1": None, "email/2": BOB}, 5), Agreed(), Terms()
    )
    assert decision.write == write
    assert {loser.field for loser in decision.losers} == {"a", "b"}
    assert decision.remote_needs_correction


@pytest.mark.covers("F056")
@pytest.mark.parametrize(("mine", "event", "write", "correct"), [("f", None, {}, True), (None, "f", {"b": "f"}, False)])
def test_of_a_field_never_agreed_on_a_value_on_one_side_is_kept(mine, event, write, correct):
    decision = decide(ours({"a": 1, "b": mine}, 1), theirs({"a": 1, "b": event}, 5), agreed({"a": 1}), Terms())
    assert (decision.write, decision.losers, decision.remote_needs_correction) == (write, (), correct)


@pytest.mark.covers("F130")
def test_a_new_record_is_taken_whole():
    decision = decide(None, theirs({"a": 1, "b": None, "email/1": ANN}), Agreed(), Terms())
    assert (decision.kind, decision.write) == (Kind.TAKE, {"a": 1, "email/1": ANN})
    assert decision.base == {"a": 1, "b": None, "email/1": ANN}


def test_a_reference_they_cannot_hold_is_not_emptied():
    hidden = ours({"a": 1}, 0, hidden={"household_id": "household_1"})
    decision = decide(hidden, theirs({"a": 1, "household_id": None}, 5), agreed({"a": 1}), Terms())
    assert (decision.kind, decision.write, decision.remote_needs_correction) == (Kind.KEEP, {}, False)
    other = decide(hidden, theirs({"a": 1, "household_id": "household_2"}, 5), agreed({"a": 1}), Terms())
    assert [(loser.ours, loser.theirs) for loser in other.losers] == [("household_1", "household_2")]


# deletes ------------------------------------------------------------------------------------------------------------

GONE = theirs({}, 5, deleted=True)


@pytest.mark.covers("T16", "C10")
@pytest.mark.parametrize(
    ("policy", "mine", "known", "kind", "delete", "correct"),
    [
        ("ignore", ours({"a": 1}), agreed({"a": 1}), Kind.KEEP, False, False),
        ("archive", ours({"a": 1}), agreed({"a": 1}), Kind.TAKE, True, False),
        ("delete", ours({"a": 1}, 9), agreed({"a": 1}), Kind.TAKE, True, False),
        ("delete", ours({"a": 2}, 1), agreed({"a": 1}), Kind.TAKE, True, False),
        ("delete", ours({"a": 2}, 9), agreed({"a": 1}), Kind.KEEP, False, True),  # edited here since
        ("delete", ours({"a": 1, "b": None}, 9), agreed({"a": 1}), Kind.TAKE, True, False),  # they never mentioned b
        ("delete", ours({"a": 1}), agreed({"a": 1}, 6), Kind.DROP, False, False),  # older than what we know
        ("delete", ours({"a": 1}, deleted=True), agreed({"a": 1}), Kind.KEEP, False, False),
        ("delete", None, Agreed(), Kind.KEEP, False, False),
    ],
)
def test_deletes_follow_the_connection(policy, mine, known, kind, delete, correct):
    decision = decide(mine, GONE, known, Terms(delete=policy))
    assert (decision.kind, decision.delete, decision.remote_needs_correction) == (kind, delete, correct)


def test_a_delete_that_a_person_shall_decide_is_asked():
    decision = decide(ours({"a": 2}, 1), GONE, agreed({"a": 1}), Terms(Policy.MANUAL, delete="delete"))
    assert (decision.kind, [q.field for q in decision.questions]) == (Kind.ASK, ["deleted_at"])


def test_what_was_deleted_here_stays_deleted_and_what_was_deleted_there_can_return():
    event = theirs({"a": 2}, 5)
    here = decide(ours({"a": 1}, deleted=True), event, agreed({"a": 1}), Terms())
    assert (here.kind, here.reason, here.write) == (Kind.KEEP, "deleted_here", {})
    assert [(loser.field, loser.theirs, loser.winner) for loser in here.losers] == [("a", 2, "ours")]
    there = decide(ours({"a": 1}, deleted=True, deleted_there=True), event, agreed({"a": 1}), Terms())
    assert (there.kind, there.write, there.revive) == (Kind.TAKE, {"a": 2}, True)


# promises -----------------------------------------------------------------------------------------------------------

VALUES = st.sampled_from([None, "", 0, 1, "x", "y"])
PARTS = st.one_of(st.none(), st.fixed_dictionaries({"address": st.sampled_from(["ann", "bob", None])}))
DOCUMENTS = st.fixed_dictionaries({}, optional={"a": VALUES, "b": VALUES, "email/1": PARTS, "email/2": PARTS})
MINUTES = st.integers(0, 6)
VERSIONS = st.sampled_from([None, "1", "2", "etag"])
POLICIES = st.sampled_from(list(Policy))
TERMS = st.builds(
    Terms,
    policy=POLICIES,
    protected=st.sampled_from([frozenset(), frozenset({"a"}), frozenset({"email"})]),
    delete=st.sampled_from(["ignore", "archive", "delete"]),
)


@st.composite
def states(draw):
    # Ours has every field, be it empty; parts that are not there are missing.
    document = merged({"a": None, "b": None}, draw(DOCUMENTS))
    mine = Ours(
        document,
        at(draw(MINUTES)),
        draw(st.integers(1, 3)),
        edited_at={key: at(draw(MINUTES)) for key in document if "/" in key},
        deleted=(deleted := draw(st.booleans()) and draw(st.booleans())),
        deleted_there=deleted and draw(st.booleans()),
    )
    base = draw(st.one_of(st.none(), DOCUMENTS))
    known = Agreed(
        None if base is None else {k: v for k, v in base.items() if v is not None or "/" not in k},
        draw(VERSIONS),
        draw(st.one_of(st.none(), MINUTES.map(at))),
        draw(st.one_of(st.none(), MINUTES.map(at))),
        draw(st.one_of(st.none(), MINUTES.map(at))),
        draw(DOCUMENTS),
    )
    when = at(draw(MINUTES))
    event = Theirs(
        draw(DOCUMENTS), when, when, draw(VERSIONS), at(draw(MINUTES)), draw(st.booleans()) and draw(st.booleans())
    )
    return draw(st.one_of(st.none(), st.just(mine))), event, known, draw(TERMS)


def value(document, key):
    return document.get(key)


@pytest.mark.covers("F055", "F056")
@given(states())
def test_every_state_has_an_answer_and_every_loser_a_name(state):
    mine, event, known, terms = state
    decision = decide(mine, event, known, terms)
    if mine is None or decision.kind is Kind.DROP or event.deleted:
        return
    result, base = merged(mine.document, decision.write), known.base or {}
    lost = {(loser.field, loser.winner) for loser in decision.losers}
    asked = {question.field for question in decision.questions}
    for key, their_value in event.document.items():
        own = value(mine.document, key)
        nothing_agreed = key not in base
        if value(result, key) != own and key in mine.document and not (nothing_agreed and own is None):
            assert (key, "theirs") in lost or (known.base and value(base, key) == own), key
        if value(result, key) != their_value:
            assert (
                (key, "ours") in lost
                or key in asked
                or value(base, key) == their_value
                or value(known.in_flight, key) == their_value
                or (nothing_agreed and their_value is None)
            ), key
    assert not asked & set(decision.write)


@given(states())
def test_deciding_again_changes_nothing(state):
    mine, event, known, terms = state
    first = decide(mine, event, known, terms)
    if mine is None or first.kind is Kind.DROP:
        return
    after = replace(
        mine,
        document=merged(mine.document, first.write),
        deleted=(mine.deleted or first.delete) and not first.revive,
        deleted_there=mine.deleted_there or first.delete,
    )
    again = decide(after, event, replace(known, base=first.base, at=None, in_flight={}, pushed_at=None), terms)
    if not first.questions:
        assert again.write == {} or not known.base
    repeated = decide(after, event, replace(known, base=first.base, at=event.at, version=event.version), terms)
    assert repeated.write == {} or known.pushed_at


@given(states())
def test_the_two_sides_agree_or_a_correction_is_due(state):
    mine, event, known, terms = state
    decision = decide(mine, event, known, terms)
    if mine is None or decision.kind is Kind.DROP or event.deleted or decision.reason == "deleted_here":
        return
    result = merged(mine.document, decision.write)
    asked = {question.field for question in decision.questions}
    differing = {k for k in differences(result, decision.base) if k in event.document} - asked
    assert bool(differing) is decision.remote_needs_correction


HISTORY = st.lists(DOCUMENTS, min_size=1, max_size=4)


@pytest.mark.covers("F054", "F059")
@given(HISTORY, st.booleans())
def test_every_order_of_arrival_ends_in_the_same_state(history, counted):
    full = [{"a": None, "b": None, "email/1": None, "email/2": None} | each for each in history]
    events = [
        Theirs(each, at(n), at(n), str(n + 1) if counted else None, at(n)) for n, each in enumerate(full, start=1)
    ]
    ends = []
    for order in itertools.permutations(events):
        mine, known = ours({"a": "start", "b": "start"}), agreed({"a": "start", "b": "start"})
        for event in order:
            decision = decide(mine, event, known, Terms())
            if decision.kind is Kind.DROP:
                continue
            assert decision.losers == ()
            mine = replace(mine, document=merged(mine.document, decision.write))
            known = replace(
                known, base=decision.base, at=event.at, version=event.version, received_at=event.received_at
            )
        ends.append((mine.document, known.base, known.at))
    assert all(end == ends[0] for end in ends)
    assert ends[0][0] == merged({}, full[-1])


def test_versions_that_are_no_counters_are_not_compared():
    assert [compare_versions(*pair) for pair in [("9", "10"), ("10", "9"), ("3", "3"), ("a", "3"), (None, "3")]] == [
        -1,
        1,
        0,
        0,
        0,
    ]


def test_a_hidden_edit_that_a_person_shall_decide_is_no_agreement():
    """What they hold of it is not known, or it would look as if both sides agreed on what we pushed."""
    push = Over({"a": 1, "b": 1}, "1", at(0), "3", at(3))
    known = Agreed({"a": "pushed", "b": 1}, "3", at(3), over=(push,))
    hidden = theirs({"a": "hidden", "b": 1}, 2, version="2")
    decision = decide(ours({"a": "pushed", "b": 1}, 1), hidden, known, Terms(protected=frozenset({"a"})))
    assert [(q.field, q.theirs) for q in decision.questions] == [("a", "hidden")]
    assert (decision.hidden, decision.base) == (True, {"b": 1})


@given(states())
def test_the_same_event_twice_is_dropped_the_second_time(state):
    mine, event, known, terms = state
    first = decide(mine, event, known, terms)
    if mine is None or first.kind is Kind.DROP or event.deleted:
        return
    after = replace(mine, document=merged(mine.document, first.write), deleted=mine.deleted and not first.revive)
    heard = replace(known, base=first.base, at=event.at, version=event.version, received_at=event.received_at)
    second = decide(after, event, heard, terms)
    unknown = differences(event.document, first.base) & event.document.keys()
    assert second.kind is Kind.DROP or unknown, "only what is not known to be there is looked at again"
    assert second.write == {} or unknown


EDITS = st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("ab"), st.integers(0, 99)), max_size=5)


@pytest.mark.covers("R11")
@given(EDITS, st.permutations(range(5)))
def test_events_of_two_systems_commute(edits, order):
    """Of each system in its order, by clocks that agree: the later edit of a field wins, whoever is heard first."""

    def end(queue) -> dict:
        mine = ours({"a": "start", "b": "start"}, 0, edited_at={"a": at(0), "b": at(0)})
        known = {name: agreed({"a": "start", "b": "start"}) for name in "xy"}
        for system, event in queue:
            decision = decide(mine, event, known[system], Terms())
            document = merged(mine.document, decision.write)
            edited = mine.edited_at | dict.fromkeys(decision.write, event.written_at)
            mine = replace(mine, document=document, edited_at=edited)
            known[system] = replace(known[system], base=decision.base, at=event.at, version=event.version)
        return mine.document

    held = {name: {"a": "start", "b": "start"} for name in "xy"}
    told: dict = {"x": [], "y": []}
    for minutes, (system, field, number) in enumerate(edits, start=1):
        held[system] = held[system] | {field: f"{system}{number}"}
        told[system].append((system, theirs(held[system], minutes, version=str(minutes))))
    straight = [*told["x"], *told["y"]]
    turns = [straight[place][0] for place in order if place < len(straight)]
    waiting = {name: iter(events) for name, events in told.items()}
    assert end([next(waiting[name]) for name in turns]) == end(straight)
