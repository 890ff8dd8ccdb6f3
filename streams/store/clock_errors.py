"""How far the clocks of the external systems are from ours, as last measured; `streams.clock_watch` measures."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from psycopg import AsyncConnection

from streams.rules.clock_errors import Measured
from streams.store import queries

STRETCH = timedelta(minutes=30)
"""The error told is the largest of the last 30 to 60 minutes in which something was measured."""

Conn = AsyncConnection[Any]

_SQL = queries("clock_errors")


async def load(conn: Conn, org_id: str, connection: str) -> timedelta:
    """How wrong their clock may be: the largest error lately measured, zero when none was."""
    return (await measured(conn, org_id, connection)).error


async def measured(conn: Conn, org_id: str, connection: str) -> Measured:
    """How far it was ahead of ours at last, and the largest error of late; zeros when nothing was measured."""
    cursor = await conn.execute(_SQL["load"], {"org": org_id, "connection": connection})
    ahead_s, error_s = await cursor.fetchone() or (0.0, 0.0)
    return Measured(timedelta(seconds=ahead_s), timedelta(seconds=error_s))


async def load_all(conn: Conn, org_id: str) -> dict[str, dict[str, Any]]:
    """Connection -> `ahead_s`, `error_s`, `measured_at`."""
    cursor = await conn.execute(_SQL["load_all"], {"org": org_id})
    return {name: {"ahead_s": ahead, "error_s": error, "measured_at": at} async for name, ahead, error, at in cursor}


async def save(conn: Conn, org_id: str, connection: str, told: Measured, *, now: datetime) -> None:
    """Keep a measurement."""
    values = {"org": org_id, "connection": connection, "now": now, "stretch": STRETCH}
    seconds = {"ahead_s": told.ahead.total_seconds(), "error_s": told.error.total_seconds()}
    await conn.execute(_SQL["save"], values | seconds)
