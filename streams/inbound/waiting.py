"""Events that cannot be applied yet: kept, and applied later, so that they hold up nobody else.

They tell of unknown records that may be our own creates coming back before their answers, or of rows that somebody has
locked. `hold` and `put_off` are steps of the applier; `Waiting` is the service that applies them, once every create in
question is settled or the record is linked. What was held is in no ledger yet, so applying it is the plain way of any
event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import orjson
import structlog
from psycopg import AsyncConnection

from streams.inbound.incoming import Incoming, Unit
from streams.inbound.kept import Kept
from streams.inbound.loaded import Loaded
from streams.rules import mapping
from streams.rules.doubts import ANY_WITHIN, Doubt, Doubts
from streams.store import queries

Conn = AsyncConnection[Any]

AGAIN = timedelta(minutes=10)
"""When to look again at an event that waits for a person's decision about a create."""
LOCKED = timedelta(seconds=1)
"""When to look again at an event whose row was locked."""

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


class Waiting(Kept):
    """The service that applies what waited."""

    name = "inbound.waiting"
    any_due, due, taken = _SQL["any"], _SQL["due"], _SQL["released"]
