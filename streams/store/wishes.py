"""The wish that a connection hold the current state of an entity: one statement, whoever raises it.

Raised by the planner, the applier (`correct_remote`), the sweep, dependencies and a person; the dispatcher fulfils it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NotRequired, TypedDict

import orjson
from psycopg import AsyncConnection

from streams.store import queries

LIVE, BACKFILL = 0, 1

_SQL = queries("wishes")


class Wish(TypedDict):
    """One wish; field names are columns of `sync.push_intent`.

    `state` is PENDING or HELD, `committed_at` the commit of the oldest change it is for (else now), `priority` LIVE or
    BACKFILL.
    """

    org_id: str
    connection: str
    external_type: str
    entity_type: str
    entity_id: str
    state: str
    reason: str
    committed_at: NotRequired[datetime]
    priority: NotRequired[int]


async def add(conn: AsyncConnection[Any], wishes: Sequence[Wish], *, now: datetime, notify: bool = True) -> None:
    """Raise wishes in the caller's transaction, each key once, and wake the dispatchers of other processes."""
    if not wishes:
        return
    await conn.execute(_SQL["raise"], {"rows": orjson.dumps(wishes).decode(), "now": now})
    if notify:
        await conn.execute(_SQL["wake"])
