"""Records about which a person decided who they are: one of ours, or somebody new.

`read` tells the matching what was decided, for the event that was kept and for all that they say of the record until it
is linked; nobody is asked twice. `Answered` is the service that applies what was kept: its event leaves the ledger,
where it stood as parked, and goes the plain way of any event.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import AsyncConnection

from streams.inbound.incoming import Unit
from streams.inbound.loaded import Loaded
from streams.inbound.waiting import Waiting
from streams.rules.matching import Answer
from streams.store import queries

Conn = AsyncConnection[Any]

BATCH = 200

_SQL = queries("matching")


async def read(conn: Conn, unit: Unit, loaded: Loaded, external_ids: Iterable[str]) -> dict[str, Answer]:
    """Their ids -> what was decided, of the records about which it holds."""
    cursor = await conn.execute(_SQL["answers"], {**unit.scope, "ids": sorted(external_ids)})
    found = {external_id: Answer(entity_id, told_at) async for external_id, entity_id, told_at in cursor}
    return {each: answer for each, answer in found.items() if answer.holds(loaded.records[each].unlinked_at)}


class Answered(Waiting):
    """The service; made as `Waiting` is."""

    name = "inbound.answers"

    async def _any(self) -> bool:
        async with self._pool.connection() as conn:
            row = await (await conn.execute(_SQL["any_answered"])).fetchone()
        return bool(row and row[0])

    async def release(self) -> int:
        """Apply one batch, in one transaction; how many events."""
        async with self._pool.connection() as conn, conn.transaction():
            cursor = await conn.execute(_SQL["answered"], {"limit": BATCH})
            answered = await cursor.fetchall()
            if not answered:
                return 0
            found = await self._read((value, at, "") for _, value, at in answered)
            # Closed first: what cannot be as it was decided makes an item of its own.
            ids, events = [number for number, *_ in answered], [each.event.event_id for each in found]
            await conn.execute(_SQL["take_up"], {"ids": ids, "events": events, "now": self._now()})
            await self._apply(conn, found)
        return len(answered)
