"""Records that hold others: items with ids of theirs become rows with links, and are found by them again."""

from __future__ import annotations

import orjson
import pytest

from schemas.fields import Json
from streams.inbound import late_references
from tests.integration.test_applier import Inbound, at, connections_to, inbound

__all__ = ["connections_to", "inbound"]

pytestmark = pytest.mark.integration
GATES = orjson.dumps(dict.fromkeys(("campus", "household", "person"), "live")).decode()


@pytest.fixture
async def nested(inbound: Inbound) -> Inbound:
    await inbound.connect("sim", system="sim-nested", gates=GATES)
    return inbound


def person(n: str, minutes: float, *emails: Json, inbound: Inbound, **fields: Json):
    payload = {"first_name": "Ann", "last_name": "Lee", **fields, "emails": list(emails)}
    return inbound.event(n, payload, minutes, kind="people", connection="sim", external_version=str(int(minutes * 10)))


def household(minutes: float, *members: Json, inbound: Inbound):
    payload = {"name": "Lee", "members": list(members)}
    return inbound.event(
        "h1", payload, minutes, kind="households", connection="sim", external_version=str(int(minutes))
    )


def email(theirs: str | None, address: str, **more: Json) -> dict[str, Json]:
    return {**({"id": theirs} if theirs else {}), "address": address, "label": None, **more}


async def rows(inbound: Inbound) -> dict[str, tuple[str, Json]]:
    found = await inbound.rows(
        "select id, address, custom from canon.email where org_id = %s and deleted_at is null", inbound.org
    )
    return {row["address"]: (row["id"], row["custom"].get("sim", {})) for row in found}


async def links(inbound: Inbound, *, closed: bool = False) -> dict[str, tuple[str, str]]:
    found = await inbound.rows(
        """select external_id, external_type, entity_id from sync.external_link
           where org_id = %s and part <> '' and (deleted_at is not null) = %s order by created_at""",
        inbound.org,
        closed,
    )
    return {row["external_id"]: (row["external_type"], row["entity_id"]) for row in found}


@pytest.mark.covers("C15", "F128")
async def test_a_person_with_emails_is_several_rows_with_links_of_their_own(nested):
    await nested.apply(person("p1", 1, email("e1", "a@x"), email("e2", "b@x"), inbound=nested))
    held = await rows(nested)
    assert await links(nested) == {"e1": ("emails", held["a@x"][0]), "e2": ("emails", held["b@x"][0])}
    (row,) = await nested.rows(
        """select l.sync_key, l.part, l.entity_type, s.base, s.external_updated_at, s.last_processed_at
           from sync.external_link l join sync.link_state s on (s.org_id, s.link_id) = (l.org_id, l.id)
           where l.org_id = %s and l.external_id = 'e1'""",
        nested.org,
    )
    assert row == {
        "sync_key": (await nested.person())["sync_key"],
        "part": "p1",
        "entity_type": "email",
        "base": {"address": "a@x", "label": None},
        "external_updated_at": at(1),
        "last_processed_at": at(60),
    }


async def test_an_item_is_found_by_its_id_whatever_it_holds_and_wherever_it_is(nested):
    await nested.apply(person("p1", 1, email("e1", "a@x"), email("e2", "b@x"), inbound=nested))
    before = await rows(nested)
    # e2 now holds what e1 held: their ids say which is which.
    await nested.apply(person("p1", 2, email("e2", "a@x"), email("e1", "new@x", checked=True), inbound=nested))
    after = await rows(nested)
    assert after == {"new@x": (before["a@x"][0], {"checked": True}), "a@x": (before["b@x"][0], {})}
    told = await nested.rows("select version from canon.email where org_id = %s", nested.org)
    assert [row["version"] for row in told] == [2, 2]
    assert (len(await links(nested)), await links(nested, closed=True), await nested.intents()) == (2, {}, [])


async def test_events_of_one_batch_find_the_parts_that_the_first_made(nested):
    await nested.apply(
        person("p1", 1, email("e1", "a@x"), inbound=nested), person("p1", 2, email("e1", "b@x"), inbound=nested)
    )
    held = await rows(nested)
    assert await links(nested) == {"e1": ("emails", held["b@x"][0])}
    assert len(held) == 1


async def test_a_link_is_closed_when_its_part_is_removed_and_another_id_is_another_part(nested):
    await nested.apply(person("p1", 1, email("e1", "a@x"), inbound=nested))
    before = await rows(nested)
    await nested.apply(person("p1", 2, email("e9", "a@x"), inbound=nested))
    after = await rows(nested)
    assert after["a@x"][0] != before["a@x"][0]
    assert await links(nested, closed=True) == {"e1": ("emails", before["a@x"][0])}
    assert await links(nested) == {"e9": ("emails", after["a@x"][0])}


async def test_an_item_that_we_sent_gets_its_link_when_it_comes_back(nested):
    await nested.apply(person("p1", 1, email("e1", "a@x"), inbound=nested))
    root = (await nested.person())["id"]
    await nested.admin.execute(
        "insert into canon.email (org_id, person_id, address) values (%s, %s, 'ours@x')", (nested.org, root)
    )
    await nested.apply(person("p1", 2, email("e1", "a@x"), email("e2", "ours@x"), inbound=nested))
    held = await rows(nested)
    assert len(held) == 2
    assert await links(nested) == {"e1": ("emails", held["a@x"][0]), "e2": ("emails", held["ours@x"][0])}


@pytest.mark.covers("C15")
async def test_equal_ids_of_types_and_of_records_do_not_collide(nested):
    await nested.apply(
        person("7", 1, email("7", "a@x"), phone_numbers=[{"id": "7", "number": "1"}], inbound=nested),
        person("8", 1, email("7", "b@x"), first_name="Eve", last_name="Roe", inbound=nested),
    )
    assert len(await nested.people()) == 2
    made = await nested.rows(
        "select external_type, part, external_id from sync.external_link where org_id = %s order by 1, 2, 3", nested.org
    )
    assert [tuple(row.values()) for row in made] == [
        ("emails", "7", "7"), ("emails", "8", "7"), ("people", "", "7"), ("people", "", "8"),
        ("phone_numbers", "7", "7"),
    ]  # fmt: skip
    await nested.apply(person("8", 2, email("7", "c@x"), first_name="Eve", last_name="Roe", inbound=nested))
    assert set(await rows(nested)) == {"a@x", "c@x"}


@pytest.mark.covers("C9")
async def test_several_members_are_added_at_once(nested):
    await nested.apply(*(person(f"p{n}", n, first_name=f"N{n}", inbound=nested) for n in range(4)))
    people = {row["first_name"]: row["id"] for row in await nested.people()}
    await nested.apply(household(10, {"id": "m0", "person": {"id": "p0"}, "role": "head"}, inbound=nested))
    members = [{"id": f"m{n}", "person": {"id": f"p{n}"}, "role": None} for n in range(1, 4)]
    await nested.apply(household(11, *members, {"id": "m0", "person": {"id": "p0"}, "role": "head"}, inbound=nested))
    found = await nested.rows(
        "select person_id, role from canon.household_member where org_id = %s and deleted_at is null", nested.org
    )
    assert {row["person_id"]: row["role"] for row in found} == {
        **dict.fromkeys((people["N1"], people["N2"], people["N3"])),
        people["N0"]: "head",
    }
    assert len(found) == 4


async def test_members_that_are_not_known_yet_wait_and_are_not_lost(nested):
    member = {"id": "m1", "person": {"id": "p1"}, "role": "head"}
    await nested.apply(household(1, member, inbound=nested))
    held = "select id, person_id, role, version from canon.household_member where org_id = %s and deleted_at is null"
    before = await nested.one(held, nested.org)
    assert (before["person_id"], before["role"]) == (None, "head")
    # The list comes again, in another state: it is the same member, and still waits.
    await nested.apply(household(2, {**member, "role": "child"}, inbound=nested))
    assert (await nested.one(held, nested.org))["id"] == before["id"]

    await nested.apply(person("p1", 3, inbound=nested))
    async with nested.conn.transaction():
        resolved = await late_references.resolve(nested.conn, at(70))
    after = await nested.one(held, nested.org)
    assert (resolved, after["person_id"], after["role"]) == (1, (await nested.person())["id"], "child")
    await nested.apply(household(4, {**member, "role": "child"}, inbound=nested))
    assert (await nested.one(held, nested.org))["version"] == after["version"]
    assert await nested.intents() == []
    unresolved = await nested.rows(
        "select 1 from sync.external_link where org_id = %s and link_metadata ? 'unresolved'", nested.org
    )
    assert unresolved == []


async def test_the_items_of_a_record_that_is_merged_are_items_of_the_one_that_is_left(nested):
    await nested.apply(person("p1", 1, email("e1", "a@x"), inbound=nested))
    before = await rows(nested)
    merged = nested.event("p1", {"into": "p2"}, 5, kind="people", connection="sim", op="merge")
    await nested.apply(merged)
    await nested.apply(person("p2", 6, email("e1", "b@x"), email("e2", "a@x"), inbound=nested))
    after = await rows(nested)
    assert after["b@x"][0] == before["a@x"][0]
    assert await links(nested) == {"e1": ("emails", after["b@x"][0]), "e2": ("emails", after["a@x"][0])}
    assert await links(nested, closed=True) == {}
