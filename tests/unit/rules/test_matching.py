from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import registry
from schemas import model as models
from schemas.entity_types import KEY_KINDS
from streams.rules import matching
from streams.rules.matching import Answer, Candidate, Match

MODEL = models.load()
PEOPLE = registry.find("sim-keyed").manifest.aggregate("people")
PERSON = MODEL["person"]
EMAIL, NATIONAL = ("email.address", "a@example.org"), ("national_id", "AB1234")


def candidate(entity_id="person_1", *keys, linked_to=None, **document) -> Candidate:
    return Candidate(entity_id, frozenset(keys or [EMAIL]), document, linked_to)


def decide(theirs, *candidates):
    found = matching.decide(PEOPLE, PERSON, theirs, candidates)
    return found.entity_id or found.doubt


@pytest.mark.covers("F113", "F129")
@pytest.mark.parametrize(
    ("theirs", "candidates", "decision"),
    [
        ({}, [], ""),
        ({}, [candidate()], "person_1"),
        ({"first_name": "Ann"}, [candidate(first_name=None)], "person_1"),
        ({"first_name": ""}, [candidate(first_name="Ann")], "person_1"),
        ({"first_name": " ANN  marie"}, [candidate(first_name="Ann Marie")], "person_1"),
        ({"first_name": "Bob"}, [candidate(first_name="Ann")], "contradiction"),
        ({"birth_date": "1990-01-01"}, [candidate(birth_date="1990-01-02")], "contradiction"),
        ({"national_id": "ab-1234"}, [candidate(national_id="AB 1234")], "person_1"),
        ({"national_id": "AB1235"}, [candidate(national_id="AB1234")], "contradiction"),
        ({"first_name": "Anna"}, [candidate("person_1", NATIONAL, first_name="Ann")], "person_1"),
        ({"first_name": "Anna"}, [candidate("person_1", NATIONAL, EMAIL, first_name="Ann")], "contradiction"),
        ({"birth_date": "1990-01-01"}, [candidate("person_1", NATIONAL, birth_date="1960-01-01")], "contradiction"),
        ({}, [candidate(linked_to="x7")], "candidate_linked"),
        ({}, [candidate("person_1"), candidate("person_2", NATIONAL)], "several_candidates"),
        ({}, [candidate("person_1"), candidate("person_2", linked_to="x7")], "several_candidates"),
    ],
)
def test_only_one_candidate_against_whom_nothing_speaks_is_taken(theirs, candidates, decision):
    assert decide(theirs, *candidates) == decision


@given(
    st.lists(st.builds(candidate, st.sampled_from(["person_1", "person_2", "person_3"])), unique_by=id), st.randoms()
)
def test_the_order_of_the_candidates_decides_nothing(candidates, dice):
    unique = list({each.entity_id: each for each in candidates}.values())
    shuffled = list(unique)
    dice.shuffle(shuffled)
    assert matching.decide(PEOPLE, PERSON, {}, unique) == matching.decide(PEOPLE, PERSON, {}, shuffled)


@pytest.mark.parametrize(
    ("kind", "one", "other", "alike"),
    [
        ("email", "ann@x.org", " Ann@X.org", True),
        ("email", "ann@x.org", "anna@x.org", False),
        ("email", "n/a", "N/A", False),
        ("email", None, None, False),
        ("email", "ann@x.org", None, False),
        ("phone", "+41 79 123 45 67", "+41791234567", True),
        ("phone", "room 1", "ext. 1", False),
        ("id", "ab-12", "AB12", True),
        ("id", "000-0", "0000", False),
    ],
)
def test_parts_are_alike_by_their_keys(kind, one, other, alike):
    assert matching.alike({"value": kind}, {"value": one}, {"value": other, "primary": True}) is alike


def test_parts_without_keys_are_never_alike():
    assert not matching.alike({}, {"street": "a"}, {"street": "a"})


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.covers("R26")
@pytest.mark.parametrize(
    ("named", "found", "decision"),
    [
        (None, None, Match()),
        ("person_1", candidate(first_name="Bob"), Match("person_1")),
        ("person_1", None, Match(doubt="decided_gone", candidates=[{"entity_id": "person_1"}])),
        (
            "person_1",
            candidate(linked_to="x7"),
            Match(doubt="candidate_linked", candidates=[{"entity_id": "person_1", "linked_to": "x7"}]),
        ),
    ],
)
def test_what_a_person_decided_holds_as_far_as_it_can_be(named, found, decision):
    assert matching.answered(Answer(named, NOON), found) == decision


def test_a_decision_is_about_the_record_until_it_was_linked_and_unlinked():
    answer = Answer(None, NOON)
    assert [answer.holds(NOON + timedelta(hours=each)) for each in (-1, 0, 1)] == [True, False, False]
    assert answer.holds(None)


KEYS = st.lists(st.sampled_from([("k", str(n)) for n in range(6)]), max_size=3)


@given(st.dictionaries(st.sampled_from("abcdef"), KEYS))
def test_of_new_records_that_share_a_key_all_but_the_first_are_twins(records):
    twins = matching.twins(records)
    for external_id, first in twins.items():
        assert list(records).index(first) < list(records).index(external_id)
        assert set(records[first]) & set(records[external_id])
    alone = [set(keys) for external_id, keys in records.items() if external_id not in twins]
    assert sum(map(len, alone)) == len(set().union(*alone))


def test_values_come_from_the_root_or_from_every_part():
    document = {"national_id": "1", "email/e1": {"address": "a"}, "email/e2": {"address": None}, "email/e3": None}
    address, national_id = PEOPLE.match
    assert matching.values(address, document) == ["a"]
    assert matching.values(national_id, document) == ["1"]
    assert matching.values(national_id, {"national_id": "a\x00"}) == []


def test_every_adapter_matches_by_columns_that_it_maps_and_that_are_keys():
    manifests = [registry.find(name).manifest for name in registry.names()]
    rules = [(aggregate, rule) for each in manifests for aggregate in each.aggregates for rule in aggregate.match]
    assert rules
    for aggregate, rule in rules:
        parts = {part.entity_type: part.fields for part in aggregate.parts}
        mapped = {field.canonical for field in parts.get(rule.part, aggregate.fields)}
        assert rule.column in mapped
        assert MODEL[rule.part or aggregate.root].field(rule.column).normalize in KEY_KINDS
        assert set(rule.agree) <= {field.canonical for field in aggregate.fields if not field.references}
