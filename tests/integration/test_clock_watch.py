"""What is kept of their clocks, on a real Postgres, with a real HTTP client and an emulator whose clock is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest

from connectors import emulators, http
from streams import clock
from streams.clock_watch import ClockWatch
from streams.resources import pool
from streams.rules.clock_errors import Measured
from streams.store import clock_errors, connections
from tests.integration.scripted import connect_to

pytestmark = pytest.mark.integration
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
async def app(database):
    async with await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as conn:
        yield conn


async def test_the_largest_error_of_late_is_told_and_forgotten_in_the_end(app):
    await connect_to(app, "org1")
    assert await clock_errors.load(app, "org1", "mirror") == timedelta()

    async def after(minutes, seconds):
        told = Measured(timedelta(seconds=-seconds), timedelta(seconds=seconds))
        await clock_errors.save(app, "org1", "mirror", told, now=NOW + timedelta(minutes=minutes))
        return (await clock_errors.load(app, "org1", "mirror")).total_seconds()

    assert [await after(0, 9), await after(10, 3), await after(31, 2), await after(59, 0)] == [9, 9, 9, 9]
    assert await after(62, 0) == 2
    assert await after(200, 0) == 0
    assert (await clock_errors.measured(app, "org1", "mirror")).ahead == timedelta()


async def test_a_wrong_clock_is_measured_by_ordinary_calls(app, database):
    await connect_to(app, "org2")
    connection = await connections.load_connection(app, "org2", "mirror")
    async with emulators.serve("mock-sync-server") as theirs, pool(database, "app") as opened:
        async with httpx.AsyncClient(base_url=f"{theirs.url}/_emulator") as control:
            await control.post("/clock", json={"skew_s": 3600})
        watch = ClockWatch(opened, connection, clock.now)
        async with http.client(timed=watch.begin) as web:
            await http.exchange(web, "GET", f"{theirs.url}/mock-sync")
        await watch.aclose()
        told = await clock_errors.measured(app, "org2", "mirror")
    assert abs(told.ahead - timedelta(hours=1)) < timedelta(seconds=60)
    assert told.error >= timedelta(hours=1) - timedelta(seconds=60)
