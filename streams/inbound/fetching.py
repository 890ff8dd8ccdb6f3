"""Events that say where to look and not what is there: they become a wish to read the record.

A step of the applier, in its transaction. `streams.inbound.hydration` fulfils the wishes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import orjson
from psycopg import AsyncConnection

from schemas.events import InboundEvent
from schemas.fields import Json
from streams.store import queries
from streams.store.connections import Connection

Conn = AsyncConnection[Any]
Row = dict[str, Json]

_SQL = queries("fetches")


def is_wish(event: InboundEvent) -> bool:
    """Whether the record is to be read: it is named, and this is not what reading it came to."""
    return bool(event.external_id) and event.source != "fetch" and event.op != "merge"


def wish(event: InboundEvent) -> Row:
    """The wish that an event makes."""
    return {
        "external_id": event.external_id,
        "external_type": event.external_type,
        "connection": event.connection,
        "org_id": event.org_id,
        "reason": {"hint": "hint", "delete": "delete"}.get(event.op, "partial"),
        "polled_from": event.occurred_at if event.source == "poll" else None,
    }


def missing(connection: Connection, external_type: str, external_id: str) -> Row:
    """The wish that a record makes which is not where it should be."""
    named = {"external_id": external_id, "external_type": external_type}
    return named | {"connection": connection.name, "org_id": connection.org_id, "reason": "missing"}


async def want(conn: Conn, wishes: Iterable[Row], now: datetime) -> None:
    """Store wishes, each record once."""
    rows = {(w["external_id"], w["external_type"], w["connection"], w["org_id"]): w for w in wishes}
    if rows:
        await conn.execute(_SQL["want"], {"rows": orjson.dumps(list(rows.values())).decode(), "now": now})
