"""Two budgets of one connection over a real Postgres, as two workers have them, on a virtual clock."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool

from connectors.errors import NotApplied
from streams import clock, vault
from streams.outbound.budgets import Budget
from streams.resources import Resources
from streams.rules.budgets import Account, Quota
from streams.settings import Settings
from streams.store import budgets, connections
from streams.store.budgets import Row
from streams.store.connections import Connection
from tests.unit.connectors.test_http import answer, server
from tests.unit.outbound.quotas import START, System

pytestmark = [pytest.mark.integration, pytest.mark.covers("R15")]


class Time:
    """Passes only when somebody waits; the waits of all who share it run beside each other."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.at)

    async def sleep(self, seconds: float) -> None:
        until = self.at + seconds
        while self.at < until:
            await asyncio.sleep(0.001)  # real: the others go on, their statements too
            self.at = min(until, self.at + 0.05)


@pytest.fixture
async def pool(database: Settings) -> AsyncIterator[AsyncConnectionPool]:
    async with AsyncConnectionPool(database.dsn("app"), min_size=2, open=False, kwargs={"autocommit": True}) as found:
        yield found


async def connected(pool: AsyncConnectionPool, org: str, budget: str = "{}") -> Connection:
    async with pool.connection() as conn:
        await conn.execute(
            "insert into sync.connection (org_id, name, system, url, budget)"
            " values (%s, 'mirror', 'mock-sync-server', 'http://127.0.0.1:9', %s::jsonb)",
            (org, budget),
        )
        return await connections.load_connection(conn, org, "mirror")


async def test_two_workers_share_a_quota(pool: AsyncConnectionPool) -> None:
    time, system = Time(), System(100, 20.0, phase_s=7.0)
    connection = await connected(pool, "org_shared")

    def budget() -> Budget:
        row = Row(pool, connection, time.now)
        return Budget(row, priority="lane", now=time.now, spread=lambda: 0.5, sleep=time.sleep, patience_s=100)

    async def caller(budget: Budget) -> None:
        while time.at < 87:
            await budget.acquire()
            status, headers = system.arrive(time.at)
            await time.sleep(0.1)
            budget.note(status, headers)

    workers = [budget(), budget()]
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            for _ in range(3):
                group.create_task(caller(worker))
    for worker in workers:
        await worker.aclose()

    assert system.refused() <= 0.005
    assert system.used(7, 87) >= 0.9

    async with pool.connection() as conn:
        (shown,) = await budgets.usage(conn, "org_shared", now=time.now())
        assert (shown["connection"], shown["source"], shown["limit"], shown["period"]) == ("mirror", "learned", 100, 20)
        assert shown["used"] + shown["remaining"] == 100
        assert shown["blocked_until"] is None
        later = time.now() + timedelta(seconds=30)
        assert (await budgets.usage(conn, "org_shared", now=later))[0]["remaining"] == 100


async def test_a_worker_hears_what_another_was_told(pool: AsyncConnectionPool) -> None:
    time = Time()
    connection = await connected(pool, "org_told")
    told, other = (
        Budget(Row(pool, connection, time.now), priority="lane", now=time.now, spread=lambda: 0.0, sleep=time.sleep)
        for _ in range(2)
    )
    await told.acquire()
    told.note(429, {"retry-after": "600"})
    await told.aclose()
    with pytest.raises(NotApplied, match="rate_budget") as later:
        await other.acquire()
    assert later.value.retry_after == pytest.approx(600, abs=1)
    assert other.ready_at() == START + timedelta(seconds=600)
    async with pool.connection() as conn:
        (shown,) = await budgets.usage(conn, "org_told", now=time.now())
    assert shown["limit"] is None
    assert shown["blocked_until"] == START + timedelta(seconds=600)


async def test_the_account_is_kept_as_it_is_and_only_by_who_has_seen_the_last_one(pool: AsyncConnectionPool) -> None:
    at = START.timestamp()
    account = Account(Quota(100, 20.0, ((at + 0.125, 3), (at + 7.3, 1)), 200, at + 5), None, at + 1)
    connection = await connected(pool, "org_kept", '{"calls": 7, "per_s": 60}')
    row = Row(pool, connection, lambda: START)

    assert await row.load() == (Account(chosen=Quota(7, 60.0)), 0)
    assert await row.save(account, 0) == 1
    assert await row.save(account, 0) is None, "another was faster"
    kept, version = await row.load()
    assert version == 1
    assert kept.learned == account.learned
    assert kept.blocked_until == account.blocked_until
    assert kept.chosen == Quota(7, 60.0)

    assert await row.save(Account(chosen=Quota(7, 60.0, ((at + 50, 2),))), 1) == 2
    async with pool.connection() as conn:
        (shown,) = await budgets.usage(conn, "org_kept", now=START)
        assert (shown["source"], shown["used"], shown["remaining"]) == ("chosen", 2, 5)
        assert await budgets.usage(conn, "org_unheard_of", now=START) == []


async def test_what_a_system_tells_any_client_is_known_to_the_next(
    pool: AsyncConnectionPool, database: Settings
) -> None:
    """From the answer on the wire to the row, through the client that the pipeline opens."""
    told = ("x-pco-api-request-rate-limit: 40", "x-pco-api-request-rate-count: 38", "x-pco-api-request-rate-period: 20")
    page = answer("200 OK", b"[]", "content-type: application/json", *told, "connection: close")
    connection = await connected(pool, "org_wire")
    parts: Any = None
    resources = Resources(
        database, parts, vault.parse_key(base64.b64encode(bytes(32)), "here"), pool, pool, parts, parts
    )
    async with server(page) as url:
        connection = replace(connection, url=url)
        async with resources.open(connection, "poll") as opened:
            assert opened.budget.ready_at() is None
            assert [page.records async for page in opened.client.pages("individual", None)] == [[]]
            assert opened.budget.room(100) == 0, "two are left, and a poll leaves four"
            assert opened.budget.room(100, "lane") == 2
        async with resources.open(connection) as opened:
            assert opened.budget.ready_at() is None
    async with pool.connection() as conn:
        (shown,) = await budgets.usage(conn, "org_wire", now=clock.now())
    assert (shown["limit"], shown["used"], shown["remaining"]) == (40, 38, 2)
