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
from streams.inbound.kept import Kept
from streams.store import queries

Conn = AsyncConnection[Any]

_SQL = queries("staging")
_log = structlog.get_logger("inbound.staging")


async def stage(conn: Conn, unit: Unit, incoming: Sequence[Incoming], now: datetime) -> None:
    """Keep these events of one type, as far as they are newer than what is kept."""
    if rows := [each.as_row() for each in incoming]:
        await conn.execute(_SQL["stage"], {**unit.scope, "rows": orjson.dumps(rows).decode(), "now": now})


class Staging(Kept):
    """The service; it goes type by type."""

    name = "inbound.staging"
    batch = 200
    due, taken = _SQL["next"], _SQL["unstage"]

    async def release(self) -> int:
        """Apply one batch of every type that is live now; how many records."""
        return sum([await self._release_type(*place) for place in await self._open()])

    async def _any(self) -> bool:
        return bool(await self._open())

    async def _open(self) -> list[tuple[str, str, str]]:
        async with self._pool.connection() as conn:
            cursor = await conn.execute(_SQL["open"])
            return await cursor.fetchall()

    async def _release_type(self, org_id: str, connection: str, entity_type: str) -> int:
        count = await self._release({"org": org_id, "connection": connection, "entity_type": entity_type})
        if count:
            _log.info("staged_applied", org=org_id, connection=connection, type=entity_type, count=count)
        return count
