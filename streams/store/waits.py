"""Releasing what waits for a link; `streams.outbound.waits` says what waits and why.

Whoever makes a link releases what waits for it in the same transaction. A look every few seconds finds the rest: links
made by a person, or at the very moment a write began to wait.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from streams.store import queries

_SQL = queries("waits")
Conn = AsyncConnection[Any]


async def release(conn: Conn, org_id: str, connection: str, linked: Collection[str], *, now: datetime) -> int:
    """These entities are linked now; how many writes are wanted again."""
    if not linked:
        return 0
    values = {"org": org_id, "connection": connection, "ids": sorted(linked), "now": now}
    return (await conn.execute(_SQL["release"].encode(), values)).rowcount


async def look_again(conn: Conn, org_id: str, connection: str, unlinked: Collection[str], *, now: datetime) -> None:
    """These entities will not be linked as things are: what waits for them finds out."""
    if unlinked:
        values = {"org": org_id, "connection": connection, "ids": sorted(unlinked), "now": now}
        await conn.execute(_SQL["look_again"].encode(), values)


async def release_linked(conn: Conn, *, now: datetime) -> int:
    """Release what waits for links that exist by now; how many writes are wanted again."""
    found: dict[tuple[str, str], list[str]] = {}
    async for org_id, connection, entity_id in await conn.execute(_SQL["linked_since"].encode()):
        found.setdefault((org_id, connection), []).append(entity_id)
    return sum([await release(conn, *scope, ids, now=now) for scope, ids in found.items()])
