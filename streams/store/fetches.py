"""Records that are to be read in full, as they are stored; see `streams.inbound.hydration`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from psycopg import AsyncConnection
from psycopg.rows import class_row

from schemas.fields import Json
from streams.store import queries
from streams.store.connections import Connection

_SQL = queries("fetches")

Conn = AsyncConnection[Any]
Row = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Claim:
    """A read that this worker makes; field names are those of the columns of `sync.fetch_intent`."""

    external_type: str
    external_id: str
    wanted_seq: int
    wanted_at: datetime
    lease_until: datetime
    attempt: int
    first_failed_at: datetime | None
    missed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Pending:
    """How many reads of a type a poll would spare, and when the last one began, with its failures in a row."""

    external_type: str
    count: int
    polled_at: datetime | None
    failures: int


async def due_connections(conn: Conn, now: datetime) -> set[tuple[str, str]]:
    """(organisation, connection) of those that work and have records to be read."""
    return {(org_id, name) async for org_id, name in await conn.execute(_SQL["due_connections"], {"now": now})}


async def pending(conn: Conn, connection: Connection) -> list[Pending]:
    """The reads that were wanted since the last polls began, by type."""
    return [Pending(*row) async for row in await conn.execute(_SQL["pending"], _scope(connection))]


async def claim(
    conn: Conn, connection: Connection, *, polled: Collection[str], limit: int, lease: datetime, now: datetime
) -> list[Claim]:
    """Take reads that are due, until `lease`; those of the types in `polled` are left to a poll, as far as it helps."""
    values = _scope(connection) | {"polled": list(polled), "limit": limit, "lease": lease, "now": now}
    async with conn.cursor(row_factory=class_row(Claim)) as cursor:
        await cursor.execute(_SQL["claim"], values)
        return await cursor.fetchall()


async def settle(conn: Conn, connection: Connection, rows: Sequence[Row]) -> None:
    """Store what came of claims; one that another worker took over is left alone."""
    if rows:
        await conn.execute(_SQL["settle"], _scope(connection) | {"rows": orjson.dumps(rows).decode()})


async def known_at(
    conn: Conn, connection: Connection, records: Collection[tuple[str, str]]
) -> dict[tuple[str, str], datetime]:
    """(external type, id) -> their time of the newest state that we know, of those that are linked."""
    if not records:
        return {}
    rows = [{"external_type": kind, "external_id": external_id} for kind, external_id in sorted(records)]
    cursor = await conn.execute(_SQL["known_at"], _scope(connection) | {"rows": orjson.dumps(rows).decode()})
    return {(kind, external_id): at async for kind, external_id, at in cursor}


async def mark(conn: Conn, connection: Connection, reached: Mapping[str, Mapping[int, int]]) -> None:
    """What was read is applied when `inbound.events` is: external type -> partition -> the offset after it."""
    if reached:
        marks = [
            {"external_type": kind, "positions": {str(partition): offset for partition, offset in at.items()}}
            for kind, at in sorted(reached.items())
        ]
        await conn.execute(_SQL["mark"], _scope(connection) | {"rows": orjson.dumps(marks).decode()})


async def brought(
    conn: Conn, connection: Connection, external_type: str, ids: Collection[str], began: datetime
) -> None:
    """A poll that began at this time has published these records: nobody need read them."""
    rows = orjson.dumps([{"external_id": each} for each in sorted(ids)]).decode()
    values = _scope(connection) | {"type": external_type, "rows": rows, "began": began}
    await conn.execute(_SQL["brought"], values)


def _scope(connection: Connection) -> dict[str, Any]:
    return {"org": connection.org_id, "connection": connection.name}
