"""Measures how far an external system's clock is from ours, by the `Date` of its answers.

Place in the flow: `streams.resources` gives one to the HTTP client of each connection; `streams.store.clock_errors`
keeps what it says, for the applier that compares their times with ours and for the polls that choose their overlap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from connectors.answers import http_date
from connectors.http import After
from streams.rules.clock_errors import Measured, measure
from streams.store import clock_errors
from streams.store.connections import Connection

MEASURE_EVERY = timedelta(seconds=1)
SAVE_EVERY = timedelta(minutes=1)
NOTEWORTHY = timedelta(seconds=2)
"""An error that has grown by so much is saved at once."""

_NOTHING = Measured(timedelta(), timedelta())
_log = structlog.get_logger("clock_watch")


class ClockWatch:
    """The clock of one connection. `begin` before each request, `aclose` at the end.

    Args:
        pool: of the role `app`, in autocommit.
    """

    def __init__(self, pool: AsyncConnectionPool, connection: Connection, now: Callable[[], datetime]) -> None:
        self._pool = pool
        self._connection = connection
        self._now = now
        self._measured_at: datetime | None = None
        self._saved_at: datetime | None = None
        self._saved = _NOTHING
        self._worst: Measured | None = None
        self._saving: asyncio.Task[None] | None = None

    def begin(self) -> After:
        """A request leaves now; who is to be told its answer."""
        sent_at = self._now()
        if self._measured_at is not None and sent_at - self._measured_at < MEASURE_EVERY:
            return _unheard
        self._measured_at = sent_at

        def heard(_status: int, headers: Mapping[str, str]) -> None:
            date = http_date(headers.get("date"))
            if date is not None and "age" not in headers:  # a cache's answer is of another time
                self._note(measure(date, sent_at, self._now()))

        return heard

    async def aclose(self) -> None:
        """Save what is not saved yet."""
        if self._saving:
            await self._saving
        if self._worst is not None:
            await self._save()

    def _note(self, told: Measured) -> None:
        if self._worst is None or told.error >= self._worst.error:
            self._worst = told
        now = self._now()
        due = self._saved_at is not None and now - self._saved_at >= SAVE_EVERY
        grown = told.error > self._saved.error + NOTEWORTHY
        if (due or grown) and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._save())
        if self._saved_at is None:
            self._saved_at = now

    async def _save(self) -> None:
        told, self._worst = self._worst or _NOTHING, None
        self._saved, self._saved_at = told, self._now()
        try:
            async with self._pool.connection() as conn:
                place = self._connection.org_id, self._connection.name
                await clock_errors.save(conn, *place, told, now=self._saved_at)
        except (psycopg.Error, PoolTimeout) as error:
            _log.warning("clock_error_unsaved", connection=self._connection.name, error=type(error).__name__)


def _unheard(_status: int, _headers: Mapping[str, str]) -> None:
    return
