"""The ordered log of event-like entity types: every version of a row, in the order in which they were committed.

Written by a trigger in the writer's transaction; an intent's `event_done` is a connection's place in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import orjson
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from schemas.fields import Json
from streams.store import queries

FORGET_MOST = 10_000
"""Events of one statement of `forget`."""

_SQL = queries("events")


@dataclass(frozen=True, slots=True)
class NextEvent:
    """What a connection has to be sent next of one entity.

    Args:
        op: `delete` is a hard delete; a soft one is an update whose row has `deleted_at`.
        version: of the row; of a delete, that of its tombstone.
        row: all columns as JSON values, as they were after the change; of a delete, before it.
        origin: `local`, `bulk`, or the connection that brought it; never the one that asks.
        modified_at: logical time of the edit.
        more: later events wait, of others than the one that asks.
        passed: events up to this one need not be looked at again; the `after` that was asked with, or the id of the
            last event skipped because the connection brought it itself.
    """

    id: int
    op: Literal["create", "update", "delete"]
    version: int
    row: dict[str, Json]
    origin: str
    modified_at: datetime
    more: bool
    passed: int


async def next_events(
    conn: AsyncConnection[Any], org_id: str, connection: str, wanted: Sequence[tuple[str, int]]
) -> dict[str, NextEvent]:
    """The oldest event of each entity that the connection has not had and did not bring itself.

    Args:
        wanted: (entity id, id of the last event it has had; 0 for none), each entity once.

    Returns:
        entity id -> its event; entities that have none are missing.
    """
    if not wanted:
        return {}
    rows = orjson.dumps([{"entity_id": entity_id, "after": after} for entity_id, after in wanted]).decode()
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL["next_events"], {"org": org_id, "connection": connection, "rows": rows})
        return {row.pop("entity_id"): NextEvent(**row) async for row in cursor}


async def forget(conn: AsyncConnection[Any], *, kept_days: int, now: datetime) -> int:
    """Remove events older than so many days that every connection has passed; how many.

    `conn` is in autocommit: one transaction for each of several small batches.
    """
    values = {"before": now - timedelta(days=kept_days), "most": FORGET_MOST}
    forgotten, batch = 0, FORGET_MOST
    while batch == FORGET_MOST:
        row = await (await conn.execute(_SQL["forget"], values)).fetchone()
        batch = row[0] if row else 0
        forgotten += batch
    return forgotten
