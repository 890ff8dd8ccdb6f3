"""The applier beside a user's own SQL on the same rows: it gives way, and one locked row holds up nobody else."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import psycopg
import pytest

from streams.settings import Settings
from tests.integration.both_ways import both_ways
from tests.integration.scripted import NOW

pytestmark = pytest.mark.integration


async def waits_for_a_lock(watcher: psycopg.AsyncConnection, pid: int) -> None:
    async with asyncio.timeout(10):
        while True:
            cursor = await watcher.execute("select cardinality(pg_blocking_pids(%s))", (pid,))
            row = await cursor.fetchone()
            if row and row[0]:
                return
            await asyncio.sleep(0.005)


@pytest.mark.covers("R10", "C17")
async def test_a_locked_row_waits_alone(database: Settings) -> None:
    async with (
        both_ways(database, "org_locked") as both,
        await psycopg.AsyncConnection.connect(database.dsn("app")) as user,
    ):
        await both.hear(*(both.event(f"x{n}", {"firstName": f"Ann{n}"}, NOW) for n in range(5)))
        await user.execute(
            "update canon.person set last_name = 'mine' where org_id = 'org_locked' and first_name = 'Ann3'"
        )
        later = NOW + timedelta(seconds=1)
        told = await both.hear(*(both.event(f"x{n}", {"firstName": f"Bea{n}"}, later) for n in range(5)))
        assert told.decisions == {("mirror", "applied"): 4, ("mirror", "waiting"): 1}
        await user.commit()

        both.out.now += timedelta(seconds=1)
        assert await both.look_again() == 1
        assert [row["first_name"] for row in await both.people()] == [f"Bea{n}" for n in range(5)]


async def test_in_a_deadlock_the_applier_gives_way(database: Settings) -> None:
    async with (
        both_ways(database, "org_dead") as both,
        await psycopg.AsyncConnection.connect(database.dsn("app")) as user,
        await psycopg.AsyncConnection.connect(database.dsn("applier")) as applier,
    ):
        await both.hear(*(both.event(f"x{n}", {"firstName": f"Ann{n}"}, NOW) for n in range(2)))
        edit = "update canon.person set last_name = %s where org_id = 'org_dead' and first_name = %s"
        await user.execute(edit, ("mine", "Ann1"))
        await applier.execute(edit, ("theirs", "Ann0"))
        going_on = asyncio.create_task(user.execute(edit, ("mine", "Ann0")))
        await waits_for_a_lock(both.out.conn, user.info.backend_pid)
        with pytest.raises(psycopg.errors.DeadlockDetected):
            await applier.execute(edit, ("theirs", "Ann1"))
        await applier.rollback()
        await going_on
        await user.commit()
        assert {row["last_name"] for row in await both.people()} == {"mine"}
