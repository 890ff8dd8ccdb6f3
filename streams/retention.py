"""Deliveries are kept by the day: partitions are made ahead, and dropped when their time is over.

A service of the role `jobs`. It repeats harmlessly, in every worker; what it would do is done by whoever comes first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from streams.store import accounting, push_events

EVERY_S = 3600.0
AGAIN_S = 60.0

_log = structlog.get_logger("retention")


class Retention:
    """See `streams.worker.Service`.

    Args:
        pool: of the role `app`, in autocommit.
        kept_days: how long deliveries are kept.
    """

    name = "retention"

    def __init__(self, pool: AsyncConnectionPool, *, kept_days: int, now: Callable[[], datetime]) -> None:
        self._pool = pool
        self._kept_days = kept_days
        self._now = now
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Keep until `stop`."""
        while not self._stopping.is_set():
            pause = EVERY_S
            try:
                await self.keep()
            except (psycopg.OperationalError, PoolTimeout) as error:
                _log.warning("retention_waits", error=type(error).__name__)
                pause = AGAIN_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def stop(self) -> None:
        """End at once; there is nothing to finish."""
        self._stopping.set()

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
