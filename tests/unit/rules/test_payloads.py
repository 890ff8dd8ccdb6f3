"""Payloads made ready: whole parts, references, derived ids, times that are times."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime

import pytest

from connectors import registry
from schemas.problems import Problem
from streams.rules import payloads, references, typeids

INDIVIDUAL = registry.find("mock-sync-server").manifest.aggregate("individual")
TIMES = {("", "birth_date"): "date", ("email", "seen_at"): "timestamp"}


def test_what_an_item_of_a_part_lacks_is_empty_and_the_payload_stays_as_it_is():
    payload = {"firstName": "Ann", "emails": [{"address": "a@example.org"}, "?"], "addresses": None}
    whole = payloads.with_whole_parts(INDIVIDUAL, payload)
    assert whole["emails"] == [{"address": "a@example.org", "label": None, "isPrimary": None}, "?"]
    assert payload["emails"] == [{"address": "a@example.org"}, "?"]
    assert whole["addresses"] is None


@pytest.mark.covers("C14")
@pytest.mark.parametrize(
    ("document", "refused"),
    [
        ({"birth_date": "1990-04-01"}, False),
        ({"birth_date": None, "first_name": "yesterday"}, False),
        ({"birth_date": "yesterday"}, True),
        ({"birth_date": "01/02/1990"}, True),
        ({"birth_date": 19900401}, True),
        ({"email/1": {"seen_at": "2026-03-01T12:00:00Z"}}, False),
        ({"email/1": {"seen_at": "2026-03-01T12:00:00"}}, True),
        ({"email/1": None}, False),
    ],
)
def test_only_iso_dates_and_times_with_a_zone_are_taken(document, refused):
    expected = pytest.raises(Problem, match="value_refused") if refused else nullcontext()
    with expected as caught:
        payloads.check_times(document, TIMES)
    assert not refused or "yesterday" not in str(caught.value)


def test_references_are_found_on_both_sides():
    payload = {"householdId": "h1", "campusId": None, "firstName": "Ann"}
    assert references.in_payload(INDIVIDUAL, payload) == {("household", "h1")}
    assert references.unresolved(INDIVIDUAL, payload, lambda *_: None) == {"household_id": ("household", "h1")}
    assert references.unresolved(INDIVIDUAL, payload, lambda *_: "household_1") == {}
    row = {"household_id": "household_1", "campus_id": None}
    assert references.in_rows(INDIVIDUAL, row, {"email": [{"id": "email_1"}]}) == {("household", "household_1")}


def test_parts_named_by_our_ids_are_found():
    payload = {"emails": [{"id": "email_1"}, {"id": "theirs"}, {}], "phoneNumbers": [{"id": "phone_number_2"}]}
    assert references.part_ids(INDIVIDUAL, payload) == {"email/email_1", "phone_number/phone_number_2"}


def test_derived_ids_are_typeids_that_repeat_and_sort_by_time():
    early, late = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    one = typeids.derived("phone_number", early, b"event", "0")
    assert one == typeids.derived("phone_number", early, b"event", "0")
    assert one != typeids.derived("phone_number", early, b"event0", "")
    assert one < typeids.derived("phone_number", late, b"event", "0")
    assert typeids.is_well_formed(one, "phone_number")
    assert not typeids.is_well_formed(one, "phone")
    assert not typeids.is_well_formed(one[:-1] + "u", "phone_number")
    assert not typeids.is_well_formed("phone_number_", "phone_number")
