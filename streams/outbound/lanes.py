"""A lane: all calls of one connection, a few at once, one at a time for each record.

The lane claims when it has room, sends, and hands the outcome to one committer that records everything that waits in
one transaction. A breaker keeps a system that does not answer from being hammered: three failures in a row open it, one
call at a time probes whether it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from connectors.contract import Client, Delivered, Failed, Outcome
from connectors.errors import Ambiguous, NotApplied, Rejected
from streams.outbound.claims import Claims, Result
from streams.outbound.writes import Claim
from streams.rules import retries
from streams.store.connections import Connection

IDLE_S = 5.0
OPEN_AFTER = 3
OPEN_CAP_S = 30.0
DATABASE_PAUSE_S = 1.0

_log = structlog.get_logger("outbound.lane")


@dataclass(slots=True)
class Breaker:
    """Whether the system may be called. Closed: yes; open: not before `until`; half open: one call at a time."""

    failures: int = 0
    until: datetime | None = None

    def room(self, now: datetime, in_flight: int, concurrency: int) -> bool:
        """Whether one more call may start."""
        if self.until and now < self.until:
            return False
        return in_flight < (1 if self.failures >= OPEN_AFTER else concurrency)

    def note(self, outcome: Outcome, now: datetime) -> None:
        """Learn from one call's outcome."""
        if isinstance(outcome, Delivered) or not isinstance(outcome.error, NotApplied | Ambiguous):
            self.failures, self.until = 0, None
            return
        self.failures += 1
        wait = outcome.error.retry_after if isinstance(outcome.error, NotApplied) else None
        if wait is None and self.failures >= OPEN_AFTER:
            wait = min(2.0 ** (self.failures - OPEN_AFTER), OPEN_CAP_S)
        if wait is not None:
            self.until = max(self.until or now, now + timedelta(seconds=wait))


class Lane:
    """Claims, sends and records for one connection until it is stopped."""

    def __init__(
        self,
        connection: Connection,
        client: Client,
        claims: Claims,
        pool: AsyncConnectionPool,
        *,
        concurrency: int,
        now: Callable[[], datetime],
        spread: Callable[[], float],
    ) -> None:
        self.connection = connection
        self._client = client
        self._claims = claims
        self._pool = pool
        self._concurrency = concurrency
        self._now = now
        self._spread = spread
        self._breaker = Breaker()
        self._wake = asyncio.Event()
        self._results: asyncio.Queue[list[Result]] = asyncio.Queue()
        self._calls: set[asyncio.Task[None]] = set()
        self._full = False
        self._due: datetime | None = None
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._send_all()), asyncio.create_task(self._record_all())]

    async def stop(self) -> None:
        """Claim nothing more, let calls end, record their outcome."""
        self._stopping = True
        self._wake.set()
        sender, recorder = self._tasks
        await sender
        await asyncio.gather(*self._calls)
        await self._results.join()
        recorder.cancel()
        await asyncio.gather(recorder, return_exceptions=True)

    def wake(self) -> None:
        """Something may be ready."""
        self._wake.set()

    async def _send_all(self) -> None:
        while not self._stopping:
            self._full = not self._breaker.room(self._now(), len(self._calls), self._concurrency)
            if self._full:
                await self._wait(self._until_room())
                continue
            self._wake.clear()
            try:
                async with self._pool.connection() as conn:
                    taken, claims = await self._claims.take(
                        conn, self._client, limit=self._client.batch_size, now=self._now()
                    )
                    if not taken:
                        self._due = await self._claims.next_due(conn)
            except psycopg.OperationalError as error:
                _log.warning("lane_waits", what="postgres", connection=self.connection.name, error=type(error).__name__)
                await asyncio.sleep(DATABASE_PAUSE_S)
                continue
            if claims:
                call = asyncio.create_task(self._call(claims))
                self._calls.add(call)
                call.add_done_callback(self._called)
            if taken < self._client.batch_size:
                await self._wait(IDLE_S if self._due is None else (self._due - self._now()).total_seconds())

    def _called(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if self._full:
            self._wake.set()
        if not call.cancelled() and (error := call.exception()):
            # the intents stay SENDING and are sent again, unchanged, when their lease ends
            _log.error("call_failed", connection=self.connection.name, exc_info=error)

    def _until_room(self) -> float:
        return (self._breaker.until - self._now()).total_seconds() if self._breaker.until else IDLE_S

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), min(max(seconds, 0.001), IDLE_S))

    async def _call(self, claims: list[Claim]) -> None:
        sent_at = self._now()
        outcomes = await self._send([claim.body or b"" for claim in claims])
        answered_at = self._now()
        self._breaker.note(outcomes[0], answered_at)
        results = []
        for claim, outcome in zip(claims, outcomes, strict=True):
            told = retries.after(
                outcome,
                policy=self.connection.retry_policy,
                attempt=claim.attempt,
                first_failed_at=claim.first_failed_at,
                resent=claim.resent,
                now=answered_at,
                spread=self._spread,
            )
            results.append(Result(claim, outcome, told, sent_at, answered_at))
        self._results.put_nowait(results)

    async def _send(self, bodies: list[bytes]) -> list[Outcome]:
        """Send; where a batch is refused as a whole, halve it until only the refused records are."""
        outcomes = list(await self._client.send(bodies))
        refused = all(isinstance(o, Failed) and isinstance(o.error, Rejected) for o in outcomes)
        if len(bodies) > 1 and refused:
            half = len(bodies) // 2
            return await self._send(bodies[:half]) + await self._send(bodies[half:])
        return outcomes

    async def _record_all(self) -> None:
        while True:
            groups = [await self._results.get()]
            while not self._results.empty():
                groups.append(self._results.get_nowait())
            results = [result for group in groups for result in group]
            await self._record(results)
            for _ in groups:
                self._results.task_done()

    async def _record(self, results: list[Result]) -> None:
        """Commit outcomes, however long the database is away: nobody else knows them."""
        while True:
            try:
                async with self._pool.connection() as conn:
                    if await self._claims.commit(conn, results, now=self._now()):
                        self._wake.set()
                    self._look_again(results)
                    stop = next((r for r in results if isinstance(r.next, retries.StopLane)), None)
                    if stop and isinstance(stop.outcome, Failed):
                        await self._claims.pause(conn, f"{stop.outcome.error.code}: {stop.outcome.error.cause}")
                return
            except psycopg.errors.IntegrityError as error:
                await self._record_apart(results, error)
                return
            except psycopg.OperationalError as error:
                _log.warning(
                    "outcomes_wait", what="postgres", connection=self.connection.name, error=type(error).__name__
                )
                await asyncio.sleep(DATABASE_PAUSE_S)

    def _look_again(self, results: list[Result]) -> None:
        """Remember the earliest retry, so that the lane is there in time."""
        for result in results:
            if isinstance(result.next, retries.RetryAt):
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
