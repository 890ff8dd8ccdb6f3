"""Who wins by type and field: what is chosen, and what resolvers make of two values."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import registry
from schemas import model as models
from schemas.problems import Problem
from streams import choice_checks, merging
from streams.rules import policies, resolvers
from streams.rules.conflicts import decide
from streams.rules.sides import Agreed, Kind, Ours, Policy, Terms, Theirs, merged

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MANIFEST = registry.find("sim-keyed").manifest
PERSON = models.load()["person"]


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def theirs(document, minutes=5.0, **more) -> Theirs:
    given = {"written_at": at(minutes), "received_at": at(minutes)} | more
    return Theirs(document, at(minutes), **given)


def terms(chosen=None, default="lww", **more) -> Terms:
    return Terms(**policies.of_type(default, chosen or {}, merging.find), **more)


# by type and field --------------------------------------------------------------------------------------------------


@pytest.mark.covers("F055", "F056", "F057")
@pytest.mark.parametrize(
    ("chosen", "value", "losers", "kind"),
    [
        ({}, "theirs", [("theirs", "last_write")], Kind.TAKE),
        ({"policy": "local"}, "ours", [("ours", "policy")], Kind.KEEP),
        ({"policy": "local", "fields": {"a": "remote"}}, "theirs", [("theirs", "policy")], Kind.TAKE),
        ({"fields": {"a": "manual"}}, "ours", [], Kind.ASK),
        ({"policy": "manual", "fields": {"a": "lww"}}, "theirs", [("theirs", "last_write")], Kind.TAKE),
        ({"fields": {"a": "merge"}}, "theirs", [("theirs", "merge")], Kind.TAKE),
        ({"fields": {"a": "merge"}, "resolver": "min"}, "ours", [("ours", "merge")], Kind.KEEP),
        ({"fields": {"a": "merge:concat"}}, "ours\ntheirs", [("neither", "merge")], Kind.MERGE),
        ({"policy": "merge", "resolver": "concat"}, "ours\ntheirs", [("neither", "merge")], Kind.MERGE),
    ],
)
def test_each_field_has_its_policy(chosen, value, losers, kind):
    mine = Ours({"a": "ours", "b": 1}, at(1))
    decision = decide(mine, theirs({"a": "theirs", "b": 1}), Agreed({"a": "base", "b": 1}, at=START), terms(chosen))
    assert merged(mine.document, decision.write)["a"] == value
    assert [(loser.winner, loser.rule) for loser in decision.losers] == losers
    assert decision.kind is kind
    assert decision.remote_needs_correction is (value != "theirs" and kind is not Kind.ASK)


@pytest.mark.covers("F056")
@pytest.mark.parametrize(("mine", "event"), [("kept", None), (None, "kept")])
def test_a_value_on_one_side_only_is_kept(mine, event):
    decision = decide(Ours({"a": mine}, at(1)), theirs({"a": event}), Agreed({"a": "b"}, at=START), terms({}, "merge"))
    assert merged({"a": mine}, decision.write)["a"] == "kept"
    assert len(decision.losers) == 1


@pytest.mark.covers("F056")
def test_a_resolver_is_told_the_field_both_values_and_both_times():
    told = []

    def resolver(*given):
        told.append(given)
        return given[1]

    merging_terms = Terms(Policy.MERGE, resolvers={"": resolver})
    mine = Ours({"a": "m"}, at(9), edited_at={"a": at(2)})
    decide(mine, theirs({"a": "t"}), Agreed({"a": "b"}, at=START), merging_terms)
    assert told == [("a", "m", "t", at(2), at(5))]


@pytest.mark.parametrize("resolver", [lambda *_: 1 / 0, lambda *_: {1, 2}, lambda *_: float, lambda: None])
def test_a_resolver_that_makes_nothing_of_them_leaves_it_to_a_person(resolver):
    decision = decide(
        Ours({"a": "m"}, at(1)),
        theirs({"a": "t"}),
        Agreed({"a": "b"}, at=START),
        Terms(Policy.MERGE, resolvers={"": resolver}),
    )
    assert (decision.kind, decision.write, decision.remote_needs_correction) == (Kind.ASK, {}, False)
    assert [(q.ours, q.theirs, q.rule) for q in decision.questions] == [("m", "t", "unresolved")]


def test_a_resolver_makes_no_part_of_something_else():
    held = {"email/1": {"address": "m"}}
    for made, kind in (("text", Kind.ASK), ({"other": 1}, Kind.ASK), ({"address": "both"}, Kind.MERGE)):
        decision = decide(
            Ours({"a": 1} | held, at(1)),
            theirs({"a": 1, "email/1": {"address": "t"}}),
            Agreed({"a": 1, "email/1": {"address": "b"}}, at=START),
            Terms(Policy.MERGE, resolvers={"": lambda *_, made=made: made}),
        )
        assert decision.kind is kind


def test_protected_fields_ask_whatever_the_policy():
    for policy in Policy:
        decision = decide(
            Ours({"a": 1, "b": 2}, at(9)),
            theirs({"a": 2, "b": 3}),
            Agreed({"a": 0, "b": 2}, at=START),
            Terms(policy, protected=frozenset({"a"})),
        )
        assert [q.field for q in decision.questions] == ["a"]
        assert "a" not in decision.write


@pytest.mark.covers("F055", "F058")
@pytest.mark.parametrize(
    ("mine_at", "mine", "event", "result"),
    [
        # two people changed two fields: field by field both survive, by record the later writer's record does
        (9, {"a": "m", "b": 0}, {"a": 0, "b": "t"}, {"a": "m", "b": 0}),
        (1, {"a": "m", "b": 0}, {"a": 0, "b": "t"}, {"a": 0, "b": "t"}),
        # only one side changed the record: no clock is asked
        (9, {"a": 0, "b": 0}, {"a": 0, "b": "t"}, {"a": 0, "b": "t"}),
        (1, {"a": "m", "b": 0}, {"a": 0, "b": 0}, {"a": "m", "b": 0}),
    ],
)
def test_by_record_the_later_writer_takes_all_of_it(mine_at, mine, event, result):
    decision = decide(
        Ours(mine, at(mine_at)), theirs(event), Agreed({"a": 0, "b": 0}, at=START), terms({}, "lww_record")
    )
    assert merged(mine, decision.write) == result
    lost = {(loser.field, loser.ours if loser.winner == "theirs" else loser.theirs) for loser in decision.losers}
    either = mine.items() | event.items()
    assert lost == {(k, v) for k, v in either - result.items() if v != 0}


def test_a_field_with_its_own_policy_is_no_part_of_the_record():
    chosen = {"policy": "lww_record", "fields": {"c": "lww"}}
    mine, event = {"a": "m", "b": 0, "c": 0}, {"a": 0, "b": "t", "c": "t"}
    decision = decide(Ours(mine, at(9)), theirs(event), Agreed({"a": 0, "b": 0, "c": 0}, at=START), terms(chosen))
    assert merged(mine, decision.write) == {"a": "m", "b": 0, "c": "t"}


@pytest.mark.covers("F060")
@pytest.mark.parametrize(("edited", "base", "result"), [(-9, None, "t"), (9, None, "m"), (-9, {"a": "b"}, "m")])
def test_in_the_initial_sync_theirs_wins_over_what_was_edited_before_it(edited, base, result):
    decision = decide(
        Ours({"a": "m"}, at(edited)), theirs({"a": "t"}, -20), Agreed(base, at=at(-30)), Terms(since=START)
    )
    assert merged({"a": "m"}, decision.write)["a"] == result


@pytest.mark.covers("F055", "R11")
@pytest.mark.parametrize(
    ("ties", "version", "result"),
    [(None, "1", "m"), (None, "9", "t"), (None, None, "t"), ("ours", "9", "m"), ("theirs", "1", "t")],
)
def test_what_was_written_at_once_goes_by_priority_then_version_then_theirs(ties, version, result):
    close = terms({"ties": ties} if ties else {}, tolerance=timedelta(minutes=5))
    for minutes in (0, 5, 10):
        mine = Ours({"a": "m"}, at(minutes), version=4)
        decision = decide(mine, theirs({"a": "t"}, version=version), Agreed({"a": "b"}, at=START), close)
        assert merged({"a": "m"}, decision.write)["a"] == result


# resolvers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ours", "other", "made"),
    [
        ("newest", "a", "b", "b"),
        ("longest", "abc", "b", "abc"),
        ("longest", "abc", "xyz", "xyz"),
        ("longest", [1, 2], [3], [1, 2]),
        ("max", 2, 10, 10),
        ("max", "2026-01-02", "2026-01-01", "2026-01-02"),
        ("min", 2, 10, 2),
        ("union", [1, 2], [2, 3], [1, 2, 3]),
        ("concat", "a\nb", "b\nc", "a\nb\nc"),
        ("max", 2, "10", None),
        ("max", True, False, None),
        ("union", "ab", ["c"], None),
        ("concat", 1, 2, None),
        ("longest", 1, 2, None),
    ],
)
def test_resolvers(name, ours, other, made):
    found = resolvers.resolve(merging.find(name), "a", ours, other, at(1), at(5))
    assert found == (made, made is not None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)


@given(st.sampled_from(sorted(resolvers.BUILT_IN)), JSON, JSON, st.integers(0, 9))
def test_every_pair_of_values_has_an_answer_and_merging_again_changes_nothing(name, ours, other, minutes):
    resolver = merging.find(name)
    made, done = resolvers.resolve(resolver, "a", ours, other, at(minutes), at(5))
    if done:
        json.dumps(made)
        again, sure = resolvers.resolve(resolver, "a", made, other, at(max(minutes, 5)), at(5))
        assert not sure or again in (made, other)


def test_a_resolver_of_another_package_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(merging, "entry_points", _entry_points)
    merging.find.cache_clear()
    assert merging.find("theirs-first")("a", 1, 2, START, START) == 2
    assert "theirs-first" in merging.names()
    with pytest.raises(Problem, match="nowhere"):
        merging.find("broken")
    merging.find.cache_clear()


class _Named:
    def __init__(self, name, value, loaded):
        self.name, self.value, self._loaded = name, value, loaded

    def load(self):
        if self._loaded is None:
            raise ImportError(self.value)
        return self._loaded


def _entry_points(group, name=None):
    assert group == "syncline.resolvers"
    found = [_Named("theirs-first", "x:y", lambda _f, _o, theirs, *_: theirs), _Named("broken", "nowhere:f", None)]
    return [each for each in found if name in (None, each.name)]


# choices ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"persona": {"policy": "lww"}}, "type_not_taken"),
        ({"person": {"polcy": "lww"}}, "policy_invalid"),
        ({"person": {"policy": "newest"}}, "policy_invalid"),
        ({"person": {"policy": None}}, "policy_invalid"),
        ({"person": {"fields": {"color": "lww"}}}, "policy_invalid"),
        ({"person": {"fields": {"gender": "lww:newest"}}}, "policy_invalid"),
        ({"person": {"fields": {"gender": "merge:"}}}, "policy_invalid"),
        ({"person": {"fields": {"gender": "merge:best"}}}, "resolver_unknown"),
        ({"person": {"resolver": "best"}}, "resolver_unknown"),
        ({"person": {"ties": "mine"}}, "policy_invalid"),
    ],
)
def test_what_cannot_be_chosen_is_said(given, code):
    with pytest.raises(Problem) as refused:
        choice_checks.check_policies(MANIFEST, given)
    assert refused.value.code == code
    assert refused.value.next_step


def test_what_can_be_chosen_is_kept():
    chosen = {"policy": "lww_record", "fields": {"gender": "remote", "email": "merge:longest"}, "ties": "ours"}
    assert choice_checks.check_policies(MANIFEST, {"person": chosen, "household": {}}) == {"person": chosen}
    found = terms(chosen)
    assert [found.policy_of(key) for key in ("first_name", "gender", "email/email_1")] == [
        Policy.LWW_RECORD,
        Policy.REMOTE,
        Policy.MERGE,
    ]
    assert found.resolver_of("email/email_1") is resolvers.longest
