"""The `inbound.apply` agent: records of inbound.events -> events -> one transaction with their effects and the offsets.

It decodes and keeps what nobody can decode; the applier decides and writes. Whatever passes by waiting is tried again
here a few times, then by the runner, patiently; nothing is acknowledged before it is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime

import psycopg
import structlog
from prometheus_client import Counter, Histogram
from psycopg_pool import AsyncConnectionPool

from schemas import events
from schemas.codec import Codec
from schemas.fields import Json
from schemas.problems import Problem
from streams import progress
from streams.chunks import Chunk, Record
from streams.inbound import dead_letters
from streams.inbound.applier import Applied, Applier
from streams.inbound.incoming import Incoming

NAME = "inbound.apply"
TRIES = 5

EVENTS = Counter("syncline_inbound_events", "Events by what became of them", ["connection", "decision"])
CORRECTIONS = Counter("syncline_inbound_corrections", "Pushes planned because they held something else than we do")
LAG = Histogram(
    "syncline_inbound_apply_seconds",
    "From receipt to commit",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60, 600),
)

_log = structlog.get_logger(NAME)
_AGAIN = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.UniqueViolation,
)


class ApplyAgent:
    """The handler of the agent.

    Args:
        pool: of the role `applier`, in autocommit: only its writes may say where they came from.
        wake: tells the dispatcher of this process that corrections are planned.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool,
        codec: Codec,
        applier: Applier,
        *,
        now: Callable[[], datetime],
        wake: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._codec = codec
        self._applier = applier
        self._now = now
        self._wake = wake

    async def __call__(self, chunks: list[Chunk]) -> None:
        """Apply all events in `chunks`; when it returns, their effects and the offsets are committed."""
        await self._codec.learn(record.value for chunk in chunks for record in chunk.records)
        incoming, unreadable = self.read(chunks)
        applied = await self._patiently(chunks, incoming, unreadable)
        self._tell(incoming, applied)
        if applied.corrections:
            self._wake()

    def read(self, chunks: Iterable[Chunk]) -> tuple[list[Incoming], list[dict[str, Json]]]:
        """The events, and the records that nobody can read, as dead letters."""
        incoming, unreadable = [], []
        for chunk in chunks:
            for record in chunk.records:
                position = f"{chunk.topic}/{chunk.partition}/{record.offset}"
                try:
                    incoming.append(self._event(record, position))
                except Problem as problem:
                    unreadable.append(dead_letters.of_record(record.value, record.key, position, problem))
        return incoming, unreadable

    def _event(self, record: Record, position: str) -> Incoming:
        try:
            event = events.decode(self._codec, record.value)
        except TypeError:
            raise Problem("avro_unreadable", "the record is Avro, but of another kind") from None
        return Incoming(event, position=position, raw=record.value or b"")

    async def _patiently(
        self, chunks: list[Chunk], incoming: list[Incoming], unreadable: list[dict[str, Json]]
    ) -> Applied:
        for attempt in range(TRIES):
            try:
                return await self._store(chunks, incoming, unreadable)
            except _AGAIN:
                if attempt == TRIES - 1:
                    raise
                await asyncio.sleep(0.01 * attempt)
        raise AssertionError("unreachable")

    async def _store(self, chunks: list[Chunk], incoming: list[Incoming], unreadable: list[dict[str, Json]]) -> Applied:
        async with self._pool.connection() as conn, conn.transaction():
            await progress.advance(conn.cursor(), NAME, chunks)
            await dead_letters.write(conn, unreadable, self._now())
            return await self._applier.apply(conn, incoming)

    def _tell(self, incoming: Iterable[Incoming], applied: Applied) -> None:
        now = self._now()
        for each in incoming:
            LAG.observe(max(0.0, (now - each.event.received_at).total_seconds()))
        for (connection, decision), count in applied.decisions.items():
            EVENTS.labels(connection, decision).inc(count)
        CORRECTIONS.inc(applied.corrections)
        if applied.dead:
            _log.error("events_buried", count=len(applied.dead), codes=sorted({row["code"] for row in applied.dead}))
        if applied.reviews:
            _log.warning("events_refused", count=len(applied.reviews))
