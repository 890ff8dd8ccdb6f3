"""Records of a type whose gate is not live: the newest event of each is kept, and applied once the gate opens.

`stage` is a step of the applier; `Staging` is the service that applies what was staged, in small batches, each with the
removal of what it applied in one transaction. In the ledger a staged event counts as not applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
import structlog
from psycopg import AsyncConnection

from streams.inbound.incoming import Incoming, Unit
from streams.inbound.waiting import Waiting
from streams.store import queries

Conn = AsyncConnection[Any]

BATCH = 200

_SQL = queries("staging")
_log = structlog.get_logger("inbound.staging")


async def stage(conn: Conn, unit: Unit, incoming: Sequence[Incoming], now: datetime) -> None:
    """Keep these events of one type, as far as they are newer than what is kept."""
    if rows := [each.as_row() for each in incoming]:
        await conn.execute(_SQL["stage"], {**unit.scope, "rows": orjson.dumps(rows).decode(), "now": now})


class Staging(Waiting):
    """The service; made as `Waiting` is."""

    name = "inbound.staging"

    async def _any(self) -> bool:
        return bool(await self._open())

    async def release(self) -> int:
        """Apply one batch of every type that is live now; how many records."""
        return sum([await self._release(*place) for place in await self._open()])

    async def _open(self) -> list[tuple[str, str, str]]:
        async with self._pool.connection() as conn:
            cursor = await conn.execute(_SQL["open"])
            return await cursor.fetchall()

    async def _release(self, org_id: str, connection: str, entity_type: str) -> int:
        scope = {"org": org_id, "connection": connection, "entity_type": entity_type}
        async with self._pool.connection() as conn, conn.transaction():
            cursor = await conn.execute(_SQL["next"], {**scope, "limit": BATCH})
            staged = await cursor.fetchall()
            if not staged:
                return 0
            found = await self._read((value, at, "") for value, at, _ in staged)
            # Removed first: what cannot go on yet after all is staged anew.
            await conn.execute(_SQL["unstage"], {**scope, "ids": [event_id for _, _, event_id in staged]})
            await self._apply(conn, found)
        _log.info("staged_applied", org=org_id, connection=connection, type=entity_type, count=len(staged))
        return len(staged)
