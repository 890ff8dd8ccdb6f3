"""What nobody maps, on its way in: kept per connection, on every row, in a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from streams.settings import Settings
from streams.store import aggregates
from tests.integration.test_applier import ANN, Inbound, at, connections_to, inbound, make_linked, manifest

__all__ = ["connections_to", "inbound"]

pytestmark = pytest.mark.integration
INDIVIDUAL = manifest("mock-sync-server").aggregate("individual")


async def custom(inbound: Inbound) -> dict:
    return (await inbound.person())["custom"]


async def emails(inbound: Inbound) -> dict[str, dict]:
    rows = await inbound.rows(
        "select address, custom from canon.email where org_id = %s and deleted_at is null", inbound.org
    )
    return {row["address"]: row["custom"] for row in rows}


@pytest.fixture
async def second(database: Settings, inbound: Inbound) -> AsyncIterator[Inbound]:
    """Another worker that applies events of the same organisation."""
    async with await psycopg.AsyncConnection.connect(database.dsn("applier"), autocommit=True) as conn:
        yield Inbound(conn, inbound.admin, inbound.org)


@pytest.mark.covers("C5", "C8", "F128")
async def test_unmapped_fields_are_kept_on_the_root_and_on_the_parts(inbound):
    odd = {"shoeSize": 38, "o'nick": "", "none": None, "tags": [], "deep": {"a": [{"b": None}]}}
    email = {"address": "ann@example.org", "isPrimary": True, "verified": False}
    await inbound.apply(inbound.event("x1", {**ANN, **odd, "emails": [email]}, 1))
    assert await custom(inbound) == {"parish": odd}
    assert await emails(inbound) == {"ann@example.org": {"parish": {"verified": False}}}
    assert not {"shoeSize", "deep"} & (await inbound.state())["base"].keys()


async def test_missing_null_and_empty_are_three_things(inbound):
    await inbound.apply(inbound.event("x1", {**ANN, "a": 1, "b": 1, "c": 1}, 1))
    await inbound.apply(inbound.event("x1", {"b": None, "c": ""}, 2))
    assert await custom(inbound) == {"parish": {"a": 1, "b": None, "c": ""}}
    await inbound.apply(inbound.event("x1", {"b": True, "c": {}}, 3))
    assert await custom(inbound) == {"parish": {"a": 1, "b": True, "c": {}}}


async def test_where_records_name_every_field_a_missing_one_is_gone(inbound):
    await inbound.connect("sim", system="sim-keyed")
    for minute, extra in enumerate(({"a": 1, "b": 2}, {"b": 2}), 1):
        record = {"first_name": "Ann", "external_ref": "theirs", **extra}
        await inbound.apply(inbound.event("s1", record, minute, kind="people", connection="sim"))
    assert await custom(inbound) == {"sim": {"b": 2}}


async def test_a_change_of_custom_fields_alone_is_no_edit_of_ours(inbound):
    await inbound.apply(inbound.event("x1", {**ANN, "shoeSize": 38}, 1))
    before = await inbound.person()
    await inbound.apply(inbound.event("x1", {**ANN, "shoeSize": 39}, 2))
    after = await inbound.person()
    assert after["custom"] == {"parish": {"shoeSize": 39}}
    assert (after["modified_at"], after["origin"]) == (before["modified_at"], "parish")
    assert after["version"] == before["version"] + 1
    assert (await inbound.ledger())[-1] == ("echo", "same")
    assert await inbound.intents() == []


async def test_a_part_changed_in_its_custom_fields_alone_keeps_its_time(inbound):
    for minute, verified in ((1, False), (2, True)):
        email = {"address": "ann@example.org", "isPrimary": True, "verified": verified}
        await inbound.apply(inbound.event("x1", {**ANN, "emails": [email]}, minute))
    (row,) = await inbound.rows("select * from canon.email where org_id = %s", inbound.org)
    assert (row["custom"], row["modified_at"]) == ({"parish": {"verified": True}}, at(1))
    assert ((await inbound.person())["version"], row["version"]) == (1, 2)


async def test_equal_custom_fields_write_nothing(inbound):
    await inbound.apply(inbound.event("x1", {**ANN, "deep": {"a": 1, "b": [2.0, None]}}, 1))
    await inbound.apply(inbound.event("x1", {**ANN, "deep": {"b": [2.0, None], "a": 1}}, 2))
    assert (await inbound.person())["version"] == 1


@pytest.mark.covers("F059")
async def test_a_stale_event_leaves_newer_custom_fields_alone(inbound):
    await inbound.apply(inbound.event("x1", {**ANN, "shoeSize": 39}, 5))
    await inbound.apply(inbound.event("x1", {**ANN, "shoeSize": 38}, 3))
    assert await custom(inbound) == {"parish": {"shoeSize": 39}}


async def test_of_one_instant_the_last_to_come_stands(inbound):
    for received, size in ((10, 38), (11, 39), (9, 37)):
        event = inbound.event("x1", {**ANN, "shoeSize": size}, 5, received_at=at(received), external_version=None)
        await inbound.apply(event)
    assert await custom(inbound) == {"parish": {"shoeSize": 39}}


async def test_events_of_one_batch_are_folded(inbound):
    facts = [inbound.event("x1", {**ANN, f"f{n}": n}, n) for n in range(3)]
    await inbound.apply(*facts)
    person = await inbound.person()
    assert (person["custom"], person["version"]) == ({"parish": {"f0": 0, "f1": 1, "f2": 2}}, 1)


async def test_what_a_person_deleted_gets_no_more_custom_fields(inbound):
    await make_linked(inbound)
    await inbound.edit(deleted_at=at(5))
    before = await inbound.person()
    await inbound.apply(inbound.event("x1", {"firstName": "Ann", "shoeSize": 39}, 9))
    assert await inbound.person() == before


async def test_too_much_is_a_dead_letter_that_says_so_and_holds_up_nobody(inbound):
    large = {**ANN, "scan": "x" * 100_000}
    await inbound.apply(inbound.event("x1", large, 1), inbound.event("x2", {"firstName": "Eve"}, 1))
    (letter,) = await inbound.letters()
    assert letter["code"] == "custom_fields_too_large"
    assert (await inbound.person())["first_name"] == "Eve"


async def two_sides_of_one_person(inbound: Inbound) -> str:
    """Two connections hold the same person."""
    await inbound.connect("clinic")
    entity_id = await make_linked(inbound)
    link = """insert into sync.external_link
        (org_id, id, connection, external_type, external_id, entity_type, entity_id, sync_key, made_by)
        values (%s, %s, 'clinic', 'individual', 'c1', 'person', %s, %s, 'match')"""
    values = (inbound.org, f"link_{inbound.org}", entity_id, f"{inbound.org}/{entity_id}")
    await inbound.admin.execute(link, values)
    return entity_id


@pytest.mark.covers("C15")
async def test_connections_never_touch_each_others_fields(inbound):
    await two_sides_of_one_person(inbound)
    names = {"firstName": "Ann", "lastName": "Lee"}
    await inbound.apply(inbound.event("x1", {**names, "note": "p"}, 10))
    await inbound.apply(inbound.event("c1", {**names, "note": "c", "ward": 4}, 11, connection="clinic"))
    await inbound.apply(inbound.event("x1", {**names, "note": None}, 12))
    assert await custom(inbound) == {"parish": {"note": None}, "clinic": {"note": "c", "ward": 4}}
    # Only one's own go back.
    ids = [(await inbound.person())["id"]]
    (rows,) = (await aggregates.read(inbound.conn, INDIVIDUAL, inbound.org, ids, custom_of="clinic")).values()
    assert (rows.custom("clinic"), "custom" in rows.root) == ({"": {"note": "c", "ward": 4}}, False)


async def test_two_connections_write_custom_fields_of_one_person_at_the_same_time(inbound, second):
    await two_sides_of_one_person(inbound)
    names = {"firstName": "Ann", "lastName": "Lee"}
    for n in range(10):
        await asyncio.gather(
            inbound.apply(inbound.event("x1", {**names, "p": n}, 10 + n)),
            second.apply(second.event("c1", {**names, "c": n}, 10 + n, connection="clinic")),
        )
    waiting = await inbound.rows("select 1 from sync.waiting_event where org_id = %s", inbound.org)
    assert (await custom(inbound), waiting) == ({"parish": {"p": 9}, "clinic": {"c": 9}}, [])


async def test_a_user_who_writes_the_column_meanwhile_loses_nothing(inbound):
    await make_linked(inbound)
    await inbound.admin.execute(
        'update canon.person set custom = custom || \'{"mine": {"a": 1}, "parish": {"b": 2}}\' where org_id = %s',
        (inbound.org,),
    )
    await inbound.apply(inbound.event("x1", {"firstName": "Ann", "shoeSize": 39}, 10))
    assert await custom(inbound) == {"mine": {"a": 1}, "parish": {"b": 2, "shoeSize": 39}}


async def test_a_version_for_the_sake_of_custom_fields_is_no_event_of_an_event_like_type(inbound):
    await inbound.connect("sim", system="sim-keyed", gates='{"person": "live", "referral": "live"}')
    await inbound.apply(inbound.event("p1", {"first_name": "Ann"}, 0, kind="people", connection="sim"))
    for minute, extra in enumerate(({"desk": 1}, {"desk": 2}), 1):
        record = {"person_id": "p1", "service": "food", **extra}
        await inbound.apply(inbound.event("r1", record, minute, kind="referrals", connection="sim"))
    row = await inbound.one("select id, custom, version from canon.referral where org_id = %s", inbound.org)
    assert (row["custom"], row["version"]) == ({"sim": {"desk": 2}}, 2)
    events = await inbound.rows("select version from sync.push_event where entity_id = %s", row["id"])
    assert [event["version"] for event in events] == [1]
