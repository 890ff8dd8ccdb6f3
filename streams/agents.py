"""From waiting chunks to one handler call: merging, retrying, giving up.

`streams.transport` delivers chunks → a Faust agent puts them here → `Runner` merges all that wait, from all topics of
the agent, and calls the handler → acknowledges them when it returns. A handler that raises never gets its chunks
acknowledged (rule R2): they are retried in place while the cause may pass, else the process ends.

Knows nothing of Faust; handlers and their tests need this module only.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg
import structlog

from schemas.problems import Problem
from streams import chunks
from streams.chunks import Chunk, Late

log = structlog.get_logger(__name__)

Handler = Callable[[list[Chunk]], Awaitable[None]]

MERGE_RECORDS = 5_000
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
PASSING = frozenset({"registry_unreachable", "postgres_unreachable", "kafka_unreachable"})
"""Codes of problems that pass by waiting."""


class Binding(Protocol):
    """Something an agent needs of the Faust app before it starts, for example a table."""

    def bind(self, app: Any) -> None:
        """Called once with the app, before it starts."""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One agent: which topics it reads and what it does with them.

    Args:
        name: `group.name`, for example `outbound.plan`. Agents of one group share a Kafka consumer group, and with it
            the partition numbers they own.
        topics: all of the same partition count; no other agent of the group reads them.
        handler: gets all chunks that wait, at most about 5,000 records. Returns when their effects are durable. Raises
            `Late` when `progress.advance` did, any other error to have the chunks tried again or the process ended.
        stored: positions live in `sync.progress` under `name`; the handler advances them in its transaction. Else Kafka
            keeps them, and records may come twice after a crash.
        binding: what must be bound to the app first.
    """

    name: str
    topics: tuple[str, ...]
    handler: Handler
    stored: bool = True
    binding: Binding | None = None

    @property
    def group(self) -> str:
        """The consumer group's part of the name."""
        return self.name.partition(".")[0]


def passes(error: BaseException) -> bool:
    """Whether trying again later may help: a neighbour is down or busy, no record is at fault."""
    if isinstance(error, Problem):
        return error.code in PASSING
    if isinstance(error, psycopg.InterfaceError):
        return True  # "the connection is closed": the next try takes another
    return isinstance(error, (psycopg.OperationalError, ConnectionError, TimeoutError))


@dataclass(slots=True)
class Waiting:
    """A chunk that waits, how to acknowledge it, and whether it still is ours to work on."""

    chunk: Chunk
    ack: Callable[[], Any]
    ours: Callable[[], bool]


class Runner:
    """Hands the waiting chunks of one agent to its handler, one call at a time.

    Args:
        spec: the agent.
        merge_records: a call takes waiting chunks until it has this many records.
    """

    def __init__(self, spec: AgentSpec, *, merge_records: int = MERGE_RECORDS) -> None:
        self.spec = spec
        self._merge_records = merge_records
        self._waiting: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.handled = 0
        """Records handled since the start."""
        self.waiting_for = ""
        """Why the handler is being retried; empty when it is not."""
        self.progressed_at = time.monotonic()
        """When a call last ended well, on the monotonic clock."""

    def put(self, waiting: Waiting) -> None:
        """Queue a chunk."""
        self._waiting.append(waiting)
        self._arrived.set()

    def drop(self) -> None:
        """Forget the chunks that no call has begun; their partitions are being taken away."""
        self._waiting.clear()

    async def settle(self, timeout_s: float) -> bool:
        """Wait for the running call, at most `timeout_s`; a call that is being retried is not waited for."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._idle.is_set() and not self.waiting_for:
                    await asyncio.wait([asyncio.ensure_future(self._idle.wait())], timeout=0.05)
        except TimeoutError:
            return False
        return self._idle.is_set()

    @property
    def queued(self) -> int:
        """Records that wait."""
        return sum(len(waiting.chunk.records) for waiting in self._waiting)

    async def run(self) -> None:
        """Work for ever. Raises a Problem when the handler raised what waiting cannot mend."""
        while True:
            await self._arrived.wait()
            batch = self._take()
            if not batch:
                self._arrived.clear()
                continue
            self._idle.clear()
            try:
                await self._work(batch)
            finally:
                self._idle.set()

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        records = 0
        while self._waiting and (not batch or records < self._merge_records):
            waiting = self._waiting.popleft()
            if waiting.ours():
                batch.append(waiting)
                records += len(waiting.chunk.records)
        return batch

    async def _work(self, batch: list[Waiting]) -> None:
        if not await self._handle([waiting.chunk for waiting in batch], lambda: all(w.ours() for w in batch)):
            return
        for waiting in batch:
            waiting.ack()
            self.handled += len(waiting.chunk.records)
        self.progressed_at = time.monotonic()

    async def _handle(self, work: list[Chunk], ours: Callable[[], bool]) -> bool:
        """Call the handler until it succeeds; False when the partitions went away while it could not."""
        delay_s = FIRST_DELAY_S
        try:
            while work:
                try:
                    await self.spec.handler(work)
                    return True
                except Late as late:
                    log.info("chunks_done_elsewhere", agent=self.spec.name, positions=str(late))
                    work = chunks.remaining(work, late.positions)
                except Exception as error:
                    if not passes(error):
                        log.exception("handler_failed", agent=self.spec.name, cause=cause(error), **span(work))
                        raise failure(self.spec.name, error) from None
                    if not ours():
                        return False
                    self.waiting_for = type(error).__name__
                    log.warning("handler_waits", agent=self.spec.name, cause=cause(error), again_in_s=delay_s)
                    await asyncio.sleep(delay_s)
                    delay_s = min(delay_s * 2, LONGEST_DELAY_S)
            return True
        finally:
            self.waiting_for = ""


def cause(error: BaseException) -> str:
    """What went wrong without what it went wrong with: other errors' messages may quote a row."""
    if isinstance(error, Problem):
        return f"{error.code}: {error.cause}"
    if isinstance(error, psycopg.Error) and error.sqlstate:
        where = [word for word in (error.diag.table_name, error.diag.constraint_name) if word]
        return " ".join([type(error).__name__, error.sqlstate, *where])
    if isinstance(error, (OSError, psycopg.OperationalError)):
        return str(error).partition("\n")[0] or type(error).__name__
    return type(error).__name__


def failure(name: str, error: Exception) -> Problem:
    """The problem that ends the process when a handler failed for good."""
    if isinstance(error, Problem):
        return error
    return Problem("handler_failed", f"{name}: {cause(error)}", "See the log line `handler_failed` for the place.")


def span(work: Sequence[Chunk]) -> dict[str, object]:
    """Where the chunks are, for a log line."""
    return {
        "records": sum(len(chunk.records) for chunk in work),
        "at": [f"{chunk.topic}/{chunk.partition}:{chunk.first}-{chunk.end}" for chunk in work[:20]],
    }
