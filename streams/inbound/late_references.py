"""References that came before what they refer to: a person whose household we had not seen yet.

The applier notes them at the link (`link_metadata.unresolved`) and leaves the field alone; run now and then, this fills
it in when the other record is linked. In transactions of the applier's role.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from psycopg import AsyncConnection, sql
from psycopg.rows import class_row

from streams.store import queries, wishes
from streams.store.wishes import Wish

Conn = AsyncConnection[Any]

BATCH = 500

_SQL = queries("inbound")
_log = structlog.get_logger("inbound.references")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A reference that can be resolved now: `entity_id.field` is to be `target`.

    Args:
        field: of the root, or of a part: `household_member/household_member_01h….person_id`.
    """

    org_id: str
    connection: str
    external_type: str
    link: str
    entity_type: str
    entity_id: str
    field: str
    target_type: str
    target: str

    @property
    def event(self) -> str:
        """Names this act as an event; the same act has the same name."""
        return hashlib.sha256(f"{self.link}/{self.field}/{self.target}".encode()).hexdigest()[:32]


async def resolve(conn: Conn, now: datetime) -> int:
    """Fill in what can be; how many references."""
    async with conn.transaction():
        await conn.execute(b"set local lock_timeout = '2s'")
        async with conn.cursor(row_factory=class_row(Waiting)) as cursor:
            await cursor.execute(_SQL["waiting_references"].encode(), {"limit": BATCH})
            waiting = await cursor.fetchall()
        for each in waiting:
            await _settle(conn, each, now)
    if waiting:
        _log.info("references_resolved", count=len(waiting))
    return len(waiting)


async def _settle(conn: Conn, each: Waiting, now: datetime) -> None:
    key, _, name = each.field.rpartition(".")
    path = [key, name] if key else [name]
    named = {"org": each.org_id, "link": each.link, "field": each.field, "target": each.target, "path": path}
    filled = await _fill(conn, each)
    await conn.execute(_SQL["settle_reference"], named)
    await conn.execute(_SQL["hold_reference"], named)
    if not filled:
        # Ours says something else by now: that stands, and they hear of it.
        wish: Wish = {
            "org_id": each.org_id,
            "connection": each.connection,
            "external_type": each.external_type,
            "entity_type": each.entity_type,
            "entity_id": each.entity_id,
            "state": "PENDING",
            "reason": "correct_remote",
        }
        await wishes.add(conn, [wish], now=now)


async def _fill(conn: Conn, each: Waiting) -> bool:
    """Write the field if it is empty. The row says it came from there unless a push of it is open."""
    key, _, name = each.field.rpartition(".")
    table, _, part_id = key.partition("/") if key else (each.entity_type, "", each.entity_id)
    statement = sql.SQL(
        "update {table} t set {field} = %(target)s, origin_event = %(event)s, modified_at = t.modified_at,"
        " origin = case when exists (select from sync.push_intent p where p.org_id = t.org_id"
        " and p.entity_id = %(root)s and p.connection = %(connection)s and p.state not in ('DONE', 'DEAD'))"
        " then 'local' else %(connection)s end"
        " where t.org_id = %(org)s and t.id = %(id)s and coalesce({field}, %(target)s) = %(target)s"
    ).format(table=sql.Identifier("canon", table), field=sql.Identifier(name))
    values = {"org": each.org_id, "id": part_id, "root": each.entity_id, "connection": each.connection}
    cursor = await conn.execute(statement, {**values, "target": each.target, "event": each.event})
    return cursor.rowcount == 1
