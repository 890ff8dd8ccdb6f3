"""The guard against mass changes, where it acts: between building a write and freezing it.

What would change or delete more of one type in ten minutes than the bound allows is held, all of it, until a person
approves or drops it (`syncline holds`). What was approved carries its hold and is not counted again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from psycopg import AsyncConnection

from connectors.contract import Op
from streams.outbound.writes import Claim, Planned
from streams.rules import mass_changes
from streams.rules.mass_changes import Kind
from streams.store import queries
from streams.store.connections import Connection

KINDS: Mapping[Op, Kind] = {Op.DELETE: "deletes", Op.UPDATE: "updates"}

_SQL = queries("guard")
_log = structlog.get_logger("outbound.guard")

Write = tuple[Claim, Planned]


async def screen(
    conn: AsyncConnection[Any], connection: Connection, writes: Sequence[Write], *, now: datetime
) -> Mapping[str, int]:
    """Count what is about to change; entity id -> hold, of the writes that must not go."""
    window = mass_changes.window(now)
    groups: dict[tuple[str, Kind], list[Claim]] = {}
    for claim, planned in writes:
        kind = KINDS.get(planned.write.op)
        counted = claim.counted_at is not None and claim.counted_at >= window
        if kind and not counted and claim.hold_id is None:
            groups.setdefault((claim.entity_type, kind), []).append(claim)
    held: dict[str, int] = {}
    for (entity_type, kind), claims in sorted(groups.items()):
        scope = {"org": connection.org_id, "connection": connection.name, "type": entity_type, "kind": kind}
        hold = await _admit(conn, scope, connection.guard, len(claims), window, now)
        if hold is None:
            for claim in claims:
                claim.counted_at = now
        else:
            held |= dict.fromkeys((claim.entity_id for claim in claims), hold)
    return held


async def _admit(
    conn: AsyncConnection[Any],
    scope: Mapping[str, str],
    chosen: Mapping[str, int | None],
    more: int,
    window: datetime,
    now: datetime,
) -> int | None:
    """Count `more` records and let them go (None), or the hold they wait for."""
    kind: Kind = "deletes" if scope["kind"] == "deletes" else "updates"
    values = {**scope, "window": window, "since": now - mass_changes.LEARNS_FROM, "records": more, "now": now}
    if row := await _one(conn, "open_hold", values):
        return int(row[0])
    busiest, counted = await _one(conn, "busiest", values) or (0, 0)
    limit = mass_changes.bound(kind, chosen, busiest)
    if mass_changes.admits(limit, counted, more) and await _one(conn, "count", {**values, "bound": limit}):
        return None
    [hold] = await _one(conn, "hold", {**values, "bound": limit}) or [0]
    _log.error(
        "mass_change_held", connection=scope["connection"], type=scope["type"], kind=kind, bound=limit, hold=hold
    )
    return int(hold)


async def _one(conn: AsyncConnection[Any], name: str, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
    return await (await conn.execute(_SQL[name].encode(), values)).fetchone()
