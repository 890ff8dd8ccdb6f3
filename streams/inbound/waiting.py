"""Events that cannot be applied yet: kept, and applied later, so that they hold up nobody else.

They tell of unknown records that may be our own creates coming back before their answers, or of rows that somebody has
locked. `hold` and `put_off` are steps of the applier; `Waiting` is the service that applies them, once every create in
question is settled or the record is linked. What was held is in no ledger yet, so applying it is the plain way of any
event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import orjson
import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from schemas import events
from schemas.codec import Codec
from schemas.problems import Problem
from streams.inbound.incoming import Incoming, Unit
from streams.inbound.loaded import Loaded
from streams.rules import mapping
from streams.rules.doubts import ANY_WITHIN, Doubt, Doubts
from streams.store import queries
from streams.turns import InTurns

Conn = AsyncConnection[Any]
Apply = Callable[[Conn, Sequence[Incoming]], Any]

AGAIN = timedelta(minutes=10)
"""When to look again at an event that waits for a person's decision about a create."""
LOCKED = timedelta(seconds=1)
"""When to look again at an event whose row was locked."""
BATCH = 500
EVERY_S = 1.0
BUSY_S = 0.1

_SQL = queries("waiting")
_log = structlog.get_logger("inbound.waiting")


async def hold(conn: Conn, unit: Unit, loaded: Loaded, incoming: Sequence[Incoming], now: datetime) -> list[Incoming]:
    """Keep the events that must wait; those that go on, in order."""
    unknown = {r.external_id for r in loaded.records.values() if not (r.link_id or r.entity_id or r.refused)}
    if not unknown:
        return list(incoming)
    cursor = await conn.execute(_SQL["doubts"], unit.scope)
    found = [Doubt(*row) async for row in cursor]
    if not found:
        return list(incoming)
    doubts, going_on, rows = Doubts(found, now), [], []
    for each in incoming:
        event = each.event
        waits_for = doubts.of(_root(unit, loaded, each), event.received_at) if event.external_id in unknown else []
        if not waits_for:
            unknown.discard(event.external_id)  # what follows finds the entity that this one makes
            going_on.append(each)
            continue
        rows.append(each.as_row() | {"waits_for": waits_for})
    if rows:
        again = min((each.since + ANY_WITHIN for each in found if each.since + ANY_WITHIN > now), default=now + AGAIN)
        await _keep(conn, unit, rows, again, now)
    return going_on


async def put_off(conn: Conn, unit: Unit, each: Incoming, now: datetime) -> None:
    """Keep an event whose row somebody else has; nobody else waits for it."""
    await _keep(conn, unit, [each.as_row() | {"waits_for": []}], now + LOCKED, now)


async def _keep(conn: Conn, unit: Unit, rows: list[dict[str, Any]], again: datetime, now: datetime) -> None:
    values = {**unit.scope, "rows": orjson.dumps(rows).decode(), "again": again, "now": now}
    await conn.execute(_SQL["wait"], values)
    _log.info("events_wait", org=unit.org_id, connection=unit.connection.name, count=len(rows))


def _root(unit: Unit, loaded: Loaded, each: Incoming) -> dict[str, Any]:
    if each.event.op == "delete":
        return {}
    aggregate = replace(unit.aggregate, parts=())
    return mapping.from_payload(
        aggregate, each.payload, known={}, our_id=loaded.our_id, new_id=lambda kind, place: f"{kind}/{place}"
    )


class Waiting(InTurns):
    """The service that applies what waited; see `streams.worker.Service`.

    Args:
        pool: of the role `applier`, in autocommit.
        apply: `Applier.apply`.
    """

    name = "inbound.waiting"
    passing = (psycopg.Error, PoolTimeout, Problem)

    def __init__(self, pool: AsyncConnectionPool, codec: Codec, apply: Apply, *, now: Callable[[], datetime]) -> None:
        super().__init__()
        self._pool = pool
        self._codec = codec
        self._apply = apply
        self._now = now

    async def take_turn(self) -> float:
        """See `InTurns`."""
        if not await self._any():
            return EVERY_S
        await self.release()
        return BUSY_S

    async def _any(self) -> bool:
        async with self._pool.connection() as conn:
            row = await (await conn.execute(_SQL["any"])).fetchone()
        return bool(row and row[0])

    async def release(self) -> int:
        """Apply the events that need wait no longer, in one transaction; how many."""
        async with self._pool.connection() as conn, conn.transaction():
            cursor = await conn.execute(_SQL["due"], {"now": self._now(), "limit": BATCH})
            due = await cursor.fetchall()
            if not due:
                return 0
            found = await self._read((value, at, "") for _, value, at in due)
            await conn.execute(_SQL["released"], {"ids": [event_id for event_id, _, _ in due]})
            await self._apply(conn, found)
        return len(due)

    async def _read(self, kept: Iterable[tuple[bytes, str | None, str]]) -> list[Incoming]:
        """The events that were kept, in order, of (record's value, position, what a person decided)."""
        rows = list(kept)
        await self._codec.learn(value for value, _, _ in rows)
        return [
            Incoming(events.decode(self._codec, value), position=at, raw=value, verdict=verdict)
            for value, at, verdict in rows
        ]
