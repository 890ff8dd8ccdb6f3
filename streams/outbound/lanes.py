"""A lane: all calls of one connection, some at once, one at a time for each record.

The lane claims as much as it has room for, makes the calls, and hands results to one committer that records everything
that waits in one transaction. It does not claim while the breaker is open or the rate budget is spent. From a system
that answers fast it claims one round ahead, so that no call waits for Postgres; what it cannot send soon it gives back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from connectors.contract import Client, Failed
from connectors.errors import Rejected
from streams import metrics
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
FAST_S = 0.25
"""Calls of a system that answers within this time are claimed ahead; of a slower one the rows would be old."""
SEND_WITHIN = timedelta(seconds=30)
"""Of the claim, well within its lease: later, another worker may have it."""

_log = structlog.get_logger("outbound.lane")


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


class Allowance(Protocol):
    """A rate budget as the lane sees it; `streams.outbound.budgets.Budget` is one."""

    def ready_at(self) -> datetime | None:
        """When a call may be made; None for now."""

    def room(self, most: int) -> int:
        """How many of so many calls would not have to wait."""


class Endless:
    """No limit."""

    def ready_at(self) -> datetime | None:
        """Now."""
        return None

    def room(self, most: int) -> int:
        """All of them."""
        return most


NO_LIMIT = Endless()


@dataclass(frozen=True, slots=True)
class Tools:
    """What a lane works with.

    Args:
        budget: what may be called; the client asks it by itself, the lane looks at it before it claims.
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
    budget: Allowance = NO_LIMIT
    wait: Callable[[asyncio.Event, float], Awaitable[None]] = wait_for


class Lane:
    """Claims, calls and records for one connection until it is stopped."""

    def __init__(self, connection: Connection, tools: Tools) -> None:
        self.connection = connection
        self._tools = tools
        self._wake = asyncio.Event()
        self._results: asyncio.Queue[list[Result]] = asyncio.Queue()
        self._calls: set[asyncio.Task[None]] = set()
        self._ready: deque[list[Claim]] = deque()
        self._call_s = FAST_S
        self._full = False
        self._dry = False
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
        metrics.forget(self.connection)

    def wake(self) -> None:
        """Something may be ready."""
        self._dry = False
        self._wake.set()

    @property
    def busy(self) -> bool:
        """Whether calls are on their way or their results are not yet recorded."""
        return bool(self._calls) or self._recording

    async def _work(self) -> None:
        while not self._stopping:
            room, until = self._start_calls()
            free = not self._tools.breaker.is_open and (until is None or until <= self._tools.now())
            ahead = self._tools.concurrency if free and self._call_s < FAST_S else 0
            wanted = self._tools.budget.room(room + ahead) - len(self._ready)
            if self._dry and self._due and self._due <= self._tools.now():
                self._dry = False
            if self._dry or (wanted <= ahead // 2 and not (room and not self._ready)):
                self._full = True
                await self._give_back(until)
                if not await self._wait(self._due if self._dry else until):
                    self._dry = False  # nobody told: look by itself now and then
                continue
            self._full = False
            self._wake.clear()
            limit = min(wanted * self._tools.client.batch_size, CLAIM_MOST)
            try:
                taken = await self._claim(limit)
            except psycopg.OperationalError as error:
                _log.warning("lane_waits", what="postgres", connection=self.connection.name, error=type(error).__name__)
                await asyncio.sleep(DATABASE_PAUSE_S)
                continue
            if taken < limit and not self._wake.is_set():
                self._dry = True
        self._stopping = True
        await self._give_back(None)

    async def _claim(self, limit: int) -> int:
        """Claim, and start what there is room for; how many were claimed."""
        async with self._tools.pool.connection() as conn:
            taken, claims = await self._tools.claims.take(conn, self._tools.client, limit=limit, now=self._tools.now())
            if not taken:
                self._due = await self._tools.claims.next_due(conn)
        self._ready.extend(self._grouped(claims))
        return taken

    def _start_calls(self) -> tuple[int, datetime | None]:
        """Start what is ready as far as there is room; the room that is left, and if none, until when there is none."""
        room, until = self._room()
        while room and self._ready:
            call = asyncio.create_task(self._call(self._ready.popleft()))
            self._calls.add(call)
            call.add_done_callback(self._called)
            room -= 1
        return room, until

    async def _give_back(self, until: datetime | None) -> None:
        """Claims that cannot be sent soon: the system is down, the budget is spent, they are old, or the lane stops."""
        now = self._tools.now()
        soon = not self._stopping and not self._tools.breaker.is_open and (until is None or until <= now)
        old = bool(self._ready) and self._ready[0][0].claimed_at + SEND_WITHIN < now
        if not self._ready or (soon and not old):
            return
        claims = [claim for group in self._ready for claim in group]
        self._ready.clear()
        try:
            async with self._tools.pool.connection() as conn:
                await self._tools.claims.give_back(conn, claims, now=now)
        except psycopg.OperationalError as error:
            # they stay SENDING and are taken over, with what can be known of them, when their lease ends
            _log.warning("claims_kept", connection=self.connection.name, count=len(claims), error=type(error).__name__)

    def _room(self) -> tuple[int, datetime | None]:
        """How many calls may start, and if none, until when there is surely no room."""
        tools, now = self._tools, self._tools.now()
        blocked = tools.budget.ready_at()
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

    async def _wait(self, until: datetime | None) -> bool:
        """Wait for a wake-up, at most until then; whether there was one."""
        seconds = IDLE_S if until is None else (until - self._tools.now()).total_seconds()
        await self._tools.wait(self._wake, min(max(seconds, 0.001), IDLE_S))
        woken = self._wake.is_set()
        self._wake.clear()
        return woken

    async def _call(self, claims: list[Claim]) -> None:
        started = self._tools.now()
        results = await self._tools.calls.make(claims)
        took_s = min(
            (self._tools.now() - started).total_seconds(), 4 * FAST_S
        )  # one that hung says little of the others
        self._call_s += (took_s - self._call_s) / 8
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
                        self.wake()
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
        metrics.breaker(self.connection, is_open=is_open)
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
                self.wake()

    async def _record_apart(self, results: list[Result], error: psycopg.errors.IntegrityError) -> None:
        """One of these contradicts what is stored, say their id belongs to another entity: that one is parked."""
        if len(results) > 1:
            for result in results:
                await self._record([result])
            return
        cause = f"their record is already linked to another entity ({error.diag.constraint_name})"
        refused = Failed(Rejected("link_conflict", cause, "Look at both with `syncline why`."))
        await self._record([replace(results[0], outcome=refused, next=retries.Park())])
