"""Wishes to writes to results, on a real Postgres with a scripted external system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from psycopg_pool import AsyncConnectionPool

from connectors.contract import Delivered, ExternalRecord, Failed, Outcome
from connectors.errors import Ambiguous, NotApplied, Rejected, Unauthorized
from streams.outbound.calls import Calls
from streams.outbound.claims import Claims
from streams.outbound.lanes import Lane, Tools
from streams.outbound.outcomes import Outcomes
from streams.rules.breakers import Breaker
from streams.rules.retries import Terms
from streams.settings import Settings
from streams.store import connections, queries
from streams.store.connections import Connection
from tests.integration.scripted import MANIFEST, NOW, Outbound, Theirs, outbound_of

pytestmark = pytest.mark.integration


def tools_of(connection: Connection, theirs: Theirs, pool: AsyncConnectionPool) -> Tools:
    breaker = Breaker()

    async def refresh(record: ExternalRecord) -> None:
        raise AssertionError(record)

    def now() -> datetime:
        return datetime.now(UTC)

    return Tools(
        client=theirs,
        claims=Claims(connection, MANIFEST, 0),
        outcomes=Outcomes(connection),
        calls=Calls(theirs, Terms("durable", MANIFEST, lambda: 0.5), breaker, refresh=refresh, now=now),
        breaker=breaker,
        pool=pool,
        concurrency=5,
        slot=0,
        now=now,
    )


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
    await out.commit(await out.send(successor))
    out.theirs.answer = lambda _: Failed(Rejected("rejected", "late", status=422))
    await out.commit(await out.send(zombie))

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
    await out.commit(await out.send(taken))
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
        await out.commit(await out.send(taken))

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
        lane = Lane(connection, tools_of(connection, theirs, pool))
        lane.start()
        open_ones = "select count(*) from sync.push_intent where org_id = %s and state not in ('DONE', 'DEAD')"
        async with asyncio.timeout(10):
            while await out.sql(open_ones, out.org):  # noqa: ASYNC110  the database tells
                await asyncio.sleep(0.02)
        await lane.stop()

    states = [(await out.state(person))[0] for person in people]
    assert [n for n, state in enumerate(states) if state == "DEAD"] == [7]
