"""The sweep on a real Postgres: what nobody planned is planned once, what was planned is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from connectors import registry
from streams.outbound.planner import Planner
from streams.outbound.sweeper import Sweeper
from streams.resources import BY_KEY
from streams.settings import Settings
from streams.store.migrate import model_of
from tests.integration.scripted import NOW, Outbound, outbound_of

pytestmark = pytest.mark.integration


@pytest.fixture
async def pool(database: Settings) -> AsyncIterator[AsyncConnectionPool]:
    kwargs = {"autocommit": True, "options": BY_KEY}
    async with AsyncConnectionPool(database.dsn("app"), min_size=2, open=False, kwargs=kwargs) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _no_slot(database: Settings) -> None:
    """Without a slot every turn sweeps."""
    with psycopg.connect(database.dsn("admin"), autocommit=True) as admin:
        admin.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()"
        )


def sweeper_of(database: Settings, pool: AsyncConnectionPool, batch: int = 100) -> Sweeper:
    model = model_of(database)

    def root_type(entity_id: str) -> str | None:
        found = model.type_of_id(entity_id)
        return found.name if found else None

    planner = Planner(lambda name: registry.find(name).manifest, lambda _: ())
    return Sweeper(pool, planner, model.order, root_type=root_type, now=lambda: NOW, batch=batch)


async def wished(out: Outbound) -> dict[str, tuple[int, str]]:
    """Entity -> (how often it was wished for, why last)."""
    cursor = await out.conn.execute(
        "select entity_id, wanted_seq, reason from sync.push_intent where org_id = %s", (out.org,)
    )
    return {entity_id: (seq, reason) async for entity_id, seq, reason in cursor}


@pytest.mark.covers("C20")
async def test_what_nobody_planned_is_planned_once(database: Settings, pool: AsyncConnectionPool) -> None:
    async with outbound_of(database, "org_swept") as out:
        sweeper = sweeper_of(database, pool)
        await sweeper.turn()
        missed, planned = await out.insert(), await out.insert()
        await out.plan(planned)
        for _ in range(3):
            assert await sweeper.turn() is False  # there is no slot: it sweeps at once

        assert await wished(out) == {planned: (1, "change"), missed: (1, "swept")}
        counted = await out.sql("select value from sync.counter where org_id = %s", out.org)
        assert counted == 1


async def test_a_part_a_change_back_and_a_delete(database: Settings, pool: AsyncConnectionPool) -> None:
    async with outbound_of(database, "org_parts") as out:
        people = [await out.insert() for _ in range(3)]
        await out.plan(*people)
        sweeper = sweeper_of(database, pool)
        await sweeper.turn()
        await out.sql(
            "insert into canon.email (org_id, person_id, address) values (%s, %s, 'a@b.c')", out.org, people[0]
        )
        await out.sql("delete from canon.person where id = %s", people[1])
        await sweeper.turn()

        told = await wished(out)
        assert [told[person] for person in people] == [(2, "swept"), (2, "swept"), (1, "change")]


async def test_a_transaction_that_ends_late_is_not_passed_by(database: Settings, pool: AsyncConnectionPool) -> None:
    async with outbound_of(database, "org_late") as out:
        sweeper = sweeper_of(database, pool)
        await sweeper.turn()
        async with await psycopg.AsyncConnection.connect(database.dsn("app")) as slow:
            cursor = await slow.execute("insert into canon.person (org_id) values (%s) returning id", (out.org,))
            [late] = await cursor.fetchone() or [""]
            quick = await out.insert()
            await sweeper.turn()
            await sweeper.turn()
            await slow.commit()
        await sweeper.turn()

        assert await wished(out) == {quick: (1, "swept"), late: (1, "swept")}


async def test_batches_end_between_transactions(database: Settings, pool: AsyncConnectionPool) -> None:
    async with outbound_of(database, "org_batches") as out:
        sweeper = sweeper_of(database, pool, batch=10)
        await sweeper.turn()
        await out.sql("insert into canon.person (org_id) select %s from generate_series(1, 25)", out.org)
        for _ in range(7):
            await out.insert()
        await sweeper.turn()

        told = await wished(out)
        assert len(told) == 32
        assert set(told.values()) == {(1, "swept")}


async def test_what_came_from_there_is_not_sent_back(database: Settings, pool: AsyncConnectionPool) -> None:
    async with outbound_of(database, "org_origin") as out:
        sweeper = sweeper_of(database, pool)
        await sweeper.turn()
        async with await psycopg.AsyncConnection.connect(database.dsn("applier"), autocommit=True) as applier:
            await applier.execute(
                "insert into canon.person (org_id, origin, origin_event) values (%s, 'mirror', 'e1')", (out.org,)
            )
        await sweeper.turn()

        assert await wished(out) == {}


async def test_with_capture_a_window_waits_a_turn_and_for_capture(
    database: Settings, pool: AsyncConnectionPool
) -> None:
    with psycopg.connect(database.dsn("admin"), autocommit=True) as admin:
        admin.execute("select pg_create_logical_replication_slot('syncline', 'pgoutput')")
        try:
            async with outbound_of(database, "org_behind") as out:
                sweeper = sweeper_of(database, pool)
                missed = await out.insert()
                assert await sweeper.turn() is True  # notes
                for _ in range(4):
                    assert await sweeper.turn() is True  # waits for capture
                    assert await wished(out) == {}
                await sweeper.turn()
                assert await wished(out) == {missed: (1, "swept")}
                assert await out.sql("select name from sync.counter where org_id = %s", out.org) == "swept_behind"
        finally:
            admin.execute("select pg_drop_replication_slot('syncline')")


async def test_two_sweepers_do_not_meet(database: Settings, pool: AsyncConnectionPool) -> None:
    async with outbound_of(database, "org_two") as out:
        await sweeper_of(database, pool).turn()
        await out.insert()
        async with await psycopg.AsyncConnection.connect(database.dsn("app")) as other:
            await other.execute("select 1 from sync.sweep for update")
            assert await sweeper_of(database, pool).turn() is True
            assert await wished(out) == {}
