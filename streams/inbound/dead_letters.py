"""What cannot be processed as it is: kept whole, with the reason, until a person drops or re-drives it.

Written by the applier, its agent and the polls in their own transactions; `streams.store.operations` reads them. The
cause never quotes a value: it may be personal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
import psycopg
from psycopg import AsyncConnection

from schemas.fields import Json
from schemas.problems import Problem
from streams.inbound.incoming import Incoming
from streams.store import queries
from streams.topics import INBOUND

Conn = AsyncConnection[Any]
Row = dict[str, Json]

_SQL = queries("inbound")


def of_event(each: Incoming, problem: Problem) -> Row:
    """An event that cannot be applied."""
    event = each.event
    return _row(
        each.raw,
        problem,
        org_id=event.org_id,
        connection=event.connection,
        record_key=event.key.decode(),
        position=each.position,
        headers={
            "event_id": event.event_id.hex(),
            "external_type": event.external_type,
            "external_id": event.external_id,
            "occurred_at": event.occurred_at.isoformat(),
            "source": event.source,
            "content_type": event.content_type,
        },
    )


def of_record(value: bytes | None, key: bytes | None, position: str, problem: Problem) -> Row:
    """A Kafka record that nobody can read."""
    return _row(value or b"", problem, record_key=(key or b"").decode(errors="replace"), position=position)


def of_item(value: bytes, problem: Problem, org_id: str, connection: str, position: str) -> Row:
    """An item that a poll read and that is no record."""
    return _row(value, problem, org_id=org_id, connection=connection, position=position) | {"source": "poll"}


def _row(value: bytes, problem: Problem, *, headers: Row | None = None, **named: Json) -> Row:
    # Postgres text holds no zero character, and the letter about one must not fail for it.
    clean = {name: text.replace("\x00", "\ufffd") if isinstance(text, str) else text for name, text in named.items()}
    heads = {
        name: text.replace("\x00", "\ufffd") if isinstance(text, str) else text
        for name, text in (headers or {}).items()
    }
    about = {"code": problem.code, "cause": problem.cause}
    return {"source": INBOUND, "value": value.hex(), "headers": heads, **clean, **about}


def problem_of(error: Exception) -> Problem:
    """Why an event could not be applied, without what it holds: messages of Postgres and Python quote values."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, psycopg.Error):
        where = [w for w in (error.diag.table_name, error.diag.column_name, error.diag.constraint_name) if w]
        told = " ".join([type(error).__name__, error.sqlstate or "", *where]).strip()
        return Problem("value_refused", f"the database refuses a value: {told}", "Compare it with the field's type.")
    return Problem("event_unreadable", f"the event cannot be mapped: {type(error).__name__}", "See its payload.")


async def write(conn: Conn, rows: Sequence[Row], now: datetime) -> None:
    """Keep dead letters; the same record is kept once, however often it comes by."""
    if rows:
        await conn.execute(_SQL["dead_letters"], {"rows": orjson.dumps(rows).decode(), "now": now})
