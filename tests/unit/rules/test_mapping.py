"""Field maps: rows to documents to payloads and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.fields import Aggregate, Document, Field, Part
from schemas.problems import Problem
from streams.rules import mapping

PERSON = Aggregate(
    "individual",
    "person",
    (
        Field("first_name", "firstName"),
        Field("city", "home.city"),
        Field("household_id", "householdId", references="household"),
    ),
    (Part("email", "person_id", "emails", (Field("address", "address"), Field("is_primary", "isPrimary"))),),
)
values = st.none() | st.text() | st.booleans() | st.integers()
emails = st.dictionaries(
    st.from_regex(r"email/email_[0-9a-z]{4}", fullmatch=True),
    st.fixed_dictionaries({"address": values, "is_primary": values}),
    max_size=4,
)
documents = st.builds(
    lambda plain, household, parts: {**plain, "household_id": household, **parts},
    st.fixed_dictionaries({"first_name": values, "city": values}),
    st.none() | st.from_regex(r"household_[0-9a-z]{4}", fullmatch=True),
    emails,
)


def theirs_of(entity_type: str, entity_id: str) -> str:
    return f"X-{entity_type}-{entity_id}"


def read(payload: dict[str, object], known: Document) -> Document:
    return mapping.from_payload(
        PERSON,
        payload,
        known=known,
        our_id=lambda kind, theirs: theirs.removeprefix(f"X-{kind}-") if theirs.startswith("X-") else None,
        new_id=lambda kind, place: f"{kind}_new{place}",
    )


@given(documents)
@pytest.mark.covers("F150")
def test_there_and_back_is_the_same_document(doc: Document) -> None:
    payload = mapping.to_payload(PERSON, doc, theirs_of)

    assert read(payload, {}) == doc
    assert mapping.view(PERSON, doc, theirs_of) == doc


@given(documents, documents)
def test_differences_are_none_exactly_for_equal_documents(one: Document, other: Document) -> None:
    assert mapping.differences(one, one) == frozenset()
    assert bool(mapping.differences(one, other)) == bool(mapping.differences(other, one))


def test_an_absent_list_says_nothing_and_a_present_one_says_which_parts_are_gone() -> None:
    known = {"email/email_a": {"address": "a@x", "is_primary": True}}

    assert read({"firstName": "Ann"}, known) == {"first_name": "Ann"}
    assert read({"emails": []}, known) == {"email/email_a": None}


def test_an_item_without_our_id_is_the_known_part_of_equal_content() -> None:
    known = {"email/email_a": {"address": "a@x", "is_primary": True}}
    items = [{"address": "b@x", "isPrimary": False}, {"address": "a@x", "isPrimary": True}]

    assert read({"emails": items}, known) == {
        "email/email_a": {"address": "a@x", "is_primary": True},
        "email/email_new0": {"address": "b@x", "is_primary": False},
    }


def test_an_item_that_is_alike_is_the_known_part_unless_another_is_equal() -> None:
    def alike(kind: str, one: Document, other: Document) -> bool:
        return kind == "email" and one["address"].lower() == other["address"].lower()

    def keys(*addresses: str, **more) -> dict[str, str]:
        items = [{"address": each, "isPrimary": None} for each in addresses]
        known = {"email/email_a": {"address": "a@x", "is_primary": None}}
        given = {"our_id": lambda *_: None, "new_id": lambda kind, place: f"{kind}_new{place}"}
        found = mapping.read(PERSON, {"emails": items}, known=known, **given, **more).document
        return {key: value and value["address"] for key, value in found.items()}

    assert keys("A@x") == {"email/email_a": None, "email/email_new0": "A@x"}
    assert keys("A@x", alike=alike) == {"email/email_a": "A@x"}
    assert keys("A@x", "a@x", alike=alike) == {"email/email_a": "a@x", "email/email_new0": "A@x"}
    assert keys("A@X", "A@x", alike=alike) == {"email/email_a": "A@X", "email/email_new1": "A@x"}
    taken = {("email", "7"): "email_a"}
    assert keys("A@x", alike=alike, part_ids=taken) == {"email/email_a": None, "email/email_new0": "A@x"}


def test_a_reference_they_do_not_have_is_left_out_both_ways() -> None:
    doc = {"first_name": "Ann", "household_id": "household_1"}

    assert mapping.to_payload(PERSON, doc, lambda *_: None) == {"firstName": "Ann", "emails": []}
    assert read({"householdId": "unknown"}, {}) == {}


@pytest.mark.parametrize(
    ("ours", "base", "expected"),
    [
        ({"a": None}, {}, {"a"}),
        ({"a": ""}, {"a": None}, {"a"}),
        ({"a": 0}, {"a": False}, {"a"}),
        ({"a": 1}, {"a": 1.0}, set()),
        ({"email/1": None}, {}, set()),
        ({}, {"email/1": {"address": "x"}}, {"email/1"}),
        ({}, {"email/1": None}, set()),
        ({}, {"a": 1}, set()),
    ],
)
@pytest.mark.covers("T6")
def test_missing_none_empty_and_false_are_different_things(ours: Document, base: Document, expected: set[str]) -> None:
    assert mapping.differences(ours, base) == expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({}, {}),
        ({"firstName": None}, {"first_name": None}),
        ({"firstName": ""}, {"first_name": ""}),
        ({"firstName": False}, {"first_name": False}),
        ({"firstName": []}, {"first_name": []}),
        ({"home": {}}, {}),
        ({"home": None}, {"city": None}),
        ({"home": {"city": None}}, {"city": None}),
        ({"home": {"city": ""}}, {"city": ""}),
        ({"home": "a tent"}, {}),
        ({"householdId": None}, {"household_id": None}),
        ({"householdId": ""}, {}),
        ({"emails": []}, {"email/email_a": None}),
        ({"emails": None}, {"email/email_a": None}),
        ({"emails": [None]}, {"email/email_a": None}),
        ({"emails": "a@x"}, {}),
        ({"emails": {}}, {}),
    ],
)
@pytest.mark.covers("C5", "C14")
def test_missing_null_and_empty_are_three_things_to_read(payload: dict, expected: Document) -> None:
    assert read(payload, {"email/email_a": {"address": "a@x", "is_primary": True}}) == expected


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        ({}, {"emails": []}),
        ({"first_name": None}, {"firstName": None, "emails": []}),
        ({"first_name": ""}, {"firstName": "", "emails": []}),
        ({"city": None}, {"home": {"city": None}, "emails": []}),
        ({"household_id": None}, {"householdId": None, "emails": []}),
        ({"email/email_a": None}, {"emails": []}),
        ({"email/email_a": {}}, {"emails": [{"id": "email_a"}]}),
        ({"email/email_a": {"address": None}}, {"emails": [{"id": "email_a", "address": None}]}),
        ({"email/email_a": {"address": ""}}, {"emails": [{"id": "email_a", "address": ""}]}),
    ],
)
def test_missing_null_and_empty_are_three_things_to_write(doc: Document, expected: dict) -> None:
    assert mapping.to_payload(PERSON, doc, theirs_of) == expected


def test_a_list_of_something_else_than_objects_removes_nothing() -> None:
    with pytest.raises(Problem) as caught:
        read({"emails": ["a@x"]}, {"email/email_a": {"address": "a@x", "is_primary": True}})
    assert caught.value.code == "item_unreadable"


def test_changed_paths_name_the_top_of_the_payload() -> None:
    assert mapping.changed_paths(PERSON, ["city", "email/email_a"]) == {"home", "emails"}
