"""Services that apply events which were kept because they could not be applied at once.

They differ in what is kept and when it is due, which is three statements. The rest is the same: a batch is read, taken
away and applied in one transaction, the plain way of any event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from schemas import events
from schemas.codec import Codec
from schemas.problems import Problem
from streams.inbound.incoming import Incoming
from streams.turns import InTurns

Conn = AsyncConnection[Any]
Apply = Callable[[Conn, Sequence[Incoming]], Any]

EVERY_S = 1.0
BUSY_S = 0.1


class Kept(InTurns):
    """One such service; see `streams.worker.Service`.

    Args:
        pool: of the role `applier`, in autocommit.
        apply: `Applier.apply`.
    """

    passing = (psycopg.Error, PoolTimeout, Problem)
    batch: ClassVar[int] = 500
    any_due: ClassVar[str]
    """Statement: whether there may be something to do."""
    due: ClassVar[str]
    """Statement: the next of them, locked: id, the record's value, position, and what a person decided, if anything."""
    taken: ClassVar[str]
    """Statement: takes these `ids`, which are these `events`, away."""

    def __init__(self, pool: AsyncConnectionPool, codec: Codec, apply: Apply, *, now: Callable[[], datetime]) -> None:
        super().__init__()
        self._pool = pool
        self._codec = codec
        self._apply = apply
        self._now = now

    async def take_turn(self) -> float:
        """See `InTurns`."""
        if not await self._any():
            return EVERY_S
        await self.release()
        return BUSY_S

    async def release(self) -> int:
        """Apply one batch of what is due, in one transaction; how many events."""
        return await self._release({})

    async def _any(self) -> bool:
        async with self._pool.connection() as conn:
            row = await (await conn.execute(self.any_due.encode())).fetchone()
        return bool(row and row[0])

    async def _release(self, scope: Mapping[str, str]) -> int:
        async with self._pool.connection() as conn, conn.transaction():
            values = {**scope, "now": self._now(), "limit": self.batch}
            rows = await (await conn.execute(self.due.encode(), values)).fetchall()
            if not rows:
                return 0
            await self._codec.learn(value for _, value, *_ in rows)
            found = [
                Incoming(events.decode(self._codec, value), position=at, raw=value, verdict="".join(verdict))
                for _, value, at, *verdict in rows
            ]
            # Taken away first: what cannot be applied yet after all is kept anew.
            ids = {"ids": [key for key, *_ in rows], "events": [each.event.event_id for each in found]}
            await conn.execute(self.taken.encode(), {**values, **ids})
            await self._apply(conn, found)
        return len(rows)
