"""Keeps one lane for every active connection, and wakes them when there is something to send.

Woken by the planner in the same process through `wake`, by other processes through NOTIFY, and by time: a lane looks
by itself every few seconds, so a lost notification costs latency and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from connectors.contract import ExternalRecord, Manifest
from schemas.problems import Problem
from streams.outbound.budgets import Opened
from streams.outbound.calls import Calls
from streams.outbound.claims import Claims
from streams.outbound.lanes import DATABASE_PAUSE_S, Lane, Tools
from streams.outbound.outcomes import Outcomes
from streams.rules.breakers import Breaker
from streams.rules.retries import Terms
from streams.store import connections, queries, waits
from streams.store.connections import Connection

LOOK_EVERY_S = 2.0
RELEASE_EVERY = timedelta(seconds=10)
_SQL = queries("outbound")
_log = structlog.get_logger("outbound.dispatcher")


@dataclass(frozen=True, slots=True)
class Systems:
    """How the dispatcher gets at the outside world and at what the model says.

    Args:
        open_client: makes the client of a connection; may raise Problem, then that connection has no lane until it
            changes.
        refresh: publishes a record of theirs that was read because it refused our write.
        every_change: whether an entity type is event-like.
    """

    manifest: Callable[[str], Manifest]
    open_client: Callable[[Connection], AbstractAsyncContextManager[Opened]]
    refresh: Callable[[Connection, ExternalRecord], Awaitable[None]]
    every_change: Callable[[str], bool]


class Dispatcher:
    """A service of the worker: `run`, `stop`, and `wake` from the planner.

    Args:
        slot: this worker's number, written into claims so that a successor can take them over at once.
    """

    name = "dispatcher"

    def __init__(
        self,
        pool: AsyncConnectionPool,
        dsn: str,
        *,
        systems: Systems,
        slot: Callable[[], int],
        now: Callable[[], datetime],
        spread: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._dsn = dsn
        self._systems = systems
        self._slot = slot
        self._now = now
        self._spread = spread
        self._lanes: dict[tuple[str, str], tuple[Lane, AsyncExitStack]] = {}
        self._broken: dict[tuple[str, str], Connection] = {}
        self._changed = asyncio.Event()
        self._released_at = now()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Take over what this slot's former holder left in flight, then work until `stop`."""
        await self._release_slot()
        self._tasks = [asyncio.create_task(self._keep_lanes()), asyncio.create_task(self._listen())]
        await asyncio.gather(*self._tasks, return_exceptions=False)

    async def stop(self) -> None:
        """Claim nothing more; calls in flight end and are recorded."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._close(key) for key in list(self._lanes)))

    async def _release_slot(self) -> None:
        while True:
            try:
                async with self._pool.connection() as conn:
                    await conn.execute(_SQL["release_slot"], {"slot": self._slot(), "now": self._now()})
                return
            except psycopg.OperationalError as error:
                _log.warning("waiting_for", what="postgres", error=type(error).__name__)
                await asyncio.sleep(DATABASE_PAUSE_S)

    def wake(self) -> None:
        """Intents were planned in this process."""
        for lane, _ in self._lanes.values():
            lane.wake()

    async def _keep_lanes(self) -> None:
        while True:
            self._changed.clear()
            try:
                async with self._pool.connection() as conn:
                    wanted = {(c.org_id, c.name): c for c in await connections.list_active(conn)}
                await self._adjust(wanted)
                await self._release_waiting()
            except psycopg.OperationalError as error:
                _log.warning("waiting_for", what="postgres", error=type(error).__name__)
                await asyncio.sleep(DATABASE_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_EVERY_S)

    async def _release_waiting(self) -> None:
        if self._now() - self._released_at < RELEASE_EVERY:
            return
        self._released_at = self._now()
        async with self._pool.connection() as conn, conn.transaction():
            if await waits.release_linked(conn, now=self._released_at):
                self.wake()

    async def _adjust(self, wanted: dict[tuple[str, str], Connection]) -> None:
        """Stop lanes of connections that are gone or changed, open those that are missing."""
        stale = [key for key, (lane, _) in self._lanes.items() if wanted.get(key) != lane.connection]
        await asyncio.gather(*(self._close(key) for key in stale))
        for key, connection in wanted.items():
            if key not in self._lanes and self._broken.get(key) != connection:
                await self._open(key, connection)

    async def _open(self, key: tuple[str, str], connection: Connection) -> None:
        closing = AsyncExitStack()
        try:
            opened = await closing.enter_async_context(self._systems.open_client(connection))
            manifest = self._systems.manifest(connection.system)
        except Problem as problem:
            self._broken[key] = connection
            _log.error("lane_not_open", connection=connection.name, code=problem.code, cause=problem.cause)
            return
        lane = Lane(connection, self._tools(connection, manifest, opened))
        lane.start()
        self._lanes[key] = (lane, closing)
        _log.info("lane_open", connection=connection.name, system=connection.system)

    def _tools(self, connection: Connection, manifest: Manifest, opened: Opened) -> Tools:
        breaker, slot = Breaker(), self._slot()
        terms = Terms(connection.retry_policy, manifest, self._spread)

        async def refresh(record: ExternalRecord) -> None:
            await self._systems.refresh(connection, record)

        return Tools(
            client=opened.client,
            claims=Claims(connection, manifest, slot, every_change=self._systems.every_change),
            outcomes=Outcomes(connection),
            calls=Calls(opened.client, terms, breaker, refresh=refresh, now=self._now),
            breaker=breaker,
            pool=self._pool,
            concurrency=connection.concurrency or manifest.concurrency,
            slot=slot,
            now=self._now,
            budget=opened.budget,
        )

    async def _close(self, key: tuple[str, str]) -> None:
        lane, closing = self._lanes.pop(key)
        await lane.stop()
        await closing.aclose()

    async def _listen(self) -> None:
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as conn:
                    await conn.execute("listen sync_push; listen sync_connection")
                    self._changed.set()
                    async for notice in conn.notifies():
                        if notice.channel == "sync_connection":
                            self._changed.set()
                        else:
                            self.wake()
            except psycopg.OperationalError as error:
                _log.warning("notifications_lost", error=type(error).__name__)
                await asyncio.sleep(DATABASE_PAUSE_S)
