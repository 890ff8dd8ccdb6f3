"""The `outbound.plan` agent: captured records -> changes -> one transaction with wishes, dead letters and offsets.

Everything it does for one batch is in `PlanAgent.__call__`, in the order in which it happens. It decides nothing
(`streams.rules.routing` does) and sends nothing (the dispatcher does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import orjson
import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from connectors.debezium import envelope
from schemas.codec import Codec
from schemas.problems import Problem
from streams import metrics, progress
from streams.chunks import Chunk, Record
from streams.outbound.planner import Planner, Touched
from streams.store import queries

NAME = "outbound.plan"
DEADLOCKS = 5
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SQL = queries("outbound")
_log = structlog.get_logger(NAME)


class PlanAgent:
    """The handler of the agent.

    Args:
        root_type: prefix of an id -> the entity type with that prefix, None for what is no entity's id.
        wake: tells the dispatcher of this process that there is something to send.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool,
        codec: Codec,
        planner: Planner,
        *,
        root_type: Callable[[str], str | None],
        now: Callable[[], datetime],
        wake: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._codec = codec
        self._planner = planner
        self._root_type = root_type
        self._now = now
        self._wake = wake

    async def __call__(self, chunks: list[Chunk]) -> None:
        """Plan all changes in `chunks`; when it returns, the wishes and the offsets are committed."""
        await self._codec.learn(record.value for chunk in chunks for record in chunk.records)
        touched, unreadable = self.read(chunks)
        for attempt in range(DEADLOCKS):
            try:
                await self._store(chunks, touched, unreadable)
                break
            except psycopg.errors.DeadlockDetected:
                if attempt == DEADLOCKS - 1:
                    raise
                await asyncio.sleep(0)
        self._wake()

    async def plan_linked(self, sync_keys: Sequence[str]) -> None:
        """Plan entities that were linked by a match or a person: what was skipped for want of the link."""
        now = self._now()
        roots = [root for key in sync_keys if (root := self._root(key, now))]
        for root in roots:
            root.origins.add("local")
        async with self._pool.connection() as conn, conn.transaction():
            await self._planner.plan(conn, roots, now=now, reason="linked")
        self._wake()

    async def bury(self, chunk: Chunk, record: Record, problem: Problem) -> None:
        """Store a record that the links agent cannot read, durably."""
        async with self._pool.connection() as conn:
            await _bury(conn, [_dead_letter(chunk, record, problem)])

    def read(self, chunks: Iterable[Chunk]) -> tuple[list[Touched], list[dict[str, object]]]:
        """The roots that changed, each once, and the records that nobody can read, as rows for `dead_letters`."""
        touched: dict[str, Touched] = {}
        unreadable = []
        for chunk in chunks:
            for record in chunk.records:
                try:
                    self._note(chunk.topic, record, touched)
                except Problem as problem:
                    unreadable.append(_dead_letter(chunk, record, problem))
        return list(touched.values()), unreadable

    def _note(self, topic: str, record: Record, touched: dict[str, Touched]) -> None:
        if record.value is None:
            return
        change = envelope.change(topic, record.key, record.headers, self._codec.envelope(record.value))
        if not change.counts:
            return
        committed_at = EPOCH + timedelta(microseconds=change.committed_at_us)
        for sync_key in change.roots:
            root = touched.get(sync_key) or self._root(sync_key, committed_at)
            if root is None:
                raise Problem("root_unknown", f"the key of a record of {topic} names no entity of the model")
            # a part that left or came takes its old root along, whoever moved it
            root.origins.add(change.origin if len(change.roots) == 1 else "local")
            root.committed_at = min(root.committed_at, committed_at)
            touched[sync_key] = root

    def _root(self, sync_key: str, committed_at: datetime) -> Touched | None:
        org_id, _, root_id = sync_key.rpartition("/")
        root_type = self._root_type(root_id)
        return Touched(org_id, root_type, root_id, committed_at) if org_id and root_type else None

    async def _store(self, chunks: list[Chunk], touched: list[Touched], unreadable: list[dict[str, object]]) -> None:
        async with self._pool.connection() as conn, conn.transaction():
            await _bury(conn, unreadable)
            await progress.advance(conn.cursor(), NAME, chunks)
            planned = await self._planner.plan(conn, touched, now=self._now())
        metrics.planned(planned.routes)
        _log.debug("planned", roots=len(touched), intents=planned.intents)


async def _bury(conn: psycopg.AsyncConnection, unreadable: list[dict[str, object]]) -> None:
    if unreadable:
        await conn.execute(_SQL["unreadable"], {"rows": orjson.dumps(unreadable).decode()})
        _log.error("records_unreadable", count=len(unreadable), at=unreadable[0]["position"])


def _dead_letter(chunk: Chunk, record: Record, problem: Problem) -> dict[str, object]:
    return {
        "source": chunk.topic,
        "record_key": (record.key or b"").decode(errors="replace"),
        "value": (record.value or b"").hex(),
        "position": f"{chunk.topic}/{chunk.partition}/{record.offset}",
        "code": problem.code,
        "cause": problem.cause,
    }
