"""A lane: all calls of one connection, some at once, one at a time for each record.

The lane claims as much as it has room for, makes the calls, and hands results to one committer that records everything
that waits in one transaction. It does not claim while the breaker is open or the rate budget is spent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from connectors.contract import Client, Failed
from connectors.errors import Rejected
from streams.outbound.calls import Calls
from streams.outbound.claims import Claims
from streams.outbound.outcomes import Outcomes, Result
from streams.outbound.writes import Claim
from streams.rules import retries
from streams.rules.breakers import Breaker
from streams.store import lanes as lane_states
from streams.store.connections import Connection

IDLE_S = 5.0
DATABASE_PAUSE_S = 1.0
CLAIM_MOST = 500

_log = structlog.get_logger("outbound.lane")


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


@dataclass(frozen=True, slots=True)
class Tools:
    """What a lane works with.

    Args:
        ready_at: when the rate budget has room again; None for now.
        wait: waits for an event, at most so many seconds; replaced where time is not the wall clock's.
    """

    client: Client
    claims: Claims
    outcomes: Outcomes
    calls: Calls
    breaker: Breaker
    pool: AsyncConnectionPool
    concurrency: int
    slot: int
    now: Callable[[], datetime]
    ready_at: Callable[[], datetime | None] = lambda: None
    wait: Callable[[asyncio.Event, float], Awaitable[None]] = wait_for


class Lane:
    """Claims, calls and records for one connection until it is stopped."""

    def __init__(self, connection: Connection, tools: Tools) -> None:
        self.connection = connection
        self._tools = tools
        self._wake = asyncio.Event()
        self._results: asyncio.Queue[list[Result]] = asyncio.Queue()
        self._calls: set[asyncio.Task[None]] = set()
        self._full = False
        self._due: datetime | None = None
        self._was_open = True  # of a former life of this worker, perhaps
        self._stopping = False
        self._recording = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._record_all())]

    async def stop(self) -> None:
        """Claim nothing more, let calls end, record their outcome."""
        self._stopping = True
        self._wake.set()
        worker, recorder = self._tasks
        await worker
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._results.join()
        recorder.cancel()
        await asyncio.gather(recorder, return_exceptions=True)

    def wake(self) -> None:
        """Something may be ready."""
        self._wake.set()

    @property
    def busy(self) -> bool:
        """Whether calls are on their way or their results are not yet recorded."""
        return bool(self._calls) or self._recording

    async def _work(self) -> None:
        while not self._stopping:
            room, until = self._room()
            if not room:
                self._full = True
                await self._wait(until)
                continue
            self._full = False
            self._wake.clear()
            limit = min(room * self._tools.client.batch_size, CLAIM_MOST)
            try:
                async with self._tools.pool.connection() as conn:
                    taken, claims = await self._tools.claims.take(
                        conn, self._tools.client, limit=limit, now=self._tools.now()
                    )
                    if not taken:
                        self._due = await self._tools.claims.next_due(conn)
            except psycopg.OperationalError as error:
                _log.warning("lane_waits", what="postgres", connection=self.connection.name, error=type(error).__name__)
                await asyncio.sleep(DATABASE_PAUSE_S)
                continue
            for group in self._grouped(claims):
                call = asyncio.create_task(self._call(group))
                self._calls.add(call)
                call.add_done_callback(self._called)
            if taken < limit:
                await self._wait(self._due)

    def _room(self) -> tuple[int, datetime | None]:
        """How many calls may start, and if none, until when there is surely no room."""
        tools, now = self._tools, self._tools.now()
        blocked = tools.ready_at()
        if blocked and blocked > now:
            return 0, blocked
        room = tools.breaker.room(now, len(self._calls), tools.concurrency)
        return room, tools.breaker.until

    def _grouped(self, claims: Sequence[Claim]) -> Iterator[list[Claim]]:
        """The claims as calls: writes by the batch, questions one by one."""
        writes = [claim for claim in claims if not claim.resolve]
        size = self._tools.client.batch_size
        yield from (writes[start : start + size] for start in range(0, len(writes), size))
        yield from ([claim] for claim in claims if claim.resolve)

    def _called(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if self._full:
            self._wake.set()
        if not call.cancelled() and (error := call.exception()):
            # the intents stay SENDING and are sent again, unchanged, when their lease ends
            _log.error("call_failed", connection=self.connection.name, exc_info=error)

    async def _wait(self, until: datetime | None) -> None:
        seconds = IDLE_S if until is None else (until - self._tools.now()).total_seconds()
        await self._tools.wait(self._wake, min(max(seconds, 0.001), IDLE_S))
        self._wake.clear()

    async def _call(self, claims: list[Claim]) -> None:
        results = await self._tools.calls.make(claims)
        self._recording = True
        self._results.put_nowait(results)

    async def _record_all(self) -> None:
        while True:
            groups = [await self._results.get()]
            self._recording = True
            while not self._results.empty():
                groups.append(self._results.get_nowait())
            await self._record([result for group in groups for result in group])
            for _ in groups:
                self._results.task_done()
            self._recording = not self._results.empty()

    async def _record(self, results: list[Result]) -> None:
        """Commit outcomes, however long the database is away: nobody else knows them."""
        while True:
            try:
                async with self._tools.pool.connection() as conn:
                    if await self._tools.outcomes.commit(conn, results, now=self._tools.now()):
                        self._wake.set()
                    self._look_again(results)
                    await self._tell(conn, results)
                return
            except psycopg.errors.IntegrityError as error:
                await self._record_apart(results, error)
                return
            except psycopg.OperationalError as error:
                _log.warning(
                    "outcomes_wait", what="postgres", connection=self.connection.name, error=type(error).__name__
                )
                await asyncio.sleep(DATABASE_PAUSE_S)

    async def _tell(self, conn: psycopg.AsyncConnection, results: list[Result]) -> None:
        """Pause the connection where a result asks for it; show whether the breaker is open."""
        failed = next((r.outcome for r in results if isinstance(r.outcome, Failed)), None)
        for result in results:
            if isinstance(result.next, retries.StopLane) and isinstance(result.outcome, Failed):
                error = result.outcome.error
                await lane_states.pause(conn, self.connection, f"{error.code}: {error.cause}")
                break
        is_open = self._tools.breaker.is_open
        if is_open and failed:
            await lane_states.breaker_open(
                conn, self.connection, self._tools.slot, self._tools.breaker.failures, failed.error, self._tools.now()
            )
        elif self._was_open and not is_open:
            await lane_states.breaker_closed(conn, self.connection, self._tools.slot)
        self._was_open = is_open

    def _look_again(self, results: list[Result]) -> None:
        """Remember the earliest retry, so that the lane is there in time."""
        for result in results:
            if isinstance(result.next, retries.RetryAt | retries.Resolve | retries.Refetch):
                self._due = min(self._due or result.next.at, result.next.at)
                self._wake.set()

    async def _record_apart(self, results: list[Result], error: psycopg.errors.IntegrityError) -> None:
        """One of these contradicts what is stored, say their id belongs to another entity: that one is parked."""
        if len(results) > 1:
            for result in results:
                await self._record([result])
            return
        cause = f"their record is already linked to another entity ({error.diag.constraint_name})"
        refused = Failed(Rejected("link_conflict", cause, "Look at both with `syncline why`."))
        await self._record([replace(results[0], outcome=refused, next=retries.Park())])
