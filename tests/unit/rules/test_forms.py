"""Forms: how a system writes a value, and that reading what we wrote gives what we hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import forms
from schemas.fields import Aggregate, Document, Field, Json, Part
from schemas.forms import Form
from schemas.problems import Problem
from streams.rules import mapping, references

Forms = tuple[Form, ...]

NULL: Form = "false_as_null"
TIME: Forms = (NULL, "utc_datetime")
DATE: Forms = (NULL, "date_only")
LINK: Forms = (NULL, "id_name")
PARTNER = Aggregate(
    "res.partner",
    "person",
    (
        Field("first_name", "x_first", forms=(NULL,)),
        Field("birth_date", "x_birth", forms=DATE),
        Field("seen_at", "x_seen", forms=TIME),
        Field("campus_id", "x_campus_id", references="campus", forms=LINK),
    ),
    (Part("email", "person_id", "mails", (Field("address", "address", forms=(NULL,)), Field("at", "at", forms=TIME))),),
)

texts = st.text(max_size=5)
instants = st.datetimes(timezones=st.just(UTC))
canonical: dict[Form, st.SearchStrategy[Json]] = {
    NULL: st.none() | texts | st.integers(),
    "utc_datetime": st.none() | instants.map(lambda at: at.isoformat(timespec="seconds")),
    "date_only": st.none() | st.dates().map(lambda day: day.isoformat()),
    "id_name": st.none() | st.text(min_size=1, max_size=5) | st.integers(0, 10**25).map(str),
}
anything = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.lists(st.integers(), max_size=3)
)
anything |= instants.map(lambda at: at.isoformat()) | st.datetimes().map(str)
documents = st.fixed_dictionaries(
    {
        "first_name": st.none() | texts,
        "birth_date": canonical["date_only"],
        "seen_at": canonical["utc_datetime"],
        "campus_id": st.none() | st.integers(1, 10**20).map(lambda n: f"campus_{n}"),
        "email/email_1": st.fixed_dictionaries({"address": st.none() | texts, "at": canonical["utc_datetime"]}),
    }
)


def theirs_of(_: str, entity_id: str) -> str:
    return entity_id.rpartition("_")[2]


def read(payload: dict[str, Json], known: Document | None = None) -> Document:
    return mapping.from_payload(
        PARTNER,
        payload,
        known=known or {},
        our_id=lambda kind, theirs: f"{kind}_{theirs}",
        new_id=lambda _, place: f"new{place}",
    )


@pytest.mark.covers("C14")
@pytest.mark.parametrize(
    ("given_forms", "told", "held"),
    [
        ((), False, False),
        ((), "2026-11-20 08:15:00", "2026-11-20 08:15:00"),
        ((NULL,), False, None),
        ((NULL,), None, None),
        ((NULL,), 0, 0),
        ((NULL,), "", ""),
        ((NULL,), "false", "false"),
        (TIME, False, None),
        (TIME, "2026-11-20 08:15:00", "2026-11-20T08:15:00+00:00"),
        (TIME, "2026-11-20T08:15:00", "2026-11-20T08:15:00+00:00"),
        (TIME, "2026-11-20 08:15:00.123456", "2026-11-20T08:15:00+00:00"),
        (TIME, "2026-11-20T10:15:00+02:00", "2026-11-20T08:15:00+00:00"),
        (TIME, "2026-11-20T08:15:00Z", "2026-11-20T08:15:00+00:00"),
        (DATE, False, None),
        (DATE, "2026-11-20", "2026-11-20"),
        (DATE, "2026-11-20 00:00:00", "2026-11-20"),
        (DATE, "2026-11-20T00:00:00.000Z", "2026-11-20"),
        (LINK, False, None),
        (LINK, [7, "Main campus"], "7"),
        (LINK, [7, False], "7"),
        (LINK, ["a1b2", "Main campus"], "a1b2"),
        (LINK, 7, "7"),
        (LINK, "7", "7"),
        (LINK, [0, ""], "0"),
        (("id_name",), None, None),
    ],
)
def test_what_they_send_becomes_what_we_hold(given_forms: Forms, told: Json, held: Json) -> None:
    found = forms.read(given_forms, told)
    assert (found, type(found)) == (held, type(held))


@pytest.mark.covers("C14")
@pytest.mark.parametrize(
    ("given_forms", "held", "told"),
    [
        ((), None, None),
        ((NULL,), None, False),
        ((NULL,), "Ann", "Ann"),
        (("utc_datetime",), None, None),
        (TIME, None, False),
        (TIME, "2026-11-20T08:15:00+00:00", "2026-11-20 08:15:00"),
        (TIME, "2026-11-20T08:15:00.9+02:00", "2026-11-20 06:15:00"),
        (TIME, "0800-01-02T03:04:05+00:00", "0800-01-02 03:04:05"),
        (DATE, None, False),
        (DATE, "2026-11-20", "2026-11-20"),
        (LINK, None, False),
        (LINK, "7", 7),
        (LINK, "0", 0),
        (LINK, "007", "007"),
        (LINK, "\u0667", "\u0667"),
        (LINK, "a1b2", "a1b2"),
        (LINK, "9" * 30, "9" * 30),
    ],
)
def test_what_we_hold_becomes_theirs(given_forms: Forms, held: Json, told: Json) -> None:
    found = forms.write(given_forms, held)
    assert (found, type(found)) == (told, type(told))


@pytest.mark.covers("C14")
@pytest.mark.parametrize(
    ("field", "told"),
    [
        *(("x_seen", told) for told in ("", "yesterday", "20.11.2026 08:15", "2026-11-20", "2026-13-20 08:15:00", 0)),
        *(("x_seen", told) for told in ("0001-01-01T00:00:00+02:00", "2026-11-20 08:15:60", ["2026-11-20"], True)),
        *(("x_birth", told) for told in ("", "2026-11-20 08:15:00", "20261120", "2026-W47-5", "2026-02-30", 1, True)),
        *(("x_campus_id", told) for told in ("", [], [7], [7, 8], [7, "a", "b"], [False, "a"], True, 7.0, {"id": 7})),
    ],
)  # fmt: skip
def test_a_value_in_another_form_is_a_problem_that_names_the_field_and_quotes_nothing(field: str, told: Json) -> None:
    with pytest.raises(Problem) as caught:
        read({"x_first": "Ann", field: told})
    assert caught.value.code == "value_unreadable"
    assert f"their {field}," in caught.value.cause
    assert caught.value.next_step
    assert len(str(told)) < 4 or str(told) not in caught.value.cause


def test_one_in_an_item_of_a_list_is_a_problem_as_well() -> None:
    with pytest.raises(Problem, match="value_unreadable: at, in their at, is not in the form utc_datetime"):
        read({"mails": [{"address": "a@x", "at": "soon"}]})


@pytest.mark.covers("C14", "F150")
@given(st.data(), st.sampled_from(get_args(Form)), st.booleans())
def test_reading_what_we_wrote_gives_what_we_hold(data: st.DataObject, form: Form, null: bool) -> None:
    held = data.draw(canonical[form])
    composed: Forms = (NULL, form) if null and form != NULL else (form,)

    assert forms.read(composed, forms.write(composed, held)) == held


@pytest.mark.covers("C14", "F150")
@given(documents)
def test_a_document_that_they_can_hold_is_its_own_view(doc: Document) -> None:
    assert mapping.view(PARTNER, doc, theirs_of) == doc
    assert read(mapping.to_payload(PARTNER, doc, theirs_of)) == doc


@given(st.fixed_dictionaries({"first_name": anything, "birth_date": anything, "seen_at": anything}))
def test_any_document_has_a_view_and_the_view_is_its_own(doc: Document) -> None:
    seen = mapping.view(PARTNER, doc, theirs_of)

    assert seen.keys() <= doc.keys()
    assert mapping.differences(mapping.view(PARTNER, seen, theirs_of), seen) == frozenset()


def test_what_a_form_cannot_hold_is_left_out() -> None:
    doc = {"first_name": "Ann", "seen_at": "infinity", "birth_date": "2026-11-20T08:15:00+00:00"}
    assert mapping.to_payload(PARTNER, doc, theirs_of) == {"x_first": "Ann", "mails": []}
    part = {"email/email_1": {"address": "a@x", "at": "infinity"}}
    assert mapping.view(PARTNER, part, theirs_of) == {"email/email_1": {"address": "a@x", "at": None}}
    assert forms.write((NULL,), False) is False, "a boolean stays one"
    with pytest.raises(ValueError, match="zone"):
        forms.write(TIME, "2026-11-20T08:15:00")


@pytest.mark.covers("C14")
def test_references_are_found_in_their_form() -> None:
    held = {"x_campus_id": [7, "Main campus"]}
    assert references.in_payload(PARTNER, held) == {("campus", "7")}
    assert references.unresolved(PARTNER, held, lambda *_: None) == {"campus_id": ("campus", "7")}
    assert references.in_payload(PARTNER, {"x_campus_id": False}) == set()
    assert read(held) == {"campus_id": "campus_7"}


@pytest.mark.parametrize("told", [[7, "Main campus"], False])
def test_an_item_that_refers_to_nothing_known_says_nothing_about_it(told: Json) -> None:
    stay = Part("stay", "person_id", "stays", (Field("campus_id", "campus", references="campus", forms=LINK),))
    found = mapping.from_payload(
        Aggregate("x", "person", (), (stay,)),
        {"stays": [{"id": "stay_1", "campus": told}]},
        known={"stay/stay_1": {"campus_id": "campus_3"}},
        our_id=lambda *_: None,
        new_id=lambda *_: "2",
    )
    assert found == {"stay/stay_1": {"campus_id": "campus_3" if told else None}}


@pytest.mark.parametrize(
    ("given_forms", "code"),
    [
        (("odoo_date",), "form_unknown"),
        ((NULL, ""), "form_unknown"),
        ("utc_datetime", "form_unknown"),
        ((NULL, NULL), "forms_contradict"),
        (("utc_datetime", "date_only"), "forms_contradict"),
        (("utc_datetime", NULL), "forms_contradict"),
        ((NULL, "utc_datetime", "id_name"), "forms_contradict"),
    ],
)
def test_a_field_with_other_forms_cannot_be_made(given_forms: Forms, code: str) -> None:
    with pytest.raises(Problem, match="the field birth_date has") as caught:
        Field("birth_date", "x_birth", forms=given_forms)
    assert caught.value.code == code
    assert caught.value.next_step


@pytest.mark.covers("C14")
def test_the_time_of_a_record_needs_a_zone_or_a_form() -> None:
    at = datetime(2026, 11, 20, 8, 15, 0, 123456, UTC)
    assert forms.instant("2026-11-20 08:15:00.123456", "utc_datetime") == at
    assert forms.instant("2026-11-20T10:15:00.123456+02:00") == at
    assert forms.instant("2026-11-20T10:15:00.123456+02:00", "utc_datetime").utcoffset() == timedelta()
    assert forms.instant(at.astimezone(timezone(timedelta(hours=-5))).isoformat()) == at
    for told in ("2026-11-20 08:15:00", "2026-11-20", "yesterday", None, False, 1732090500):
        with pytest.raises(Problem) as caught:
            forms.instant(told)
        assert caught.value.code == "time_unreadable"
        assert str(told) not in caught.value.cause
