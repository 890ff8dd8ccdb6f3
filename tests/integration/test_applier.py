"""Their events to our rows, on a real Postgres with its real triggers and roles."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from connectors import registry
from connectors.contract import ExternalRecord, Op
from schemas import events
from schemas import model as models
from schemas.codec import Codec
from schemas.events import InboundEvent
from streams.chunks import Chunk, Late
from streams.inbound import publish
from streams.inbound.agents import ApplyAgent
from streams.inbound.applier import Applied, Applier
from streams.inbound.incoming import Incoming
from streams.settings import Settings
from streams.store import operations

pytestmark = pytest.mark.integration
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODEL = models.load()


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def manifest(system: str):
    return registry.find(system).manifest


class Inbound:
    """One organisation with one connection, and the applier."""

    def __init__(self, conn: psycopg.AsyncConnection, admin: psycopg.AsyncConnection, org: str) -> None:
        self.conn, self.admin, self.org = conn, admin, org
        self.applier = Applier(MODEL, manifest, lambda: at(60))
        self.offset = 0

    async def connect(self, name: str = "parish", **settings) -> None:
        columns = {"org_id": self.org, "name": name, "system": "mock-sync-server", "url": "https://x.example"}
        columns |= {"gates": orjson.dumps(dict.fromkeys(("campus", "household", "person"), "live")).decode()} | settings
        names = ", ".join(columns)
        marks = ", ".join("%s" for _ in columns)
        await self.admin.execute(f"insert into sync.connection ({names}) values ({marks})", list(columns.values()))

    def event(self, external_id="x1", payload=None, minutes=0.0, *, kind="individual", connection="parish", **more):
        source, received = more.pop("source", "webhook"), more.pop("received_at", at(minutes + 1))
        given = {"op": Op.UPDATE if payload is not None else Op.DELETE, "external_version": at(minutes).isoformat()}
        record = ExternalRecord(kind, external_id, occurred_at=at(minutes), payload=payload or {}, **given | more)
        sender = publish.Sender(self.org, connection, "mock-sync-server")
        return publish.event_of(record, sender, source=source, received_at=received)

    def incoming(self, event: InboundEvent) -> Incoming:
        self.offset += 1
        return Incoming(event, position=f"inbound.events/{self.org}/{self.offset}", raw=b"avro")

    async def apply(self, *facts: InboundEvent) -> Applied:
        async with self.conn.transaction():
            return await self.applier.apply(self.conn, [self.incoming(each) for each in facts])

    async def rows(self, statement: str, *values, admin: bool = True) -> list[dict]:
        conn = self.admin if admin else self.conn
        async with conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement, values)
            return await cursor.fetchall() if cursor.description else []

    async def one(self, statement: str, *values) -> dict:
        (row,) = await self.rows(statement, *values)
        return row

    async def people(self) -> list[dict]:
        return await self.rows("select * from canon.person where org_id = %s order by id", self.org)

    async def person(self) -> dict:
        (row,) = await self.people()
        return row

    async def emails(self) -> list[str]:
        found = await self.rows(
            "select address from canon.email where org_id = %s and deleted_at is null order by address", self.org
        )
        return [row["address"] for row in found]

    async def ledger(self) -> list[tuple[str, str]]:
        found = await self.rows(
            "select decision, reason from sync.applied_event where org_id = %s order by occurred_at, received_at",
            self.org,
        )
        return [(row["decision"], row["reason"]) for row in found]

    async def state(self) -> dict:
        return await self.one(
            """select s.*, l.external_id, l.entity_id, l.made_by, l.link_metadata from sync.link_state s
               join sync.external_link l on (l.org_id, l.id) = (s.org_id, s.link_id) where l.org_id = %s""",
            self.org,
        )

    async def letters(self) -> list[dict]:
        return await operations.dead_letters(self.conn, self.org)

    async def intents(self) -> list[dict]:
        return await self.rows("select * from sync.push_intent where org_id = %s order by entity_id", self.org)

    async def edit(self, **columns) -> None:
        """A user of ours edits the only person, at a known time: the applier's role may say when."""
        ours = {**columns, "modified_at": columns.pop("modified_at", at(5))}
        await self.admin.execute("set role syncline_applier")
        pairs = ", ".join(f"{name} = %s" for name in ours)
        await self.admin.execute(f"update canon.person set {pairs} where org_id = %s", [*ours.values(), self.org])
        await self.admin.execute("reset role")


@pytest.fixture
async def connections_to(database: Settings) -> AsyncIterator[tuple[psycopg.AsyncConnection, psycopg.AsyncConnection]]:
    async with (
        await psycopg.AsyncConnection.connect(database.dsn("applier"), autocommit=True) as applier,
        await psycopg.AsyncConnection.connect(database.dsn("admin"), autocommit=True) as admin,
    ):
        yield applier, admin


_number = itertools.count()


@pytest.fixture
async def inbound(connections_to) -> Inbound:
    found = Inbound(*connections_to, f"org{next(_number)}")
    await found.connect()
    return found


ANN = {"firstName": "Ann", "lastName": "Lee", "emails": [{"address": "ann@example.org", "isPrimary": True}]}


# the plain cases ----------------------------------------------------------------------------------------------------


@pytest.mark.covers("F096", "F128", "F130", "C8")
async def test_a_new_record_makes_an_entity_with_its_parts_and_a_link(inbound):
    ann = {**ANN, "lastName": "O'Leary", "birthDate": "1990-04-01"}
    applied = await inbound.apply(inbound.event("x1", ann, 3))
    person = await inbound.person()
    assert (person["first_name"], person["last_name"], str(person["birth_date"])) == ("Ann", "O'Leary", "1990-04-01")
    assert (person["origin"], person["modified_at"], person["version"]) == ("parish", at(3), 1)
    assert await inbound.emails() == ["ann@example.org"]
    state = await inbound.state()
    assert (state["external_id"], state["entity_id"], state["made_by"]) == ("x1", person["id"], "inbound")
    assert (state["external_updated_at"], state["last_processed_at"]) == (at(3), at(60))
    assert state["base"]["last_name"] == "O'Leary"
    assert await inbound.ledger() == [("applied", "created")]
    assert (applied.corrections, await inbound.intents()) == (0, [])
    (part,) = await inbound.rows("select origin, sync_key from canon.email where org_id = %s", inbound.org)
    assert part == {"origin": "parish", "sync_key": person["sync_key"]}


@pytest.mark.covers("F132", "C1")
async def test_create_update_update_with_past_times_ends_in_the_last_value(inbound):
    await inbound.apply(*(inbound.event("x1", {**ANN, "firstName": name}, n - 9000) for n, name in enumerate("ABC")))
    person = await inbound.person()
    assert (person["first_name"], person["version"], person["modified_at"]) == ("C", 1, at(2 - 9000))
    await inbound.apply(inbound.event("x1", {**ANN, "firstName": "D"}, 4 - 9000))
    assert (await inbound.person())["first_name"] == "D"
    assert (await inbound.state())["rev"] == 2


@pytest.mark.covers("C6", "F059")
async def test_an_event_has_one_effect_however_often_and_however_it_comes(inbound):
    event = inbound.event("x1", ANN, 3)
    await inbound.apply(event, event)
    await inbound.apply(event)
    polled = inbound.event("x1", dict(reversed(ANN.items())), 3, source="poll", received_at=at(50))
    assert polled.event_id == event.event_id
    await inbound.apply(polled)
    assert [person["version"] for person in await inbound.people()] == [1]
    assert await inbound.ledger() == [("applied", "created")]


@pytest.mark.covers("F059")
async def test_a_stale_event_changes_nothing(inbound):
    await inbound.apply(inbound.event("x1", {**ANN, "firstName": "new"}, 5))
    await inbound.apply(inbound.event("x1", {**ANN, "firstName": "old"}, 3))
    person = await inbound.person()
    assert (person["first_name"], person["version"], person["field_times"]) == ("new", 1, {})
    assert ("stale", "stale") in await inbound.ledger()


async def test_absent_fields_are_left_alone_and_empty_ones_are_emptied(inbound):
    await inbound.apply(inbound.event("x1", {**ANN, "gender": "f"}, 1))
    await inbound.apply(inbound.event("x1", {"firstName": None, "lastName": ""}, 2))
    person = await inbound.person()
    assert (person["first_name"], person["last_name"], person["gender"]) == (None, "", "f")
    assert await inbound.emails() == ["ann@example.org"]


async def test_parts_come_change_and_go(inbound):
    await inbound.apply(inbound.event("x1", ANN, 1))
    (email,) = await inbound.rows("select id from canon.email where org_id = %s", inbound.org)
    named = {"id": email["id"], "address": "a.lee@example.org", "isPrimary": True}
    await inbound.apply(inbound.event("x1", {**ANN, "emails": [named, {"address": "second@example.org"}]}, 2))
    assert await inbound.emails() == ["a.lee@example.org", "second@example.org"]
    await inbound.apply(inbound.event("x1", {**ANN, "emails": [{"address": "second@example.org"}]}, 3))
    assert await inbound.emails() == ["second@example.org"]
    await inbound.apply(inbound.event("x1", {**ANN, "emails": [named, {"address": "second@example.org"}]}, 4))
    assert await inbound.emails() == ["a.lee@example.org", "second@example.org"]
    assert await inbound.intents() == []


async def test_a_part_of_somebody_else_cannot_be_taken_over(inbound):
    await inbound.apply(inbound.event("x1", ANN, 1))
    (email,) = await inbound.rows("select id, person_id from canon.email where org_id = %s", inbound.org)
    thief = {"firstName": "Eve", "emails": [{"id": email["id"], "address": "eve@example.org"}]}
    await inbound.apply(inbound.event("x2", thief, 2))
    assert await inbound.emails() == ["ann@example.org"]
    assert [letter["code"] for letter in await inbound.letters()] == ["row_not_ours"]


# echoes and corrections ---------------------------------------------------------------------------------------------


async def make_linked(inbound, first_name="Ann", minutes=1.0) -> str:
    await inbound.apply(inbound.event("x1", {"firstName": first_name, "lastName": "Lee"}, minutes))
    return (await inbound.person())["id"]


@pytest.mark.covers("C12", "T15")
async def test_our_own_push_coming_back_changes_nothing(inbound):
    await make_linked(inbound)
    await inbound.edit(first_name="Anna")
    base = {**(await inbound.state())["base"], "first_name": "Anna"}
    await inbound.admin.execute(
        "update sync.link_state set base = %s, pushed_at = %s where org_id = %s",
        (orjson.dumps(base).decode(), at(6), inbound.org),
    )
    before = await inbound.person()
    await inbound.apply(inbound.event("x1", {"firstName": "Anna", "lastName": "Lee"}, 6))
    assert await inbound.person() == before
    assert (await inbound.ledger())[-1] == ("echo", "same")
    assert (await inbound.state())["external_updated_at"] == at(6)
    assert await inbound.intents() == []


@pytest.mark.parametrize(
    ("told", "first_name", "corrections"),
    [
        (at(-54), "theirs", 0),  # their clock is an hour slow, and they told the time of our push: theirs is newer
        (None, "ours", 1),  # they told none: it may be older than our push, so the last write wins
    ],
)
async def test_an_edit_after_our_push_is_newer_by_their_own_clock_if_they_tell_it(
    inbound, told, first_name, corrections
):
    await make_linked(inbound, minutes=-59)
    await inbound.edit(first_name="ours", modified_at=at(5))
    base = {**(await inbound.state())["base"], "first_name": "ours"}
    await inbound.admin.execute(
        """update sync.link_state set base = %s, pushed_at = %s, rev = rev + 1,
             external_updated_at = greatest(external_updated_at, %s) where org_id = %s""",
        (orjson.dumps(base).decode(), at(6), told, inbound.org),
    )
    applied = await inbound.apply(inbound.event("x1", {"firstName": "theirs", "lastName": "Lee"}, -50))
    assert ((await inbound.person())["first_name"], applied.corrections) == (first_name, corrections)
    await inbound.apply(inbound.event("x1", {"firstName": "again", "lastName": "Lee"}, -40))
    assert (await inbound.person())["first_name"] == ("again" if told else "ours")


async def test_a_push_on_its_way_does_not_revert_a_newer_edit_when_it_comes_back(inbound):
    entity = await make_linked(inbound)
    await inbound.edit(first_name="newest", modified_at=at(5))
    await inbound.admin.execute(
        """insert into sync.push_intent
             (org_id, connection, external_type, entity_type, entity_id, sync_key, state, reason, sent)
           values (%s, 'parish', 'individual', 'person', %s, 'k', 'SENDING', 'change', %s)""",
        (inbound.org, entity, orjson.dumps({"first_name": "pushed", "last_name": "Lee"}).decode()),
    )
    await inbound.apply(inbound.event("x1", {"firstName": "pushed", "lastName": "Lee"}, 6))
    assert (await inbound.person())["first_name"] == "newest"
    assert (await inbound.state())["base"]["first_name"] == "pushed"
    assert await inbound.rows("select * from sync.conflict_log where org_id = %s", inbound.org) == []


@pytest.mark.covers("F055", "F058", "C2")
async def test_an_older_edit_there_loses_to_a_newer_one_here_and_is_corrected(inbound):
    entity = await make_linked(inbound)
    await inbound.edit(first_name="ours", modified_at=at(9))
    applied = await inbound.apply(inbound.event("x1", {"firstName": "theirs", "lastName": "Lee"}, 5))
    assert (await inbound.person())["first_name"] == "ours"
    (lost,) = await inbound.rows("select * from sync.conflict_log where org_id = %s", inbound.org)
    assert (lost["field"], lost["base"], lost["ours"], lost["theirs"]) == ("first_name", "Ann", "ours", "theirs")
    assert (lost["winner"], lost["rule"], lost["ours_at"], lost["theirs_at"]) == ("ours", "last_write", at(9), at(5))
    (intent,) = await inbound.intents()
    assert (intent["entity_id"], intent["state"], intent["reason"]) == (entity, "PENDING", "correct_remote")
    assert (applied.corrections, (await inbound.state())["base"]["first_name"]) == (1, "theirs")
    assert (await inbound.ledger())[-1] == ("kept", "last_write")


@pytest.mark.covers("F055", "F058")
async def test_a_newer_edit_there_wins_and_what_it_replaced_is_kept(inbound):
    await make_linked(inbound)
    await inbound.edit(first_name="ours", modified_at=at(4))
    await inbound.apply(inbound.event("x1", {"firstName": "theirs", "lastName": "Lee"}, 5))
    person = await inbound.person()
    assert (person["first_name"], person["origin"], person["modified_at"]) == ("theirs", "parish", at(5))
    (lost,) = await inbound.rows("select * from sync.conflict_log where org_id = %s", inbound.org)
    assert (lost["ours"], lost["winner"], lost["ours_at"], lost["theirs_at"]) == ("ours", "theirs", at(4), at(5))
    assert await inbound.intents() == []


async def test_a_merge_is_local_and_goes_back_to_them(inbound):
    await make_linked(inbound)
    await inbound.edit(gender="f", modified_at=at(4))
    await inbound.apply(inbound.event("x1", {"firstName": "theirs", "lastName": "Lee", "gender": None}, 5))
    person = await inbound.person()
    assert (person["first_name"], person["gender"], person["origin"]) == ("theirs", "f", "local")
    assert [intent["reason"] for intent in await inbound.intents()] == ["correct_remote"]


async def test_a_row_is_local_while_a_push_is_open(inbound):
    entity = await make_linked(inbound)
    await inbound.admin.execute(
        """insert into sync.push_intent (org_id, connection, external_type, entity_type, entity_id, sync_key, reason)
           values (%s, 'parish', 'individual', 'person', %s, 'k', 'change')""",
        (inbound.org, entity),
    )
    await inbound.apply(inbound.event("x1", {"firstName": "theirs", "lastName": "Lee"}, 5))
    assert (await inbound.person())["origin"] == "local"


async def test_what_the_database_made_of_a_value_is_sent_back(inbound):
    event = inbound.event("x1", {"firstName": "Ann", "birthDate": "19900401"}, 5)
    applied = await inbound.apply(event)
    assert str((await inbound.person())["birth_date"]) == "1990-04-01"
    assert applied.corrections == 1
    await inbound.apply(inbound.event("x1", {"firstName": "Ann", "birthDate": "1990-04-01"}, 6))
    assert (await inbound.intents())[0]["wanted_seq"] == 1


@pytest.mark.covers("F057", "F062")
async def test_a_protected_field_is_asked_once_and_closes_when_both_agree(inbound):
    await inbound.apply(inbound.event("x1", {"nationalId": "N0"}, 1))
    await inbound.edit(national_id="N1", modified_at=at(2))
    await inbound.apply(inbound.event("x1", {"nationalId": "N2"}, 5))
    await inbound.apply(inbound.event("x1", {"nationalId": "N3"}, 6))
    (question,) = await inbound.rows("select * from sync.conflict where org_id = %s", inbound.org)
    assert (question["ours"], question["theirs"], question["resolved_at"]) == ("N1", "N3", None)
    assert (await inbound.person())["national_id"] == "N1"
    assert await inbound.intents() == []
    assert (await inbound.ledger())[-1] == ("parked", "protected")
    await inbound.apply(inbound.event("x1", {"nationalId": "N1"}, 7))
    (question,) = await inbound.rows("select * from sync.conflict where org_id = %s", inbound.org)
    assert question["resolution"] == "equal"


@pytest.mark.covers("T16", "C10")
@pytest.mark.parametrize(
    ("policy", "gone", "status", "decision"),
    [
        ("ignore", False, "active", "ignored"),
        ("archive", True, "archived", "applied"),
        ("delete", True, "deleted", "applied"),
    ],
)
async def test_their_deletes_follow_the_connection(inbound, policy, gone, status, decision):
    await inbound.admin.execute(
        "update sync.connection set delete_policy = %s where org_id = %s", (policy, inbound.org)
    )
    await make_linked(inbound)
    await inbound.apply(inbound.event("x1", None, 5))
    person = await inbound.person()
    assert (person["deleted_at"] is not None, person["status"]) == (gone, status)
    assert (await inbound.ledger())[-1][0] == decision
    assert await inbound.intents() == []
    await inbound.apply(inbound.event("x1", {"firstName": "late", "lastName": "Lee"}, 4))
    person = await inbound.person()
    assert (person["deleted_at"] is not None, person["first_name"]) == (gone, "late" if gone else "Ann")
    assert (await inbound.ledger())[-2] == (("applied", "before_delete") if gone else ("stale", "stale"))
    await inbound.apply(inbound.event("x1", {"firstName": "back", "lastName": "Lee"}, 6))
    person = await inbound.person()
    assert (person["deleted_at"], person["status"], person["first_name"]) == (None, "active", "back")


@pytest.mark.covers("F058")
async def test_a_later_edit_of_another_field_does_not_make_an_older_one_win(inbound):
    await make_linked(inbound)
    await inbound.edit(first_name="ours", modified_at=at(5))
    await inbound.edit(gender="x", modified_at=at(20))
    await inbound.apply(inbound.event("x1", {"firstName": "theirs", "lastName": "Lee"}, 10))
    assert (await inbound.person())["first_name"] == "theirs"
    await inbound.apply(inbound.event("x1", {"firstName": "theirs", "lastName": "Lee", "gender": "y"}, 15))
    person = await inbound.person()
    assert (person["first_name"], person["gender"], person["modified_at"]) == ("theirs", "x", at(20))


@pytest.mark.covers("R12")
@pytest.mark.parametrize("together", [True, False])
async def test_a_record_that_they_deleted_before_we_knew_it_is_not_made_by_an_older_event(inbound, together):
    delete, created = inbound.event("x1", None, 5), inbound.event("x1", ANN, 1)
    for batch in [[delete, created]] if together else [[delete], [created]]:
        await inbound.apply(*batch)
    assert await inbound.people() == []
    assert await inbound.ledger() == [("ignored", "unlinked_since"), ("ignored", "unknown_here")]
    # and if it is restored there, it comes
    await inbound.apply(inbound.event("x1", ANN, 9))
    assert (await inbound.person())["first_name"] == "Ann"


async def test_what_was_deleted_here_is_not_revived(inbound):
    entity = await make_linked(inbound)
    await inbound.admin.execute("update canon.person set deleted_at = now() where org_id = %s", (inbound.org,))
    await inbound.apply(inbound.event("x1", {"firstName": "again", "lastName": "Lee"}, 90))
    person = await inbound.person()
    assert person["deleted_at"] is not None
    assert (await inbound.ledger())[-1] == ("kept", "deleted_here")
    await inbound.admin.execute("delete from canon.person where org_id = %s", (inbound.org,))
    await inbound.apply(inbound.event("x1", {"firstName": "again 2", "lastName": "Lee"}, 91))
    await inbound.apply(inbound.event(entity, {"firstName": "again 3", "lastName": "Lee"}, 92))
    assert await inbound.people() == []
    assert (await inbound.ledger())[-2:] == [("ignored", "deleted_here")] * 2


# links --------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("C12")
async def test_a_record_that_has_our_id_is_our_entity(inbound):
    await inbound.admin.execute(
        "insert into canon.person (org_id, first_name, modified_at) values (%s, 'Ann', %s)", (inbound.org, at(0))
    )
    entity = (await inbound.person())["id"]
    await inbound.apply(inbound.event(entity, {"firstName": "Ann", "lastName": None}, 5))
    assert [person["id"] for person in await inbound.people()] == [entity]
    state = await inbound.state()
    assert (state["external_id"], state["entity_id"], state["made_by"]) == (entity, entity, "inbound")
    assert (await inbound.ledger())[-1] == ("echo", "same")


async def test_an_id_of_ours_in_another_organisation_is_a_stranger(inbound, connections_to):
    other = Inbound(*connections_to, f"{inbound.org}b")
    await other.connect()
    await other.admin.execute("insert into canon.person (org_id, first_name) values (%s, 'Secret')", (other.org,))
    stranger = (await other.person())["id"]
    await inbound.apply(inbound.event(stranger, {"firstName": "Ann"}, 5))
    assert (await inbound.person())["id"] != stranger
    assert (await other.person())["first_name"] == "Secret"


@pytest.mark.covers("F098")
async def test_where_we_are_the_source_of_truth_unmatched_records_make_nothing(inbound):
    await inbound.admin.execute("update sync.connection set option = 2 where org_id = %s", (inbound.org,))
    await inbound.apply(inbound.event("x1", ANN, 5))
    assert (await inbound.people(), await inbound.ledger()) == ([], [("ignored", "option_2")])


@pytest.mark.covers("F100")
async def test_where_they_are_the_source_of_truth_records_make_entities(inbound):
    await inbound.admin.execute("update sync.connection set option = 3 where org_id = %s", (inbound.org,))
    await inbound.apply(inbound.event("x1", ANN, 5))
    assert len(await inbound.people()) == 1


@pytest.mark.covers("C15")
async def test_equal_external_ids_of_types_connections_and_organisations_do_not_collide(inbound, connections_to):
    other = Inbound(*connections_to, f"{inbound.org}b")
    await other.connect()
    await inbound.connect("second")
    await inbound.apply(
        inbound.event("7", {"firstName": "Ann"}, 1),
        inbound.event("7", {"name": "The Lees"}, 1, kind="household"),
        inbound.event("7", {"firstName": "Bob"}, 1, connection="second"),
        other.event("7", {"firstName": "Cid"}, 1),
    )
    assert sorted(person["first_name"] for person in await inbound.people()) == ["Ann", "Bob"]
    assert (await other.person())["first_name"] == "Cid"
    assert (await inbound.one("select name from canon.household where org_id = %s", inbound.org))["name"] == "The Lees"


async def test_references_are_resolved_within_a_batch_and_noted_when_they_cannot_be(inbound):
    await inbound.apply(
        inbound.event("x1", {"firstName": "Ann", "householdId": "h1"}, 1),
        inbound.event("h1", {"name": "The Lees"}, 1, kind="household"),
    )
    (household,) = await inbound.rows("select id from canon.household where org_id = %s", inbound.org)
    assert (await inbound.person())["household_id"] == household["id"]
    await inbound.apply(inbound.event("x2", {"firstName": "Bob", "householdId": "h2"}, 1))
    (link,) = await inbound.rows(
        "select link_metadata from sync.external_link where org_id = %s and external_id = 'x2'", inbound.org
    )
    assert link["link_metadata"] == {"unresolved": {"household_id": ["household", "h2"]}}
    (bob,) = [person for person in await inbound.people() if person["first_name"] == "Bob"]
    assert bob["origin"] == "parish", "what we could not read must not go back to them as empty"


# what goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.covers("C7", "C17", "C11")
async def test_one_bad_event_does_not_stop_the_others(inbound):
    good = [inbound.event(f"x{n}", {"firstName": f"P{n}"}, n) for n in range(9)]
    bad = [
        inbound.event("bad1", {"birthDate": "yesterday"}, 1),
        inbound.event("bad2", {"firstName": "\x00"}, 1),
        inbound.event("bad3", {"firstName": "x"}, 1, kind="unicorn"),
        replace(inbound.event("bad4", {}, 1), payload=b"[1]", event_id=b"4" * 16),
        replace(inbound.event("bad5", {}, 1, source="fetch"), complete=False, event_id=b"5" * 16),
        inbound.event("bad\x006", {"firstName": "x"}, 1),
        inbound.event("bad7", {"firstName": "x"}, 1, connection="nobody"),
        inbound.event("b" * 1001, {"firstName": "x"}, 1),
    ]
    order = [event for pair in itertools.zip_longest(good, bad) for event in pair if event]
    await inbound.apply(*order)
    assert len(await inbound.people()) == len(good)
    letters = await inbound.letters()
    assert sorted(letter["code"] for letter in letters) == sorted(
        ["value_refused", "value_refused", "type_unknown", "payload_unreadable", "incomplete_event", "id_unreadable",
         "connection_unknown", "id_unreadable"]
    )  # fmt: skip
    assert not [letter for letter in letters if "yesterday" in letter["cause"]]
    assert await operations.dead_letter_value(inbound.admin, inbound.org, letters[0]["id"], "test") == b"avro"
    await inbound.apply(*order)
    again = await inbound.letters()
    assert len(again) == len(letters) + 1, "only the event that the ledger cannot hold comes again"


async def test_an_authentic_webhook_that_nobody_can_read_is_kept(inbound):
    sender = publish.Sender(inbound.org, "parish", "mock-sync-server")
    await inbound.apply(
        publish.unreadable(b"{", sender, received_at=at(1), delivery_id="d1", content_type="application/json")
    )
    assert [letter["code"] for letter in await inbound.letters()] == ["webhook_unreadable"]


@pytest.mark.covers("F131")
@pytest.mark.parametrize(
    ("given", "reason"),
    [({"op": "hint"}, "hint"), ({}, "partial"), ({"op": "delete"}, "delete")],
)
async def test_what_holds_no_whole_record_makes_a_wish_to_read_it(inbound, given, reason):
    await inbound.apply(replace(inbound.event("x1", {}, 1), complete=False, **given))
    assert await inbound.ledger() == [("ignored", "fetching")]
    wish = await inbound.one("select * from sync.fetch_intent where org_id = %s", inbound.org)
    assert (wish["external_id"], wish["reason"], wish["wanted_seq"], wish["done_seq"]) == ("x1", reason, 1, 0)
    await inbound.apply(replace(inbound.event("x1", {}, 2), complete=False, **given))
    wish = await inbound.one("select * from sync.fetch_intent where org_id = %s", inbound.org)
    assert (wish["wanted_seq"], wish["done_seq"]) == (2, 0)


@pytest.mark.covers("F131")
async def test_what_was_read_and_is_not_whole_is_not_read_again(inbound):
    await inbound.apply(replace(inbound.event("x1", {}, 1, source="fetch"), complete=False))
    assert await inbound.ledger() == [("parked", "incomplete_event")]
    assert await inbound.rows("select 1 from sync.fetch_intent where org_id = %s", inbound.org) == []


@pytest.mark.covers("C4")
async def test_an_unknown_type_is_kept_once(inbound):
    event = inbound.event("u1", {"a": 1}, 1, kind="unicorn")
    await inbound.apply(event)
    await inbound.apply(event)
    assert [letter["code"] for letter in await inbound.letters()] == ["type_unknown"]
    assert await inbound.ledger() == [("parked", "type_unknown")]


async def test_a_rule_of_the_users_own_makes_a_review_item_that_names_it(inbound):
    await inbound.admin.execute(
        f"create unique index only_one_{inbound.org} on canon.person (national_id) where org_id = '{inbound.org}'"
    )
    events = [inbound.event(f"x{n}", {"firstName": f"P{n}", "nationalId": "same"}, n) for n in range(3)]
    await inbound.apply(*events)
    assert [person["first_name"] for person in await inbound.people()] == ["P0"]
    reviews = await inbound.rows("select * from sync.review where org_id = %s order by subject", inbound.org)
    assert [(r["kind"], r["subject"], r["detail"]["constraint"]) for r in reviews] == [
        ("constraint", "x1", f"only_one_{inbound.org}"),
        ("constraint", "x2", f"only_one_{inbound.org}"),
    ]
    assert reviews[0]["detail"]["payload"]["nationalId"] == "same"
    assert (await inbound.ledger())[1] == ("parked", f"constraint only_one_{inbound.org}")


async def test_what_was_refused_is_looked_at_again_when_a_person_redrives_it(inbound):
    column = "alter table canon.person add constraint named check (org_id <> '{}' or last_name is not null)"
    await inbound.admin.execute(column.format(inbound.org))
    event = inbound.event("x1", {"firstName": "Ann"}, 5)
    await inbound.apply(event)
    await inbound.apply(replace(event, source="redrive"))
    assert await inbound.ledger() == [("parked", "constraint named")]
    [review] = await inbound.rows("select * from sync.review where org_id = %s", inbound.org)
    assert (review["closed_at"], review["value"]) == (None, b"avro")
    await inbound.admin.execute("alter table canon.person drop constraint named")
    await inbound.apply(event)
    assert await inbound.people() == [], "whoever merely delivers it again changes nothing"
    await inbound.apply(replace(event, source="redrive"), replace(event, source="redrive"))
    assert (await inbound.person())["first_name"] == "Ann"
    assert await inbound.ledger() == [("applied", "created")]
    [review] = await inbound.rows("select * from sync.review where org_id = %s", inbound.org)
    assert review["closed_at"] == at(60)
    before = await inbound.person()
    await inbound.apply(replace(event, source="redrive"))
    assert await inbound.person() == before


async def test_events_of_a_type_that_is_not_live_or_a_connection_that_left_are_read_again_later(inbound):
    event = inbound.event("x1", ANN, 1)
    await inbound.admin.execute("update sync.connection set gates = '{}' where org_id = %s", (inbound.org,))
    held = await inbound.apply(event)
    assert (held.decisions["parish", "held"], await inbound.ledger()) == (1, [])
    await inbound.admin.execute(
        """update sync.connection set gates = '{"person": "live"}' where org_id = %s""", (inbound.org,)
    )
    await inbound.apply(event)
    assert len(await inbound.people()) == 1


@pytest.mark.covers("R19")
async def test_a_crash_before_the_commit_leaves_nothing_and_the_replay_applies_once(inbound):
    events = [inbound.event("x1", ANN, 1), inbound.event("x1", {**ANN, "firstName": "Anna"}, 2)]
    async with inbound.conn.transaction(force_rollback=True):
        await inbound.applier.apply(inbound.conn, [inbound.incoming(event) for event in events])
    assert (await inbound.people(), await inbound.ledger()) == ([], [])
    await inbound.apply(*events)
    await inbound.apply(*events)
    person = await inbound.person()
    assert (person["first_name"], person["version"], await inbound.emails()) == ("Anna", 1, ["ann@example.org"])


async def test_two_workers_with_the_same_event_have_one_effect(inbound, database):
    event = inbound.event("x1", ANN, 1)
    async with await psycopg.AsyncConnection.connect(database.dsn("applier")) as second:
        await inbound.applier.apply(second, [inbound.incoming(event)])
        told = await inbound.apply(event)  # the other one has its row
        assert told.decisions == {("parish", "waiting"): 1}
        await second.commit()
    await inbound.apply(event)
    assert len(await inbound.people()) == 1


@pytest.mark.covers("F054")
async def test_every_order_of_arrival_ends_in_the_same_state(inbound):
    history = [
        {"firstName": "A", "lastName": "Lee", "emails": []},
        {"firstName": "B", "lastName": "Lee", "emails": [{"address": "b@example.org"}]},
        {"firstName": "B", "lastName": "Li", "emails": [{"address": "b@example.org"}, {"address": "c@example.org"}]},
        {"firstName": "D", "lastName": None, "emails": [{"address": "c@example.org"}]},
    ]
    for number, order in enumerate(itertools.permutations(range(4))):
        record = f"r{number}"
        await inbound.apply(inbound.event(record, {"firstName": "start", "lastName": "start", "emails": []}, 0))
        for n in order:
            await inbound.apply(inbound.event(record, history[n], n + 1, received_at=at(n + 1)))
    assert {(p["first_name"], p["last_name"], p["modified_at"]) for p in await inbound.people()} == {("D", None, at(4))}
    assert set(await inbound.emails()) == {"c@example.org"}
    assert len(await inbound.emails()) == 24
    assert await inbound.intents() == []


@pytest.mark.covers("C3")
async def test_events_of_one_instant_end_in_the_one_received_last(inbound):
    events = [
        inbound.event("x1", {"firstName": n}, 5, received_at=at(10 + i), external_version=None)
        for i, n in enumerate("AB")
    ]
    await inbound.apply(events[1])
    await inbound.apply(events[0])
    assert (await inbound.person())["first_name"] == "B"


async def test_records_that_only_a_poll_brought_are_counted(inbound):
    await inbound.admin.execute(
        "insert into sync.checkpoint (org_id, connection, external_type) values (%s, 'parish', 'individual')",
        (inbound.org,),
    )
    await inbound.apply(inbound.event("x1", ANN, 1, source="poll"))
    await inbound.admin.execute(
        "insert into sync.webhook_endpoint (token_hash, org_id, connection, created_at) values (%s, %s, 'parish', %s)",
        (inbound.org.encode(), inbound.org, at(2)),
    )
    await inbound.apply(inbound.event("x2", {}, 1, source="poll"), inbound.event("x3", {}, 3, source="poll"))
    await inbound.apply(inbound.event("x4", {}, 3))
    (checkpoint,) = await inbound.rows("select recovered from sync.checkpoint where org_id = %s", inbound.org)
    assert checkpoint["recovered"] == 1


# the agent ----------------------------------------------------------------------------------------------------------


@pytest.mark.covers("R19")
async def test_a_chunk_that_comes_again_is_late_and_has_no_second_effect(inbound, database):
    codec = Codec(OneSchema())
    await codec.learn([events.encode(inbound.event("x1", ANN, 1), 7)])
    facts = [inbound.event("x1", ANN, 1), inbound.event("x1", {**ANN, "firstName": "Anna"}, 2)]
    records = [Record(n, fact.key, events.encode(fact, 7)) for n, fact in enumerate(facts, start=40)]
    records.append(Record(42, b"k", b"poison"))
    chunk = Chunk("inbound.events", next(_number), 40, 43, records)
    woken = []
    async with AsyncConnectionPool(database.dsn("applier"), open=False, kwargs={"autocommit": True}) as pool:
        agent = ApplyAgent(pool, codec, inbound.applier, now=lambda: at(60), wake=lambda: woken.append(1))
        await agent([chunk])
        with pytest.raises(Late):
            await agent([chunk])
    assert (await inbound.person())["first_name"] == "Anna"
    (letter,) = await inbound.rows(
        "select code, value from sync.dead_letter where position = %s", f"inbound.events/{chunk.partition}/42"
    )
    assert letter == {"code": "not_avro", "value": b"poison"}
    assert woken == []


class OneSchema:
    async def schema(self, _):
        return events.schema("inbound_event")


class Record:
    def __init__(self, offset, key, value):
        self.offset, self.key, self.value, self.timestamp, self.headers = offset, key, value, 0, ()
