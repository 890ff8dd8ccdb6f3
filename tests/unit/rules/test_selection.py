"""Which fields one connection sends."""

from __future__ import annotations

from schemas.fields import Aggregate, Field, Part
from streams.rules.selection import narrowed, split

PERSON = Aggregate(
    "people",
    "person",
    (Field("first_name", "firstName"), Field("notes", "notes")),
    (Part("email", "person_id", "emails", (Field("address", "address"),)),),
)


def names(aggregate: Aggregate) -> list[str]:
    return [f.canonical for f in aggregate.fields] + [p.entity_type for p in aggregate.parts]


def test_nothing_chosen_is_everything() -> None:
    assert narrowed(PERSON, {}) is PERSON


def test_included_and_excluded_fields_and_parts() -> None:
    assert names(narrowed(PERSON, {"include": ["first_name", "email"]})) == ["first_name", "email"]
    assert names(narrowed(PERSON, {"exclude": ["notes", "email"]})) == ["first_name"]


def test_a_base_is_split_so_that_nothing_of_it_is_forgotten() -> None:
    base = {"first_name": "Ann", "notes": "x", "email/email_1": {"address": "a@b.c"}}

    here, rest = split(narrowed(PERSON, {"include": ["first_name"]}), base)

    assert here == {"first_name": "Ann"}
    assert rest == {"notes": "x", "email/email_1": {"address": "a@b.c"}}
