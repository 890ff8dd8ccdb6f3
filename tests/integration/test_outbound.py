"""Wishes to writes to results, on a real Postgres with a scripted external system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import orjson
import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from connectors import registry
from connectors.contract import Delivered, Failed, Outcome, Write
from connectors.errors import Ambiguous, NotApplied, Rejected, Unauthorized
from streams.outbound.claims import Claims, Result
from streams.outbound.lanes import Lane
from streams.outbound.planner import Planner, Touched
from streams.outbound.writes import Claim
from streams.rules import retries
from streams.settings import Settings
from streams.store import connections, queries

pytestmark = pytest.mark.integration
MANIFEST = registry.find("mock-sync-server").manifest
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
Script = Callable[[dict[str, object]], Outcome]


class Theirs:
    """An external system whose answers a test writes; keeps every body it was sent."""

    batch_size = 100

    def __init__(self, answer: Script | None = None) -> None:
        self.answer: Script = answer or (lambda sent: Delivered(str(sent["id"]), 200))
        self.bodies: list[bytes] = []

    def build(self, write: Write) -> bytes:
        shown = {"op": write.op, "id": write.external_id, "key": write.key, "changed": sorted(write.changed)}
        return orjson.dumps({**shown, "payload": dict(write.payload)})

    async def send(self, bodies: Sequence[bytes]) -> Sequence[Outcome]:
        self.bodies.extend(bodies)
        return [self.answer(orjson.loads(body)) for body in bodies]

    @property
    def sent(self) -> list[dict[str, object]]:
        return [orjson.loads(body) for body in self.bodies]


class Outbound:
    """The outbound half without its loops: plan, then deliver one round at a time."""

    def __init__(self, conn: psycopg.AsyncConnection, org: str, name: str) -> None:
        self.conn, self.org, self.name = conn, org, name
        self.now = NOW
        self.theirs = Theirs()

    async def insert(self, **fields: object) -> str:
        return await self.sql(
            "insert into canon.person (org_id, first_name, last_name) values (%s, %s, %s) returning id",
            self.org, fields.get("first_name", "Ann"), fields.get("last_name", "Lee"),
        )  # fmt: skip

    async def sql(self, statement: str, *values: object) -> str:
        cursor = await self.conn.execute(statement, values)
        row = await cursor.fetchone() if cursor.description else None
        return row[0] if row else ""

    async def plan(self, *ids: str, origin: str = "local") -> None:
        roots = [Touched(self.org, i.partition("_")[0], i, self.now, {origin}) for i in ids]
        planner = Planner(lambda name: registry.find(name).manifest, lambda _: ())
        async with self.conn.transaction():
            await planner.plan(self.conn, roots, now=self.now)

    async def claims(self, slot: int = 0) -> Claims:
        connection = await connections.load_connection(self.conn, self.org, self.name)
        return Claims(connection, registry.find(connection.system).manifest, slot)

    async def take(self, slot: int = 0) -> list[Claim]:
        _, taken = await (await self.claims(slot)).take(self.conn, self.theirs, limit=100, now=self.now)
        return taken

    async def send(self, taken: list[Claim]) -> list[Result]:
        outcomes = await self.theirs.send([claim.body or b"" for claim in taken])
        return [
            Result(claim, outcome, retries.after(
                outcome, policy="durable", attempt=claim.attempt, first_failed_at=claim.first_failed_at,
                resent=claim.resent, now=self.now, spread=lambda: 0.5), self.now, self.now)
            for claim, outcome in zip(taken, outcomes, strict=True)
        ]  # fmt: skip

    async def round(self) -> list[Result]:
        results = await self.send(await self.take())
        await (await self.claims()).commit(self.conn, results, now=self.now)
        return results

    async def state(self, entity_id: str) -> tuple[object, ...]:
        cursor = await self.conn.execute(
            "select state, wanted_seq, done_seq, body is null from sync.push_intent"
            " where org_id = %s and entity_id = %s",
            (self.org, entity_id),
        )
        return tuple(await cursor.fetchone() or ())


async def connect_to(conn: psycopg.AsyncConnection, org: str, name: str, **over: object) -> None:
    gates = orjson.dumps(dict.fromkeys((a.root for a in MANIFEST.aggregates), "live")).decode()
    given = {"option": 1, "delete_policy": "ignore"} | over
    await conn.execute(
        "insert into sync.connection (org_id, name, system, url, gates, option, delete_policy)"
        " values (%s, %s, 'mock-sync-server', 'http://127.0.0.1:1/', %s, %s, %s)",
        (org, name, gates, given["option"], given["delete_policy"]),
    )


@asynccontextmanager
async def outbound_of(database: Settings, org: str, **over: object) -> AsyncIterator[Outbound]:
    async with await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as conn:
        await connect_to(conn, org, "mirror", **over)
        yield Outbound(conn, org, "mirror")


@pytest.fixture
async def out(database: Settings, request: pytest.FixtureRequest) -> AsyncIterator[Outbound]:
    async with outbound_of(database, f"org_{request.node.name[:40].lower()}") as found:
        yield found


@pytest.mark.covers("F097", "F135", "F136")
async def test_a_new_row_is_created_there_once_and_linked(out: Outbound) -> None:
    person = await out.insert(first_name="Ann", last_name="O'Brien")
    await out.plan(person)
    await out.round()

    assert [(s["op"], s["id"]) for s in out.theirs.sent] == [("create", person)]
    assert await out.state(person) == ("DONE", 1, 1, True)
    linked = await out.conn.execute(
        "select external_id, made_by, s.base->>'last_name' from sync.external_link l"
        " join sync.link_state s on s.link_id = l.id where entity_id = %s",
        (person,),
    )
    assert await linked.fetchall() == [(person, "push", "O'Brien")]
    assert await out.sql("select outcome from sync.delivery where entity_id = %s", person) == "delivered"


async def test_what_they_hold_already_is_confirmed_without_a_call(out: Outbound) -> None:
    person = await out.insert()
    await out.plan(person)
    await out.round()
    await out.plan(person)

    assert await out.round() == []
    assert await out.state(person) == ("DONE", 2, 2, True)


async def test_an_update_names_what_changed(out: Outbound) -> None:
    person = await out.insert(first_name="Ann")
    await out.plan(person)
    await out.round()
    await out.sql("update canon.person set first_name = 'Eve' where id = %s", person)
    await out.plan(person)
    await out.round()

    assert (out.theirs.sent[-1]["op"], out.theirs.sent[-1]["changed"]) == ("update", ["firstName"])


@pytest.mark.covers("F137")
async def test_a_lost_answer_sends_the_very_same_bytes_again_although_the_row_changed(out: Outbound) -> None:
    person = await out.insert(first_name="Ann")
    await out.plan(person)
    out.theirs.answer = lambda _: Failed(Ambiguous("server_error", "500", status=500))
    await out.round()
    await out.sql("update canon.person set first_name = 'Eve' where id = %s", person)
    await out.plan(person)
    out.theirs.answer = lambda sent: Delivered(str(sent["id"]), 200)
    out.now += timedelta(seconds=5)
    await out.round()
    await out.round()

    first, again, update = out.theirs.bodies
    assert first == again
    assert orjson.loads(update)["payload"]["firstName"] == "Eve"
    assert orjson.loads(update)["op"] == "update"
    assert await out.state(person) == ("DONE", 2, 2, True)


async def test_what_surely_was_not_applied_is_built_anew(out: Outbound) -> None:
    person = await out.insert(first_name="Ann")
    await out.plan(person)
    out.theirs.answer = lambda _: Failed(NotApplied("unreachable", "no connection"))
    await out.round()
    await out.sql("update canon.person set first_name = 'Eve' where id = %s", person)
    out.theirs.answer = lambda sent: Delivered(str(sent["id"]), 200)
    out.now += timedelta(seconds=5)
    await out.round()

    assert [s["payload"]["firstName"] for s in out.theirs.sent] == ["Ann", "Eve"]  # type: ignore[index]


@pytest.mark.covers("F137", "C17")
async def test_a_refused_record_is_a_dead_letter_until_it_changes(out: Outbound) -> None:
    bad, good = await out.insert(first_name="bad"), await out.insert(first_name="good")
    await out.plan(bad, good)
    refused = Failed(Rejected("rejected", "first name is bad", status=422))
    out.theirs.answer = lambda s: refused if s["payload"]["firstName"] == "bad" else Delivered(str(s["id"]), 200)  # type: ignore[index]
    await out.round()
    letters = "select state, cause from sync.dead_letter where record_key = %s"

    assert (await out.state(bad))[0] == "DEAD"
    assert (await out.state(good))[0] == "DONE"
    assert await (await out.conn.execute(letters, (bad,))).fetchall() == [("open", "first name is bad")]

    await out.sql("update canon.person set first_name = 'mended' where id = %s", bad)
    await out.plan(bad)
    await out.round()

    assert (await out.state(bad))[0] == "DONE"
    assert await out.sql(letters, bad) == "redriven"


@pytest.mark.covers("F086")
async def test_a_refused_credential_burns_no_record(out: Outbound) -> None:
    person = await out.insert()
    await out.plan(person)
    out.theirs.answer = lambda _: Failed(Unauthorized("unauthorized", "401", status=401))
    await out.round()

    assert await out.state(person) == ("PENDING", 1, 0, True)


async def test_a_worker_that_lost_its_claim_changes_nothing(out: Outbound) -> None:
    person = await out.insert()
    await out.plan(person)
    zombie = await out.take(slot=1)
    out.now += timedelta(minutes=2)
    successor = await out.take(slot=2)
    await (await out.claims()).commit(out.conn, await out.send(successor), now=out.now)
    out.theirs.answer = lambda _: Failed(Rejected("rejected", "late", status=422))
    await (await out.claims()).commit(out.conn, await out.send(zombie), now=out.now)

    assert zombie[0].body == successor[0].body
    assert await out.state(person) == ("DONE", 1, 1, True)


async def test_a_slot_that_is_taken_again_frees_what_its_holder_left(out: Outbound) -> None:
    person = await out.insert()
    await out.plan(person)
    left = await out.take(slot=7)
    assert await out.take() == []

    await out.conn.execute(queries("outbound")["release_slot"], {"slot": 7, "now": out.now})

    assert [claim.body for claim in await out.take()] == [left[0].body]


@pytest.mark.covers("C19")
async def test_a_change_during_the_call_is_sent_after_it(out: Outbound) -> None:
    person = await out.insert(first_name="Ann")
    await out.plan(person)
    taken = await out.take()
    await out.sql("update canon.person set first_name = 'Eve' where id = %s", person)
    await out.plan(person)
    assert await out.take() == []
    await (await out.claims()).commit(out.conn, await out.send(taken), now=out.now)
    await out.round()

    assert [s["payload"]["firstName"] for s in out.theirs.sent] == ["Ann", "Eve"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("answered", "writes"),
    [
        pytest.param(NOW + timedelta(seconds=9), 3, id="our write came after theirs, so theirs has to be sent again"),
        pytest.param(NOW + timedelta(seconds=1), 2, id="our write came before theirs, so they hold theirs"),
        pytest.param(None, 3, id="nobody knows which came first, so all is sent again"),
    ],
)
@pytest.mark.covers("F061")
async def test_an_edit_there_during_our_write_ends_in_one_state(
    database: Settings, answered: datetime | None, writes: int
) -> None:
    async with outbound_of(database, f"org_moved_{writes}_{answered is None}".lower()) as out:
        person = await out.insert(first_name="Ann")
        await out.plan(person)
        await out.round()
        await out.sql("update canon.person set first_name = 'Eve' where id = %s", person)
        await out.plan(person)
        taken = await out.take()
        # the applier takes their later edit while our write is on its way
        await out.sql("update canon.person set first_name = 'Zoe' where id = %s", person)
        await out.sql(
            "update sync.link_state set rev = rev + 1, base = base || '{\"first_name\": \"Zoe\"}',"
            " external_updated_at = %s where org_id = %s", NOW + timedelta(seconds=5), out.org,
        )  # fmt: skip
        out.theirs.answer = lambda s: Delivered(str(s["id"]), 200, external_updated_at=answered)
        await (await out.claims()).commit(out.conn, await out.send(taken), now=out.now)

        assert await out.state(person) == ("PENDING", 3, 2, True)
        out.theirs.answer = lambda s: Delivered(str(s["id"]), 200)
        await out.round()
        assert await out.state(person) == ("DONE", 3, 3, True)
        assert len(out.theirs.sent) == writes
        assert await out.sql("select base->>'first_name' from sync.link_state where org_id = %s", out.org) == "Zoe"


@pytest.mark.parametrize(("policy", "calls"), [("ignore", 1), ("delete", 2)])
@pytest.mark.covers("T16")
async def test_a_deleted_row_is_deleted_there_only_where_asked_for(database: Settings, policy: str, calls: int) -> None:
    async with outbound_of(database, f"org_delete_{policy}", delete_policy=policy) as out:
        person = await out.insert()
        await out.plan(person)
        await out.round()
        await out.sql("delete from canon.person where id = %s", person)
        await out.plan(person)
        await out.round()

        assert len(out.theirs.bodies) == calls
        assert (await out.state(person))[0] == "DONE"


@pytest.mark.covers("F101", "F136")
async def test_option_3_asks_before_it_creates(database: Settings) -> None:
    async with outbound_of(database, "org_option_3", option=3) as out:
        person = await out.insert()
        await out.plan(person)

        assert await out.state(person) == ()
        assert await out.sql("select kind from sync.review where subject = %s", person) == "unlinked"


async def test_an_email_that_moves_updates_both_people(out: Outbound) -> None:
    ann, eve = await out.insert(first_name="Ann"), await out.insert(first_name="Eve")
    address = await out.sql(
        "insert into canon.email (org_id, person_id, address) values (%s, %s, 'a@example.org') returning id",
        out.org,
        ann,
    )
    await out.plan(ann, eve)
    await out.round()
    await out.sql("update canon.email set person_id = %s where id = %s", eve, address)
    await out.plan(ann, eve)
    await out.round()

    held = {s["id"]: [e["address"] for e in s["payload"]["emails"]] for s in out.theirs.sent[-2:]}  # type: ignore[index]
    assert held == {ann: [], eve: ["a@example.org"]}


async def test_organisations_do_not_mix(database: Settings) -> None:
    async with outbound_of(database, "org_a") as a, outbound_of(database, "org_b") as b:
        for out, name in ((a, "Ann"), (b, "Eve")):
            person = "person_01h455vb4pex5vsknk084sn02q"
            await out.sql(
                "insert into canon.person (org_id, id, first_name) values (%s, %s, %s)", out.org, person, name
            )
            await out.plan(person)
        await a.round()
        await b.round()

        assert [s["payload"]["firstName"] for s in a.theirs.sent] == ["Ann"]  # type: ignore[index]
        assert [s["payload"]["firstName"] for s in b.theirs.sent] == ["Eve"]  # type: ignore[index]


@pytest.mark.covers("F064", "C17")
async def test_a_lane_halves_a_refused_batch_and_ends_in_good_order(out: Outbound, database: Settings) -> None:
    people = [await out.insert(first_name="bad" if n == 7 else "good") for n in range(20)]
    out.now = datetime.now(UTC) - timedelta(seconds=1)  # the lane has the real clock
    await out.plan(*people)

    class Whole(Theirs):
        async def send(self, bodies: Sequence[bytes]) -> Sequence[Outcome]:
            self.bodies.extend(bodies)
            bad = any(orjson.loads(body)["payload"]["firstName"] == "bad" for body in bodies)
            refused = Failed(Rejected("rejected", "one of them", status=400))
            return [refused if bad else Delivered(orjson.loads(body)["id"], 200) for body in bodies]

    theirs = Whole()
    connection = await connections.load_connection(out.conn, out.org, out.name)
    async with AsyncConnectionPool(database.dsn("app"), min_size=2, open=False, kwargs={"autocommit": True}) as pool:
        lane = Lane(
            connection, theirs, await out.claims(), pool,
            concurrency=5, now=lambda: datetime.now(UTC), spread=lambda: 0.5,
        )  # fmt: skip
        lane.start()
        open_ones = "select count(*) from sync.push_intent where org_id = %s and state not in ('DONE', 'DEAD')"
        async with asyncio.timeout(10):
            while await out.sql(open_ones, out.org):  # noqa: ASYNC110  the database tells
                await asyncio.sleep(0.02)
        await lane.stop()

    states = [(await out.state(person))[0] for person in people]
    assert [n for n, state in enumerate(states) if state == "DEAD"] == [7]
