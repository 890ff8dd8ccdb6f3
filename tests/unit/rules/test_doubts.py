"""Which unknown records wait for the answer to a create of ours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.rules.doubts import ANY_WITHIN, CLOCKS_APART, Doubt, Doubts

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SENT = {"first_name": "Ann", "last_name": "Lee", "birth_date": None, "email/e1": {"address": "ann@example.org"}}
OLD = NOW - ANY_WITHIN


def waits(since: datetime, theirs: dict, received_at: datetime = NOW) -> list[str]:
    return Doubts([Doubt("person_1", SENT, since)], NOW).of(theirs, received_at)


@pytest.mark.parametrize(
    ("since", "theirs", "expected"),
    [
        (NOW - timedelta(seconds=1), {"first_name": "Bob"}, ["person_1"]),
        (NOW - timedelta(seconds=1), {}, ["person_1"]),
        (NOW + CLOCKS_APART, {"first_name": "Bob"}, ["person_1"]),
        (NOW + CLOCKS_APART + timedelta(seconds=1), {"first_name": "Ann", "last_name": "Lee"}, []),
        (OLD, {"first_name": "Ann", "last_name": "Lee"}, ["person_1"]),
        (OLD, {"first_name": "Ann", "last_name": "Lee", "gender": "f"}, ["person_1"]),
        (OLD, {"first_name": "Ann", "last_name": "Poe"}, []),
        (OLD, {"first_name": "Ann"}, []),
        (OLD, {}, []),
    ],
    ids=[
        "a young create: any record",
        "a young create: a delete too",
        "clocks a little apart",
        "sent after we heard",
        "an old one: alike",
        "they added a field",
        "another person",
        "says too little",
        "an old one: no delete",
    ],
)
@pytest.mark.covers("F113")
def test_waits(since, theirs, expected):
    assert waits(since, theirs) == expected


def test_a_create_that_said_nothing_holds_up_nobody():
    doubts = Doubts([Doubt("person_1", {"first_name": None}, OLD)], NOW)
    assert doubts.of({"first_name": "Ann"}, NOW) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=8))
def test_an_old_create_is_met_by_exactly_the_records_that_say_the_same(people):
    doubts = Doubts([Doubt(f"p{n}", {"a": a, "b": b}, OLD) for n, (a, b) in enumerate(people)], NOW)
    for a in "abc":
        for b in "xyz":
            same = sorted(f"p{n}" for n, person in enumerate(people) if person == (a, b))
            assert doubts.of({"a": a, "b": b}, NOW) == same
