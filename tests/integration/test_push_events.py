"""Event-like entities: every version is delivered, in order, none left out and none twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import psycopg
import pytest

from connectors import registry
from connectors.contract import Delivered, Failed
from connectors.errors import Ambiguous, Rejected
from streams.settings import Settings
from streams.store import migrate, push_events
from tests.integration.scripted import Outbound, Sent, outbound_of

pytestmark = pytest.mark.integration
SIM = registry.find("sim-keyed").manifest
MANIFEST = replace(SIM, aggregates=tuple(a for a in SIM.aggregates if a.root in ("person", "referral")))


@pytest.fixture
async def out(database: Settings, request: pytest.FixtureRequest) -> AsyncIterator[Outbound]:
    org = f"org_{request.node.name[-40:].lower()}"
    async with outbound_of(database, org, manifest=MANIFEST, delete_policy="delete") as found:
        found.every_change = lambda entity_type: entity_type == "referral"
        found.theirs.answer = lambda sent: Delivered(str(sent["id"] or f"their_{sent['ours']}"), 200)
        yield found


def decisions(out: Outbound, referral: str) -> list[tuple[object, object]]:
    sent = [s for s in out.theirs.sent if s["ours"] == referral]
    return [(s["op"], s["payload"].get("decision")) for s in sent]  # type: ignore[attr-defined]


@pytest.mark.covers("F139")
async def test_ten_referrals_are_ten_deliveries(out: Outbound) -> None:
    referrals = [await out.insert("referral", service="food") for _ in range(10)]
    await out.plan(*referrals)
    await out.plan(*referrals)
    await out.rounds()

    assert sorted(str(s["ours"]) for s in out.theirs.sent) == sorted(referrals)
    assert {(await out.state(each))[0] for each in referrals} == {"DONE"}


@pytest.mark.covers("F139", "F054")
async def test_edits_between_are_delivered_one_by_one_in_order(out: Outbound) -> None:
    referral = await out.insert("referral", service="food")
    for decision in ("waits", "accepted", "waits"):  # the last one takes back the one before
        await out.sql("update canon.referral set decision = %s where id = %s", decision, referral)
    await out.sql("update canon.referral set decision = decision where id = %s", referral)  # changes nothing
    await out.sql("delete from canon.referral where id = %s", referral)
    await out.plan(referral)
    await out.rounds()

    expected = [("create", None), ("update", "waits"), ("update", "accepted"), ("update", "waits"), ("delete", None)]
    assert decisions(out, referral) == expected
    keys = [s["key"] for s in out.theirs.sent]
    assert len(set(keys)) == len(keys)


async def test_a_version_whose_answer_was_lost_is_repeated_before_the_next(out: Outbound) -> None:
    referral = await out.insert("referral", service="food")
    await out.plan(referral)
    await out.rounds()
    for decision in ("a", "b"):
        await out.sql("update canon.referral set decision = %s where id = %s", decision, referral)
    await out.plan(referral)
    good = out.theirs.answer
    out.theirs.answer = lambda _: Failed(Ambiguous("no_answer", "no answer in time"))
    await out.round()
    out.theirs.answer = good
    for _ in range(4):
        out.now += timedelta(seconds=5)
        await out.round()

    assert decisions(out, referral)[1:] == [("update", "a"), ("update", "a"), ("update", "b")]
    assert out.theirs.bodies[1] == out.theirs.bodies[2]


@pytest.mark.covers("C17")
async def test_a_refused_version_keeps_the_order_until_a_person_decides(out: Outbound) -> None:
    referral, other = await out.insert("referral", service="food"), await out.insert("referral", service="food")
    await out.plan(referral, other)
    await out.rounds()

    def answer(sent: Sent) -> Delivered | Failed:
        if sent["payload"].get("decision") == "bad":  # type: ignore[attr-defined]
            return Failed(Rejected("http_422", "unknown decision", status=422))
        return Delivered(str(sent["id"]), 200)

    out.theirs.answer = answer
    for decision in ("bad", "good"):
        await out.sql("update canon.referral set decision = %s where id = %s", decision, referral)
    await out.sql("update canon.referral set decision = 'good' where id = %s", other)
    await out.plan(referral, other)
    await out.rounds()

    assert (await out.state(referral))[0] == "PARKED"
    assert decisions(out, referral)[1:] == [("update", "bad")]
    assert decisions(out, other)[1:] == [("update", "good")]


async def test_what_came_from_there_is_told_to_the_others_only(out: Outbound, database: Settings) -> None:
    referral = await out.insert("referral", service="food")
    async with await psycopg.AsyncConnection.connect(database.dsn("applier"), autocommit=True) as applier:
        await applier.execute(
            "update canon.referral set decision = 'theirs', origin = 'mirror', origin_event = 'e1' where id = %s",
            (referral,),
        )
    await out.sql("update canon.referral set decision = 'ours' where id = %s", referral)

    async def told(connection: str) -> list[object]:
        after, found = 0, []
        while event := (await push_events.next_events(out.conn, out.org, connection, [(referral, after)])).get(
            referral
        ):
            after = event.id
            found.append(event.row["decision"])
        return found

    assert await told("mirror") == [None, "ours"]
    assert await told("another") == [None, "theirs", "ours"]


async def test_what_is_rolled_back_never_happened(out: Outbound) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):  # noqa: PT012  the transaction must end in it
        async with out.conn.transaction():
            await out.insert("referral", service="food")
            await out.sql("select 1 / 0")
    assert await out.sql("select count(*) from sync.push_event where org_id = %s", out.org) == 0


async def test_old_versions_go_when_every_system_has_them(out: Outbound) -> None:
    done, waiting = await out.insert("referral", service="food"), await out.insert("referral", service="food")
    for each in (done, waiting):
        await out.sql("update canon.referral set decision = 'accepted' where id = %s", each)
    await out.plan(done)
    await out.rounds()
    await out.plan(waiting)
    later = datetime.now(UTC) + timedelta(days=31)

    await push_events.forget(out.conn, kept_days=30, now=later)

    left = await out.conn.execute("select entity_id from sync.push_event where org_id = %s", (out.org,))
    # the newest stays for who comes later
    assert sorted(await left.fetchall()) == sorted([(done,), (waiting,), (waiting,)])


# the log itself -----------------------------------------------------------------------------------------------------


async def log(out: Outbound, entity_id: str) -> list[tuple[int, str]]:
    query = "select id, op from sync.push_event where entity_id = %s order by id"
    return await (await out.conn.execute(query, (entity_id,))).fetchall()


async def applied(database: Settings, referral: str, origin: str, event: str) -> None:
    """An edit that came from a connection."""
    async with await psycopg.AsyncConnection.connect(database.dsn("applier"), autocommit=True) as applier:
        await applier.execute(
            "update canon.referral set decision = %s, origin = %s, origin_event = %s where id = %s",
            (event, origin, event, referral),
        )


async def test_a_batch_asks_for_each_entity_after_its_own_place(out: Outbound, database: Settings) -> None:
    one, two, own, unknown = [await out.insert("referral", service="food") for _ in range(3)] + ["referral_none"]
    for each in (one, own):
        await applied(database, each, "mirror", f"a {each}")
        await applied(database, each, "mirror", f"b {each}")
    await out.sql("update canon.referral set decision = 'ours' where id = %s", one)
    first, _, skipped, last = [event for event, _ in await log(out, one)]
    (only,) = [event for event, _ in await log(out, two)]
    created = (await log(out, own))[0][0]

    async def told(*wanted: tuple[str, int]) -> dict[str, tuple[int, bool, int]]:
        found = await push_events.next_events(out.conn, out.org, "mirror", wanted)
        return {entity_id: (event.id, event.more, event.passed) for entity_id, event in found.items()}

    asked = await told((one, 0), (two, 0), (own, created), (unknown, 0))
    assert asked == {one: (first, True, 0), two: (only, False, 0)}
    assert await told((one, first), (two, only)) == {one: (last, False, skipped)}
    assert await told() == {}
    assert await push_events.next_events(out.conn, "another_org", "mirror", [(one, 0)]) == {}


@pytest.mark.parametrize(
    ("passed", "by", "state", "left"),
    [
        ("", "mirror", "active", 3),
        ("first", "mirror", "active", 2),
        ("last", "mirror", "active", 1),  # the newest of a living one stays
        ("", "mirror", "disconnected", 1),
        ("", "", "active", 1),  # nobody wants it
    ],
)
async def test_what_may_go_is_what_every_connection_has_passed(
    out: Outbound, passed: str, by: str, state: str, left: int
) -> None:
    referral = await out.insert("referral", service="food")
    for decision in ("a", "b"):
        await out.sql("update canon.referral set decision = %s where id = %s", decision, referral)
    ids = [event for event, _ in await log(out, referral)]
    if by:
        await out.plan(referral)
        done = {"": 0, "first": ids[0], "last": ids[-1]}[passed]
        await out.sql("update sync.push_intent set event_done = %s where entity_id = %s", done, referral)
    await out.sql("update sync.connection set state = %s where org_id = %s", state, out.org)

    await push_events.forget(out.conn, kept_days=30, now=datetime.now(UTC) + timedelta(days=29))
    assert len(await log(out, referral)) == 3
    await push_events.forget(out.conn, kept_days=30, now=datetime.now(UTC) + timedelta(days=31))
    assert [event for event, _ in await log(out, referral)] == ids[-left:]


async def test_what_a_connection_brought_does_not_wait_for_it(out: Outbound, database: Settings) -> None:
    referral = await out.insert("referral", service="food")
    await out.plan(referral)
    await out.rounds()
    for event in ("e1", "e2"):
        await applied(database, referral, "mirror", event)
    await push_events.forget(out.conn, kept_days=0, now=datetime.now(UTC) + timedelta(days=1))
    assert len(await log(out, referral)) == 1


async def test_of_a_deleted_entity_the_delete_goes_last(out: Outbound) -> None:
    referral = await out.insert("referral", service="food")
    await out.sql("delete from canon.referral where id = %s", referral)
    later = datetime.now(UTC) + timedelta(days=1)
    await push_events.forget(out.conn, kept_days=0, now=later)
    assert [op for _, op in await log(out, referral)] == ["delete"]
    await push_events.forget(out.conn, kept_days=0, now=later)
    assert await log(out, referral) == []


def test_a_log_begins_with_what_is_there_and_ends_without_gaps(fresh_database: Settings) -> None:
    def migrated(*, every_change: bool) -> bool:
        folder = fresh_database.home / "model"
        folder.mkdir(exist_ok=True)
        note = {"name": "text", "type": ["null", "string"], "default": None}
        record = {"type": "record", "name": "visit", "fields": [note], "every_change": every_change}
        (folder / "visit.avsc").write_bytes(orjson.dumps(record))
        return migrate.migrate(fresh_database).changed

    def logged() -> list[tuple[str, str]]:
        return conn.execute("select op, row ->> 'text' from sync.push_event order by id").fetchall()

    migrated(every_change=False)
    with psycopg.connect(fresh_database.dsn("app"), autocommit=True) as conn:
        conn.execute("insert into canon.visit (text) values ('before')")
        assert logged() == []
        assert migrated(every_change=True)
        assert not migrated(every_change=True)
        conn.execute("update canon.visit set text = 'after'")
        assert logged() == [("create", "before"), ("update", "after")]
        assert migrated(every_change=False)
        assert not migrated(every_change=False)
        conn.execute("update canon.visit set text = 'unseen'")
        assert logged() == []
        assert migrated(every_change=True)
        assert logged() == [("create", "unseen")]
