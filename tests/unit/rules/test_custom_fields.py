"""What of a payload nobody maps: kept as it is, whatever it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.fields import Aggregate, Field, Part
from schemas.problems import Problem
from streams.rules import custom_fields

EMAIL = Part("email", "person_id", "contact.emails", (Field("address", "value.address"),), bookkeeping=("updated_at",))
PERSON = Aggregate(
    "individual",
    "person",
    (Field("first_name", "firstName"), Field("city", "home.city"), Field("country", "home.land.code")),
    (EMAIL,),
    marker="ref",
    bookkeeping=("meta.etag",),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("payload", "kept"),
    [
        ({"firstName": "Ann", "home": {"city": "Rome", "land": {"code": "IT"}}}, {}),
        ({"nick": "A", "empty": "", "none": None, "list": [], "object": {}},) * 2,
        ({"home": {"city": "Rome", "floor": 3}}, {"home": {"floor": 3}}),
        ({"home": {"land": {"code": "IT", "name": None}}}, {"home": {"land": {"name": None}}}),
        ({"home": None}, {}),
        ({"home": "a tent"}, {"home": "a tent"}),
        ({"contact": {"emails": [{"x": 1}], "best": "phone"}}, {"contact": {"best": "phone"}}),
        ({"contact": {"emails": "a@example.org"}}, {"contact": {"emails": "a@example.org"}}),
        ({"contact": {"emails": None}}, {}),
        ({"ref": "person_1", "meta": {"etag": "7", "by": "Eve"}}, {"meta": {"by": "Eve"}}),
        ({"first_name": "a key of ours is none of theirs"},) * 2,
        ({"o'clock": {"home.city": 1}},) * 2,
    ],
)
@pytest.mark.covers("C5", "C8")
def test_what_no_map_mentions_is_unmapped_wherever_it_is(payload: dict, kept: dict) -> None:
    assert custom_fields.unmapped(PERSON, payload) == kept


def test_items_have_custom_fields_of_their_own() -> None:
    item = {"id": "email_1", "value": {"address": "a@x", "kind": "home"}, "verified": False, "updated_at": "now"}
    assert custom_fields.of_item(EMAIL, item) == {"value": {"kind": "home"}, "verified": False}


@pytest.mark.parametrize(
    ("held", "told", "exhaustive", "kept"),
    [
        ({"a": 1, "b": 2}, {"b": None}, False, {"a": 1, "b": None}),
        ({"a": 1, "b": 2}, {"b": None}, True, {"b": None}),
        ({"a": 1}, {}, False, {"a": 1}),
        ({"a": 1}, {}, True, {}),
        ({"a": {"x": 1}}, {"a": {"y": 2}}, False, {"a": {"y": 2}}),
        ({"home": {"floor": 3}}, {"home": {"door": 1}}, False, {"home": {"floor": 3, "door": 1}}),
        ({"home": {"floor": 3}}, {"home": "a tent"}, False, {"home": "a tent"}),
        ({"a": ""}, {"a": []}, False, {"a": []}),
    ],
)
def test_a_missing_key_is_gone_only_where_records_name_every_field(held, told, exhaustive, kept) -> None:
    assert custom_fields.after(replace(PERSON, exhaustive=exhaustive), held, told) == kept


def test_a_row_holds_so_much_and_no_more() -> None:
    with pytest.raises(Problem) as caught:
        custom_fields.after(PERSON, {}, {"scan": "x" * custom_fields.CAP_BYTES})
    assert (caught.value.code, "xxx" in str(caught.value)) == ("custom_fields_too_large", False)


@given(st.dictionaries(st.sampled_from(["firstName", "home", "contact", "ref", "meta", "x", "y"]), values))
def test_nothing_is_lost_and_nothing_is_kept_twice(payload: dict) -> None:
    """Given back under what is mapped, the payload is whole again."""
    plain = Aggregate("individual", "person", PERSON.fields)
    mapped = {key: payload[key] for key in ("firstName",) if key in payload}
    home = payload.get("home")
    if isinstance(home, dict):
        mapped["home"] = {key: value for key, value in home.items() if key in ("city", "land")}
    elif home is None and "home" in payload:
        mapped["home"] = None
    kept = custom_fields.unmapped(plain, payload)
    assert custom_fields.given_back(mapped, kept) == payload


def test_a_write_of_some_keys_gives_back_only_what_stands_there() -> None:
    custom = {"home": {"floor": 3}, "nick": "A"}
    payload = {"firstName": "Ann", "home": {"city": "Rome"}}
    assert custom_fields.given_back(payload, custom, whole=False) == {
        "firstName": "Ann",
        "home": {"city": "Rome", "floor": 3},
    }
    assert custom_fields.given_back(payload, custom)["nick"] == "A"
    assert custom_fields.given_back({"home": None}, custom, whole=False) == {"home": None}
