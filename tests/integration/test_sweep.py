"""The sweep on a real Postgres: what nobody planned is planned once, what was planned is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from connectors import registry
from streams.outbound.arrivals import End
from streams.outbound.planner import Planned, Planner
from streams.outbound.sweeper import EVERY_S, Sweeper
from streams.resources import BY_KEY
from streams.settings import Settings
from streams.store import publication
from streams.store.migrate import model_of
from tests.integration.scripted import NOW, Outbound, connect_to, outbound_of

pytestmark = [pytest.mark.integration, pytest.mark.covers("C20")]
TOPIC = "cdc.canon.person"


@pytest.fixture
async def pool(database: Settings) -> AsyncIterator[AsyncConnectionPool]:
    kwargs = {"autocommit": True, "options": BY_KEY, "prepare_threshold": 1}
    async with AsyncConnectionPool(database.dsn("app"), min_size=3, open=False, kwargs=kwargs) as opened:
        yield opened


def drop_slot(admin: psycopg.Connection) -> None:
    admin.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()"
    )


@pytest.fixture(autouse=True)
def _no_slot(database: Settings) -> None:
    """Without a slot every turn sweeps."""
    with psycopg.connect(database.dsn("admin"), autocommit=True) as admin:
        drop_slot(admin)


@pytest.fixture
def slot(database: Settings) -> Iterator[psycopg.Connection]:
    """Capture is there; `pass_by` moves it on."""
    with psycopg.connect(database.dsn("admin"), autocommit=True) as admin:
        admin.execute("select pg_create_logical_replication_slot('syncline', 'pgoutput')")
        yield admin
        drop_slot(admin)


def pass_by(admin: psycopg.Connection) -> None:
    """Capture confirms everything."""
    admin.execute("select pg_replication_slot_advance('syncline', pg_current_wal_lsn())")


class Failing(Planner):
    """A planner whose process ends before its transaction does, once."""

    left = 1

    async def plan(self, *args: object, **named: object) -> Planned:
        planned = await super().plan(*args, **named)  # type: ignore[arg-type]
        if self.left:
            self.left -= 1
            raise ConnectionAbortedError
        return planned


@dataclass
class Sweeping:
    """A sweeper with a clock and a Kafka that a test moves."""

    settings: Settings
    pool: AsyncConnectionPool
    batch: int = 100
    planner: type[Planner] = Planner
    now = NOW
    ends: Sequence[End] | None = field(default_factory=list)

    def __post_init__(self) -> None:
        model = model_of(self.settings)

        def root_type(entity_id: str) -> str | None:
            found = model.type_of_id(entity_id)
            return found.name if found else None

        async def ends() -> Sequence[End] | None:
            return self.ends

        planner = self.planner(lambda name: registry.find(name).manifest, lambda _: ())
        self.sweeper = Sweeper(
            self.pool, planner, model.order, root_type=root_type, ends=ends, now=lambda: self.now, batch=self.batch
        )

    async def turns(self, count: int = 1) -> bool:
        """So many turns, an interval apart."""
        captured = False
        for _ in range(count):
            captured = await self.sweeper.turn()
            self.now += timedelta(seconds=EVERY_S)
        return captured


async def wished(out: Outbound) -> dict[str, tuple[int, str]]:
    """Entity -> (how often it was wished for, why last)."""
    cursor = await out.conn.execute(
        "select entity_id, wanted_seq, reason from sync.push_intent where org_id = %s", (out.org,)
    )
    return {entity_id: (seq, reason) async for entity_id, seq, reason in cursor}


async def counted(out: Outbound) -> dict[str, int]:
    cursor = await out.conn.execute(
        "select name, sum(value)::int from sync.counter where org_id = %s group by 1", (out.org,)
    )
    return {name: value async for name, value in cursor}


async def from_them(database: Settings, statement: str, *values: object) -> None:
    """What the applier does with an event of theirs."""
    async with await psycopg.AsyncConnection.connect(database.dsn("applier"), autocommit=True) as applier:
        await applier.execute(statement, values)


async def test_what_nobody_planned_is_planned_once(database: Settings, pool: AsyncConnectionPool) -> None:
    async with outbound_of(database, "org_swept") as out, outbound_of(database, "org_swept_too") as other:
        sweeping = Sweeping(database, pool)
        await sweeping.turns()
        missed, planned, elsewhere = await out.insert(), await out.insert(), await other.insert()
        await out.plan(planned)
        assert await sweeping.turns(3) is False  # there is no slot: it sweeps at once

        assert await wished(out) == {planned: (1, "change"), missed: (1, "swept")}
        assert await wished(other) == {elsewhere: (1, "swept")}
        assert await counted(out) == await counted(other) == {"swept_without_capture": 1}


async def test_a_connection_gets_what_was_committed_since_it_is_there(
    database: Settings, pool: AsyncConnectionPool
) -> None:
    async with outbound_of(database, "org_young") as out:
        sweeping = Sweeping(database, pool)
        await sweeping.turns()
        await out.insert()
        await connect_to(out.conn, out.org, "young")
        since = await out.insert()
        await sweeping.turns()

        cursor = await out.conn.execute("select entity_id from sync.push_intent where connection = 'young'")
        assert await cursor.fetchall() == [(since,)]
        await out.sql("update sync.connection set state = 'disconnected' where name = 'young'")
        await out.insert()
        await out.sql("update sync.connection set state = 'active' where name = 'young'")
        await sweeping.turns()
        assert await out.sql("select count(*) from sync.push_intent where connection = 'young'") == 1


async def test_parts_deletes_and_the_root_that_a_part_left(database: Settings, pool: AsyncConnectionPool) -> None:
    async with outbound_of(database, "org_parts") as out:
        people = [await out.insert() for _ in range(5)]
        mail = await out.insert("email", person_id=people[3], address="a@b.c")
        await out.plan(*people)
        sweeping = Sweeping(database, pool)
        await sweeping.turns()
        await out.insert("email", person_id=people[0], address="a@b.c")
        await out.sql("delete from canon.person where id = %s", people[1])
        await out.sql("update canon.email set person_id = %s where id = %s", people[4], mail)
        await sweeping.turns(2)

        told = await wished(out)
        swept, left_alone = (2, "swept"), (1, "change")
        assert [told[person] for person in people] == [swept, swept, left_alone, swept, swept]
        assert await out.sql("select count(*) from sync.left_root") == 0


async def test_a_transaction_that_goes_on_keeps_nobody_but_itself(
    database: Settings, pool: AsyncConnectionPool
) -> None:
    async with outbound_of(database, "org_late") as out:
        sweeping = Sweeping(database, pool)
        await sweeping.turns()
        async with await psycopg.AsyncConnection.connect(database.dsn("app")) as slow:
            cursor = await slow.execute("insert into canon.person (org_id) values (%s) returning id", (out.org,))
            [late] = await cursor.fetchone() or [""]
            quick = await out.insert()
            await sweeping.turns(2)
            assert await wished(out) == {quick: (1, "swept")}
            later = await out.insert()
            await sweeping.turns()
            await slow.commit()
        await sweeping.turns(2)

        assert await wished(out) == dict.fromkeys((late, quick, later), (1, "swept"))


@pytest.mark.parametrize("batch", [1, 7, 10, 100])
async def test_every_batch_holds_whole_roots(database: Settings, pool: AsyncConnectionPool, batch: int) -> None:
    async with outbound_of(database, f"org_batches_{batch}") as out:
        sweeping = Sweeping(database, pool, batch=batch)
        await sweeping.turns()
        await out.sql("insert into canon.person (org_id) select %s from generate_series(1, 25)", out.org)
        many = await out.insert()
        await out.sql(
            "insert into canon.email (org_id, person_id, address) select %s, %s, n::text from generate_series(1, 23) n",
            out.org,
            many,
        )
        for _ in range(7):
            await out.insert()
        await sweeping.turns()

        told = await wished(out)
        assert len(told) == 33
        assert {told.pop(many)[1], *told.values()} == {"swept", (1, "swept")}


async def test_after_a_crash_between_batches_the_rest_follows(database: Settings, pool: AsyncConnectionPool) -> None:
    async with outbound_of(database, "org_crash") as out:
        sweeping = Sweeping(database, pool, batch=10, planner=Failing)
        await sweeping.turns()
        people = [await out.insert() for _ in range(25)]
        with pytest.raises(ConnectionAbortedError):
            await sweeping.turns()
        assert await wished(out) == {}
        await Sweeping(database, pool, batch=10).turns()

        assert await wished(out) == dict.fromkeys(people, (1, "swept"))
        assert await counted(out) == {"swept_without_capture": 25}


async def test_bulk_and_types_that_are_not_connected_are_passed_by(
    database: Settings, pool: AsyncConnectionPool
) -> None:
    async with outbound_of(database, "org_bulk", gates={"person": "live"}) as out:
        sweeping = Sweeping(database, pool)
        await sweeping.turns()
        await out.sql("set role syncline_bulk")
        await out.insert()
        await out.sql("reset role")
        await out.insert("campus", name="North")
        await sweeping.turns()

        assert await wished(out) == {}
        assert await out.sql("select count(*) from sync.route_count where org_id = %s", out.org) == 0


async def test_what_came_from_there_is_not_sent_back(
    database: Settings, pool: AsyncConnectionPool, slot: psycopg.Connection
) -> None:
    async with outbound_of(database, "org_origin") as out:
        await connect_to(out.conn, out.org, "second")
        sweeping = Sweeping(database, pool)
        await sweeping.turns(2)
        await from_them(
            database,
            "insert into canon.person (org_id, origin, origin_event) values (%s, 'mirror', 'e1')",
            out.org,
        )
        for _ in range(3):
            pass_by(slot)
            await sweeping.turns()

        cursor = await out.conn.execute("select connection from sync.push_intent where org_id = %s", (out.org,))
        assert await cursor.fetchall() == [("second",)]
        assert await counted(out) == {"cdc_missed": 1}


async def test_without_capture_an_event_of_theirs_does_not_cover_a_change_of_ours(
    database: Settings, pool: AsyncConnectionPool
) -> None:
    """The row tells only of its last change; what they hold already is not sent again all the same."""
    async with outbound_of(database, "org_over") as out:
        person, alike = await out.insert(), await out.insert()
        await out.plan(person, alike)
        await out.rounds()
        calls = len(out.theirs.sent)
        sweeping = Sweeping(database, pool)
        await sweeping.turns()
        await out.sql("update canon.person set first_name = 'Ours' where id = %s", person)
        touch = (
            "update canon.person set last_name = last_name, origin = 'mirror', origin_event = 'e2' where id = any(%s)"
        )
        await from_them(database, touch, [person, alike])
        await sweeping.turns()
        out.now = sweeping.now
        await out.rounds()

        assert [sent["changed"] for sent in out.theirs.sent[calls:]] == [["firstName"]]
        assert (await out.state(alike))[0] == "DONE"


async def test_capture_has_an_interval_and_is_not_blamed_for_what_it_brought(
    database: Settings, pool: AsyncConnectionPool, slot: psycopg.Connection
) -> None:
    async with outbound_of(database, "org_captured") as out:
        sweeping = Sweeping(database, pool)
        await sweeping.turns(2)
        missed, planned = await out.insert(), await out.insert()
        await out.sql("update sync.sweep set noted = null")
        await sweeping.sweeper.turn()  # notes
        pass_by(slot)
        await sweeping.sweeper.turn()  # another worker's, a moment later
        assert await wished(out) == {}
        await out.plan(planned)
        await sweeping.turns(2)

        assert await wished(out) == {planned: (1, "change"), missed: (1, "swept")}
        assert await counted(out) == {"cdc_missed": 1}


@pytest.mark.parametrize("behind", ["capture", "planner", "kafka"])
async def test_what_is_behind_is_waited_for_but_not_for_ever(
    database: Settings, pool: AsyncConnectionPool, slot: psycopg.Connection, behind: str
) -> None:
    async with outbound_of(database, f"org_behind_{behind}") as out:
        sweeping = Sweeping(database, pool)
        sweeping.ends = None if behind == "kafka" else [End(topic=TOPIC, partition=0, at=5)]
        await out.sql("update sync.sweep set noted = null")
        missed = await out.insert()
        await sweeping.turns()  # notes
        if behind != "capture":
            pass_by(slot)
        for _ in range(3):
            assert await sweeping.turns() is True
            assert await wished(out) == {}
        await sweeping.turns()
        assert await wished(out) == {missed: (1, "swept")}
        assert await counted(out) == {"swept_behind": 1}


async def test_workers_that_were_away_read_on_before_the_sweep_does_their_work(
    database: Settings, pool: AsyncConnectionPool, slot: psycopg.Connection
) -> None:
    async with outbound_of(database, "org_away") as out:
        sweeping = Sweeping(database, pool)
        sweeping.ends = [End(topic=TOPIC, partition=0, at=5)]
        await out.sql("update sync.sweep set noted = null")
        await out.insert()
        await sweeping.turns()
        pass_by(slot)
        sweeping.now += timedelta(hours=1)
        await sweeping.turns(2)

        assert await wished(out) == {}


async def test_what_the_planner_has_read_is_missed_if_it_did_not_plan_it(
    database: Settings, pool: AsyncConnectionPool, slot: psycopg.Connection
) -> None:
    async with outbound_of(database, "org_read") as out:
        sweeping = Sweeping(database, pool)
        sweeping.ends = [End(topic=TOPIC, partition=0, at=5)]
        await out.sql("update sync.sweep set noted = null")
        missed = await out.insert()
        await sweeping.turns()
        pass_by(slot)
        await sweeping.turns()
        sweeping.ends = [End(topic=TOPIC, partition=0, at=90)]  # what came after the window does not matter
        assert await wished(out) == {}
        await out.sql(
            "insert into sync.progress (consumer, topic, partition, next_offset) values ('outbound.plan', %s, 0, 5)",
            TOPIC,
        )
        await sweeping.turns()

        assert await wished(out) == {missed: (1, "swept")}
        assert await counted(out) == {"cdc_missed": 1}
        await out.sql("delete from sync.progress")


async def test_behind_a_new_slot_the_gap_is_swept_at_once(
    database: Settings, pool: AsyncConnectionPool, slot: psycopg.Connection
) -> None:
    async with outbound_of(database, "org_gap") as out:
        sweeping = Sweeping(database, pool)
        await sweeping.turns()
        in_gap = await out.insert()
        drop_slot(slot)
        with psycopg.connect(database.dsn("capture"), autocommit=True) as capture:
            assert publication.ensure_slot(capture)
        assert await sweeping.sweeper.turn() is True
        after = await out.insert()
        assert await sweeping.sweeper.turn() is True

        assert await wished(out) == {in_gap: (1, "swept")}
        assert await counted(out) == {"swept_without_capture": 1}
        for _ in range(3):
            await sweeping.turns()
            pass_by(slot)
        assert (await wished(out))[after] == (1, "swept")


async def test_snapshots_of_another_server_prove_nothing(database: Settings, pool: AsyncConnectionPool) -> None:
    """A dump of a server that counted further was loaded here."""
    async with outbound_of(database, "org_restored") as out:
        person = await out.insert()
        await out.plan(person)
        theirs = "9000000000:9000000001:"
        await out.sql("update sync.push_intent set planned_snapshot = %s::text::pg_snapshot", theirs)
        await out.sql("update sync.connection set made_snapshot = %s::text::pg_snapshot", theirs)
        await out.sql("update sync.sweep set swept = %s::text::pg_snapshot", theirs)
        await out.sql("update canon.person set last_name = 'Here' where id = %s", person)
        sweeping = Sweeping(database, pool)
        await sweeping.turns(2)

        assert await wished(out) == {person: (2, "swept")}


async def test_two_sweepers_do_not_meet(database: Settings, pool: AsyncConnectionPool) -> None:
    async with outbound_of(database, "org_two") as out:
        await Sweeping(database, pool).turns()
        await out.insert()
        async with await psycopg.AsyncConnection.connect(database.dsn("app")) as other:
            await other.execute("select 1 from sync.sweep for update")
            assert await Sweeping(database, pool).turns() is True
            assert await wished(out) == {}
