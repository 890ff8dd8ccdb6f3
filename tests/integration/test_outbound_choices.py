"""What a connection chose: who is there, which fields, what follows a delete; and what a record must wait for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from connectors.contract import CreateTier, Delivered, Failed, Manifest
from connectors.errors import NotApplied
from schemas.fields import Aggregate, Field
from streams.settings import Settings
from streams.store import waits
from tests.integration.scripted import MANIFEST, Outbound, outbound_of

pytestmark = pytest.mark.integration


def changed(change: Callable[[Field], Field], **over: object) -> Manifest:
    """The manifest with other fields, its aggregates with `over`."""

    def aggregate(each: Aggregate) -> Aggregate:
        return replace(each, fields=tuple(change(field) for field in each.fields), **over)  # type: ignore[arg-type]

    return replace(MANIFEST, aggregates=tuple(aggregate(each) for each in MANIFEST.aggregates))


ARCHIVES = changed(lambda field: field, archive={"status": "inactive"})
WAITS = changed(lambda f: replace(f, on_missing="wait") if f.canonical == "household_id" else f)
ACTIVE = {"person": [{"field": "status", "op": "eq", "value": "active"}]}


async def reason(out: Outbound, entity_id: str) -> tuple[object, ...]:
    cursor = await out.conn.execute(
        "select state, error_code, error_cause from sync.push_intent where org_id = %s and entity_id = %s",
        (out.org, entity_id),
    )
    return tuple(await cursor.fetchone() or ())


async def test_a_row_that_fails_the_filter_is_skipped_with_a_reason(database: Settings) -> None:
    async with outbound_of(database, "org_filter", filters=ACTIVE) as out:
        person = await out.insert(status="inactive")
        await out.plan(person)
        await out.round()
        assert out.theirs.bodies == []
        assert await reason(out, person) == ("DONE", "filtered_out", None)

        await out.sql("update canon.person set status = 'active' where id = %s", person)
        await out.plan(person)
        await out.round()
        assert [s["op"] for s in out.theirs.sent] == ["create"]


@pytest.mark.parametrize(
    ("on_leave", "told", "writes"),
    [
        ("keep", "left_kept", []),
        ("archive", None, [("update", {"status": "inactive"})]),
        ("delete", None, [("delete", {})]),
    ],
)
async def test_a_row_that_leaves_the_filter(
    database: Settings, on_leave: str, told: str | None, writes: list[tuple[str, dict[str, str]]]
) -> None:
    over = {"filters": ACTIVE, "on_leave": on_leave}
    async with outbound_of(database, f"org_leave_{on_leave}", manifest=ARCHIVES, **over) as out:
        person = await out.insert(status="active")
        await out.plan(person)
        await out.round()
        await out.sql("update canon.person set status = 'inactive' where id = %s", person)
        for _ in range(2):  # the second time there is nothing left to do
            await out.plan(person)
            await out.round()

        assert [(s["op"], s["payload"]) for s in out.theirs.sent[1:]] == writes
        assert (await reason(out, person))[0] == "DONE"
        if told:
            assert (await reason(out, person))[1] == told

        await out.sql("update canon.person set status = 'active' where id = %s", person)
        await out.plan(person)
        await out.round()
        back = {"keep": [], "archive": ["update"], "delete": ["create"]}[on_leave]
        assert [s["op"] for s in out.theirs.sent[1 + len(writes) :]] == back


async def test_a_record_that_returns_is_created_under_a_new_key(database: Settings) -> None:
    async with outbound_of(database, "org_returns", delete_policy="delete") as out:
        person = await out.insert()
        await out.plan(person)
        await out.round()
        await out.sql("update canon.person set deleted_at = '2026-01-01' where id = %s", person)
        await out.plan(person)
        await out.round()
        await out.sql("update canon.person set deleted_at = null where id = %s", person)
        await out.plan(person)
        await out.round()

        assert [s["op"] for s in out.theirs.sent] == ["create", "delete", "create"]
        assert out.theirs.sent[0]["key"] != out.theirs.sent[2]["key"]


async def test_excluded_fields_and_parts_are_neither_sent_nor_compared(database: Settings) -> None:
    choice = {"person": {"exclude": ["national_id", "email"]}}
    async with outbound_of(database, "org_exclude", fields=choice) as out:
        person = await out.insert(first_name="Ann", national_id="42")
        await out.plan(person)
        await out.round()
        assert "nationalId" not in out.theirs.sent[0]["payload"]  # type: ignore[operator]
        assert "emails" not in out.theirs.sent[0]["payload"]  # type: ignore[operator]

        await out.sql("update canon.person set national_id = '43' where id = %s", person)
        await out.sql("insert into canon.email (org_id, person_id, address) values (%s, %s, 'a@b.c')", out.org, person)
        # what an event of theirs told of the excluded fields stays known
        await out.sql('update sync.link_state set base = base || \'{"national_id": "7"}\' where org_id = %s', out.org)
        await out.plan(person)
        await out.round()
        assert len(out.theirs.bodies) == 1

        await out.sql("update canon.person set first_name = 'Eve' where id = %s", person)
        await out.plan(person)
        await out.round()
        assert out.theirs.sent[1]["changed"] == ["firstName"]
        assert await out.sql("select base->>'national_id' from sync.link_state where org_id = %s", out.org) == "7"


@pytest.mark.covers("T10")
async def test_a_record_waits_visibly_for_what_it_must_have(database: Settings) -> None:
    async with outbound_of(database, "org_waits", manifest=WAITS) as out:
        home = await out.insert("household", name="Lee")
        person = await out.insert(household_id=home)
        await out.plan(person)  # the household was never wished for: the person brings it along
        await out.round()

        assert out.theirs.bodies == []
        assert await reason(out, person) == ("WAITING", "waiting", f"waiting for {home}")
        await out.round()
        await out.round()
        assert [s["ours"] for s in out.theirs.sent] == [home, person]
        assert (await reason(out, person))[0] == "DONE"
        assert await out.sql("select count(*) from sync.push_wait where org_id = %s", out.org) == 0


async def test_a_parent_that_will_not_sync_resolves_the_wait_until_it_links(database: Settings) -> None:
    gates = {"person": "live", "campus": "live"}
    async with outbound_of(database, "org_hopeless", manifest=WAITS, gates=gates) as out:
        home = await out.insert("household", name="Lee")
        person = await out.insert(household_id=home)
        await out.plan(person)
        await out.round()
        assert await reason(out, person) == ("DONE", "parent_not_synced", f"waiting for {home}")

        await out.sql(
            "insert into sync.external_link (org_id, connection, external_type, external_id, entity_type, entity_id,"
            " sync_key, made_by) values (%s, 'mirror', 'household', 'their_home', 'household', %s, %s, 'person')",
            out.org, home, f"{out.org}/{home}",
        )  # fmt: skip
        assert await waits.release_linked(out.conn, now=out.now) == 1
        await out.round()
        assert out.theirs.sent[0]["payload"]["householdId"] == "their_home"  # type: ignore[index]


async def test_a_parent_that_turns_out_to_be_filtered_lets_its_child_know(database: Settings) -> None:
    filters = {"household": [{"field": "status", "op": "eq", "value": "active"}]}
    async with outbound_of(database, "org_filtered_parent", manifest=WAITS, filters=filters) as out:
        home = await out.insert("household", name="Lee", status="closed")
        person = await out.insert(household_id=home)
        await out.plan(person)
        for _ in range(3):
            await out.round()

        assert out.theirs.bodies == []
        assert (await reason(out, home))[:2] == ("DONE", "filtered_out")
        assert await reason(out, person) == ("DONE", "parent_not_synced", f"waiting for {home}")


async def test_a_reference_that_may_be_empty_follows_in_a_second_pass(database: Settings) -> None:
    manifest = replace(MANIFEST, create_tier=CreateTier.KEYED)
    async with outbound_of(database, "org_second", manifest=manifest) as out:
        out.theirs.answer = lambda sent: Delivered(str(sent["id"] or f"their_{sent['ours']}"), 200)
        home = await out.insert("household", name="Lee")
        person = await out.insert(household_id=home)
        await out.plan(person)
        await out.round()
        assert "householdId" not in out.theirs.sent[0]["payload"]  # type: ignore[operator]

        await out.plan(home)
        await out.round()
        await out.round()
        assert [s["ours"] for s in out.theirs.sent] == [person, home, person]
        assert out.theirs.sent[2]["changed"] == ["householdId"]
        assert out.theirs.sent[2]["payload"]["householdId"] == f"their_{home}"  # type: ignore[index]


async def test_an_accidental_delete_is_held_before_it_reaches_them(database: Settings) -> None:
    async with outbound_of(database, "org_guard", delete_policy="delete") as out:
        people = [await out.insert() for _ in range(60)]
        await out.plan(*people)
        await out.round()
        await out.sql("delete from canon.person where org_id = %s", out.org)
        await out.plan(*people)
        for _ in range(6):
            await out.commit(await out.send(await out.take(limit=7)))

        deletes = [s for s in out.theirs.sent if s["op"] == "delete"]
        assert len(deletes) == 14  # two batches of seven; the third would have passed 20
        held = (
            "select count(*) from sync.push_intent where org_id = %s and state = 'HELD' and error_code = 'mass_change'"
        )
        assert await out.sql(held, out.org) == 28

        fine = await out.insert()
        await out.plan(fine)
        await out.conn.execute(
            "update sync.push_intent set state = 'PENDING' where org_id = %s and state = 'HELD'", (out.org,)
        )
        for _ in range(8):
            await out.commit(await out.send(await out.take(limit=7)))
        # approved (they carry their hold) they go, and the rest is still held
        assert len([s for s in out.theirs.sent if s["op"] == "delete"]) == 14 + 28
        assert (await out.state(fine))[0] == "DONE"


async def test_deletes_below_the_bound_are_let_through_in_every_window(database: Settings) -> None:
    async with outbound_of(database, "org_few", delete_policy="delete", guard={"deletes": 5}) as out:
        people = [await out.insert() for _ in range(10)]
        await out.plan(*people)
        await out.round()
        for start in (0, 5):
            await out.conn.execute("delete from canon.person where id = any(%s)", (people[start : start + 5],))
            await out.plan(*people[start : start + 5])
            await out.round()
            out.now += timedelta(minutes=10)

        assert len([s for s in out.theirs.sent if s["op"] == "delete"]) == 10


async def test_a_write_that_is_tried_again_is_counted_once(database: Settings) -> None:
    async with outbound_of(database, "org_counted", guard={"updates": 5}) as out:
        people = [await out.insert() for _ in range(5)]
        await out.plan(*people)
        await out.round()
        await out.sql("update canon.person set first_name = 'Eve' where org_id = %s", out.org)
        await out.plan(*people)
        out.theirs.answer = lambda _: Failed(NotApplied("no_connection", "no connection"))
        await out.round()
        out.now += timedelta(seconds=2)
        out.theirs.answer = lambda sent: Delivered(str(sent["id"]), 200)
        await out.round()

        assert [(await out.state(person))[0] for person in people] == ["DONE"] * 5
