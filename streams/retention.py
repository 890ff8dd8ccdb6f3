"""Deliveries are kept by the day: partitions are made ahead, and dropped when their time is over.

A service of the role `jobs`. It repeats harmlessly, in every worker; what it would do is done by whoever comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog
from psycopg_pool import AsyncConnectionPool

from streams.store import accounting, push_events
from streams.turns import InTurns

EVERY_S = 3600.0
AGAIN_S = 60.0

_log = structlog.get_logger("retention")


class Retention(InTurns):
    """See `streams.worker.Service`.

    Args:
        pool: of the role `app`, in autocommit.
        kept_days: how long deliveries are kept.
    """

    name = "retention"
    again_s = AGAIN_S

    def __init__(self, pool: AsyncConnectionPool, *, kept_days: int, now: Callable[[], datetime]) -> None:
        super().__init__()
        self._pool = pool
        self._kept_days = kept_days
        self._now = now

    async def take_turn(self) -> float:
        """See `InTurns`."""
        await self.keep()
        return EVERY_S

    async def keep(self) -> accounting.Kept:
        """One turn."""
        now = self._now()
        async with self._pool.connection() as conn:
            kept = await accounting.keep_deliveries(conn, kept_days=self._kept_days, now=now)
            await accounting.fold(conn, now=now)
            await push_events.forget(conn, kept_days=self._kept_days, now=now)
        if kept.made or kept.dropped:
            _log.info("delivery_partitions", made=kept.made, dropped=kept.dropped)
        return kept
