"""What a lane tells the rest of the world about itself: paused, and whether its system answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from connectors.errors import ConnectorError
from streams.store import connection_changes, queries
from streams.store.connections import Connection

_SQL = queries("outbound")
Conn = AsyncConnection[Any]


async def pause(conn: Conn, connection: Connection, reason: str) -> None:
    """Pause the connection until a person looks, and tell all workers."""
    async with conn.transaction():
        await connection_changes.pause(conn, connection.org_id, connection.name, reason)


async def breaker_open(
    conn: Conn, connection: Connection, slot: int, failures: int, error: ConnectorError, now: datetime
) -> None:
    """This worker's breaker of the connection is open, and why."""
    scope = {"org": connection.org_id, "connection": connection.name, "slot": slot}
    told = {"failures": failures, "code": error.code, "cause": error.cause, "now": now}
    await conn.execute(_SQL["breaker_open"].encode(), scope | told)


async def breaker_closed(conn: Conn, connection: Connection, slot: int) -> None:
    """The system answers again."""
    scope = {"org": connection.org_id, "connection": connection.name, "slot": slot}
    await conn.execute(_SQL["breaker_closed"].encode(), scope)
