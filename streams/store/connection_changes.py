"""Changes of connections that more than one part makes, and the audit row that every act of a person leaves.

`streams.connections` is the service of people; a lane that must not go on pauses itself through `pause`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from streams.store import queries

_SQL = queries("connection_changes")
Conn = AsyncConnection[Any]


async def pause(conn: Conn, org_id: str, name: str, reason: str, actor: str = "dispatcher") -> bool:
    """Pause a connection in the caller's transaction and tell all workers; False when it was not active."""
    place = {"org_id": org_id, "name": name}
    if not (await conn.execute(_SQL["pause"], place | {"reason": reason})).rowcount:
        return False
    await audit(conn, org_id, actor, "connection.pause", name, {"reason": reason})
    await notify(conn, org_id, name)
    return True


async def open_gates(conn: Conn, org_id: str, name: str, types: Collection[str], *, now: datetime) -> int:
    """These entity types are live: what waited for that goes on; how many pushes."""
    values = {"org_id": org_id, "name": name, "types": list(types), "now": now}
    return (await conn.execute(_SQL["open_gates"], values)).rowcount


async def linked_roots(conn: Conn, org_id: str, name: str, entity_type: str) -> list[str]:
    """Ids of all that is linked at a connection, living or not."""
    values = {"org_id": org_id, "name": name, "type": entity_type}
    return [row[0] async for row in await conn.execute(_SQL["linked_roots"], values)]


async def notify(conn: Conn, org_id: str, name: str) -> None:
    """Tell all processes that a connection changed, once the transaction is committed."""
    await conn.execute(_SQL["notify"], {"org_id": org_id, "name": name})


async def audit(
    conn: Conn, org_id: str, actor: str, action: str, subject: str, detail: Mapping[str, object] | None = None
) -> None:
    """Write down who did what, in the transaction in which it is done."""
    values = {"org_id": org_id, "actor": actor, "action": action, "subject": subject}
    await conn.execute(_SQL["audit"], values | {"detail": Jsonb(dict(detail or {}))})
