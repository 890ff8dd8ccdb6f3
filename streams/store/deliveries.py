"""Deliveries recorded: what was called, what became of it, what it changed; and counted, for what outlives the rows.

The rows are the outbox of `outbound.outcomes` as well: Debezium reads them from the WAL, without the personal columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from psycopg import AsyncConnection

from streams.rules import deltas
from streams.store import queries

_SQL = queries("deliveries")


async def record(
    conn: AsyncConnection[Any], org: str, connection: str, rows: Sequence[Mapping[str, Any]], *, now: datetime
) -> None:
    """Insert deliveries of one connection, in the caller's transaction; the last statement before its commit, because
    the counters it raises are rows that other workers raise too.

    Args:
        rows: columns of `sync.delivery` by name (see the statement), `bytes` being the size of the request's body; and
            of the delta: `sent`, the document of the write, `before`, the document they held, None where nobody knows
            it any more (a write that is sent again: its first delivery has the same `idem_key`), `version` of the
            entity as it was sent, and `modified_at`, the time of its last edit.
    """
    if rows:
        values = {"org": org, "connection": connection, "now": now}
        await conn.execute(_SQL["record"], values | {"rows": orjson.dumps([_row(row) for row in rows]).decode()})


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(row)
    sent, before = given.pop("sent"), given["before"]
    version, at = given.pop("version", None), given.pop("modified_at", None)
    given["delta"] = None if sent is None else deltas.delta(before, sent, version=version, at=at)
    return given
