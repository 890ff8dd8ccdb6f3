"""A system that writes values in forms of its own, as Odoo does, on its way in, back, and out; in a real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from connectors.contract import CreateTier, Manifest
from schemas.fields import Aggregate, Field, Part
from schemas.forms import Form
from streams.settings import Settings
from streams.store import operations
from tests.integration.both_ways import BothWays, both_ways
from tests.integration.scripted import MANIFEST, NOW

pytestmark = pytest.mark.integration

NULL: Form = "false_as_null"
EMAIL = Part(
    "email",
    "person_id",
    "email_ids",
    (Field("address", "email", forms=(NULL,)), Field("label", "kind", forms=(NULL,))),
    id_field="x_ref",
)
ODOO: Manifest = replace(
    MANIFEST,
    create_tier=CreateTier.NONE,
    aggregates=(
        Aggregate("spp.area", "campus", (Field("name", "name", forms=(NULL,)),)),
        Aggregate(
            "res.partner",
            "person",
            (
                Field("first_name", "given_name", forms=(NULL,)),
                Field("last_name", "family_name", forms=(NULL,)),
                Field("gender", "gender", forms=(NULL,)),
                Field("birth_date", "birthdate", forms=(NULL, "date_only")),
                # the model has no column for times, and one for texts shows best what we hold
                Field("membership_status", "registration_date", forms=(NULL, "utc_datetime")),
                Field("campus_id", "area_id", references="campus", forms=(NULL, "id_name")),
            ),
            (EMAIL,),
        ),
    ),
)
ANN: dict[str, Any] = {
    "given_name": "Ann",
    "family_name": "Lee",
    "gender": False,
    "birthdate": "1990-04-01",
    "registration_date": "2026-11-20 08:15:00",
    "area_id": [7, "Main campus"],
    "email_ids": [{"email": "ann@example.org", "kind": False}],
}


@pytest.fixture
async def odoo(database: Settings, request: pytest.FixtureRequest) -> AsyncIterator[BothWays]:
    """A connection to it, with their area 7 and the record x1 of Ann applied."""
    async with both_ways(database, f"org_{request.function.__name__}"[:60], manifest=ODOO) as both:
        area = both.event("7", {"name": "Main campus"}, NOW, kind="spp.area")
        await both.hear(area, both.event("41", ANN, NOW, external_version="1"))
        yield both


async def tell(both: BothWays, seconds: float, **changed: object) -> None:
    at = NOW + timedelta(seconds=seconds)
    await both.hear(both.event("41", {**ANN, **changed}, at, external_version=str(seconds)))


async def push(both: BothWays) -> list[dict[str, Any]]:
    """Whatever there is to send of Ann; what was sent."""
    (person,) = await both.people()
    before = len(both.out.theirs.sent)
    await both.out.plan(person["id"])
    await both.out.rounds()
    return both.out.theirs.sent[before:]


@pytest.mark.covers("C14", "F150")
async def test_what_they_write_in_their_forms_is_what_we_hold(odoo: BothWays) -> None:
    (campus,) = await odoo.rows("select id from canon.campus where org_id = %s", odoo.out.org)
    (person,) = await odoo.people()
    assert (person["gender"], str(person["birth_date"])) == (None, "1990-04-01")
    assert (person["membership_status"], person["campus_id"]) == ("2026-11-20T08:15:00+00:00", campus["id"])
    (email,) = await odoo.rows("select * from canon.email where org_id = %s", odoo.out.org)
    assert (email["address"], email["label"]) == ("ann@example.org", None)
    (held,) = await odoo.rows("select to_jsonb(%s::timestamptz) as at", person["membership_status"])
    assert held["at"] == person["membership_status"], "a column of times would hold the very same text"


@pytest.mark.covers("C14")
async def test_their_record_coming_back_unchanged_is_no_difference(odoo: BothWays) -> None:
    (before,) = await odoo.people()
    await tell(odoo, 1)
    await tell(odoo, 2, birthdate="1990-04-01 00:00:00", area_id=7, email_ids=[{"email": "ann@example.org"}])
    (after,) = await odoo.people()
    assert after["version"] == before["version"]
    assert await push(odoo) == []


@pytest.mark.covers("C14", "F150")
async def test_an_edit_of_ours_is_written_in_their_forms(odoo: BothWays) -> None:
    await odoo.out.sql(
        "update canon.person set membership_status = '2026-12-01T10:30:00+02:00', birth_date = null where org_id = %s",
        odoo.out.org,
    )
    (sent,) = await push(odoo)
    assert sent["changed"] == ["birthdate", "registration_date"]
    payload = dict(sent["payload"])
    (item,) = payload.pop("email_ids")
    assert (item["email"], item["kind"]) == ("ann@example.org", False)
    assert payload == {
        "given_name": "Ann",
        "family_name": "Lee",
        "gender": False,
        "birthdate": False,
        "registration_date": "2026-12-01 08:30:00",
        "area_id": 7,
    }
    await tell(odoo, 5, birthdate=False, registration_date="2026-12-01 08:30:00")
    assert await push(odoo) == []
    await odoo.out.sql("update canon.person set campus_id = null where org_id = %s", odoo.out.org)
    (sent,) = await push(odoo)
    assert (sent["changed"], sent["payload"]["area_id"]) == (["area_id"], False)


@pytest.mark.covers("C14", "C17")
async def test_a_value_in_another_form_buries_its_own_event_only(odoo: BothWays) -> None:
    good = {**ANN, "email_ids": False}
    later = NOW + timedelta(seconds=1)
    await odoo.hear(
        odoo.event("42", {**good, "given_name": "Ben"}, later),
        odoo.event("43", {**good, "given_name": "Cay", "registration_date": "next week"}, later),
        odoo.event("44", {**good, "given_name": "Dee", "area_id": [7]}, later),
        odoo.event("45", {**good, "given_name": "Eve"}, later),
    )
    assert [person["first_name"] for person in await odoo.people()] == ["Ann", "Ben", "Eve"]
    letters = await operations.dead_letters(odoo.out.conn, odoo.out.org)
    assert sorted((each["code"], each["cause"]) for each in letters) == [
        ("value_unreadable", "campus_id, in their area_id, is not in the form id_name"),
        ("value_unreadable", "membership_status, in their registration_date, is not in the form utc_datetime"),
    ]
