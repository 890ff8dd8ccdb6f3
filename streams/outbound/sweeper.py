"""The sweep: capture gives latency, the sweep gives completeness (rule R6).

Every row carries the transaction that changed it last, every wish the snapshot it was planned under. A change that no
wish's snapshot contains was not planned, whoever was to blame; it goes through the same routing as any other. A window
of transactions is noted in one turn and swept in a later one, so that capture has had its time. Where the slot is gone
the sweep does all the work: slower, but nothing waits for a person.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import orjson
import psycopg
import structlog
from psycopg import AsyncConnection, sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from streams import metrics
from streams.outbound.planner import Planner, Touched
from streams.store import publication, queries

EVERY_S = 15.0
WITHOUT_CAPTURE_EVERY_S = 3.0
PATIENCE = 4
"""Turns that a window waits for capture, which is behind, before it is swept all the same."""
BATCH = 5_000
"""Rows of one transaction of the sweep; more only where one transaction changed more."""

_SQL = queries("sweep")
_log = structlog.get_logger("outbound.sweeper")
Conn = AsyncConnection[Any]
Changed = dict[str, str]


class Sweeper:
    """A service of the worker. It may run in every worker; one at a time acts.

    Args:
        tables: names of the captured canonical tables.
        root_type: id -> entity type of its prefix, None for what is no entity's id.
    """

    name = "sweeper"

    def __init__(
        self,
        pool: AsyncConnectionPool,
        planner: Planner,
        tables: Sequence[str],
        *,
        root_type: Callable[[str], str | None],
        now: Callable[[], datetime],
        batch: int = BATCH,
    ) -> None:
        self._pool = pool
        self._planner = planner
        self._root_type = root_type
        self._now = now
        self._batch = batch
        self._changed = _statement(tables)
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Sweep until `stop`."""
        while not self._stopping.is_set():
            pause = EVERY_S
            try:
                if not await self.turn():
                    pause = WITHOUT_CAPTURE_EVERY_S
            except (psycopg.OperationalError, PoolTimeout) as error:
                _log.warning("sweep_waits", error=type(error).__name__)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def stop(self) -> None:
        """End after the batch in hand."""
        self._stopping.set()

    async def turn(self) -> bool:
        """Sweep what is due; whether capture is there at all."""
        goal: int | None = None
        while not self._stopping.is_set():
            async with self._pool.connection() as conn, conn.transaction():
                row = await (await conn.execute(_SQL["turn"], {"slot": publication.NAME})).fetchone()
                if row is None:
                    return True  # somebody else's turn
                swept, noted, waited, passed, captured = row
                if goal is None:
                    if captured and noted is not None and not passed and waited < PATIENCE:
                        await conn.execute(_SQL["wait"], {"now": self._now()})
                        return True
                    goal = (noted or swept) if captured else await self._here(conn)
                if swept >= goal:
                    await conn.execute(_SQL["note"], {"noted": str(await self._here(conn)), "now": self._now()})
                    return bool(captured)
                why = "cdc_missed" if passed else "swept_behind" if captured else "swept_without_capture"
                await self._sweep(conn, swept, goal, why)
        return True

    async def _here(self, conn: Conn) -> int:
        """The transaction before which all others have ended."""
        row = await (await conn.execute(_SQL["now_at"])).fetchone()
        return int(row[0]) if row else 0

    async def _sweep(self, conn: Conn, swept: int, end: int, why: str) -> None:
        """One batch, planned and marked in one transaction."""
        values = {"swept": str(swept), "end": str(end), "limit": self._batch}
        rows = await (await conn.execute(self._changed, values)).fetchall()
        if len(rows) == self._batch:  # all of the last transaction, and no more
            end = int(rows[-1][4]) + 1
            rows = await (await conn.execute(self._changed, {**values, "end": str(end), "limit": None})).fetchall()
        raised = await self._plan(conn, [_row(*each) for each in rows]) if rows else {}
        for (org_id, _), count in raised.items():
            await conn.execute(_SQL["count"], {"name": why, "org": org_id, "more": count})
        await conn.execute(_SQL["mark"], {"swept": str(end), "now": self._now()})
        if raised:
            _log.warning("swept", why=why, roots=sum(raised.values()))
        if why == "cdc_missed":
            for scope, count in raised.items():
                metrics.missed(*scope, count)

    async def _plan(self, conn: Conn, changed: list[Changed]) -> dict[tuple[str, str], int]:
        """Plan what nobody planned; (organisation, entity type) -> wishes raised."""
        now = self._now()
        cursor = await conn.execute(_SQL["uncovered"], {"rows": orjson.dumps(changed).decode()})
        roots: dict[tuple[str, str], list[Touched]] = defaultdict(list)
        async for org_id, connection, sync_key, origins in cursor:
            root_id = sync_key.rpartition("/")[2]
            if root_type := self._root_type(root_id):
                roots[org_id, connection].append(Touched(org_id, root_type, root_id, now, set(origins)))
        raised: dict[tuple[str, str], int] = defaultdict(int)
        for (org_id, connection), touched in sorted(roots.items(), key=lambda each: each[0]):
            planned = await self._planner.plan(conn, touched, now=now, reason="swept", only=connection)
            for key, count in planned.routes.items():
                if key.verdict in ("push", "hold"):
                    raised[org_id, key.entity_type] += count
        return dict(raised)


def _statement(tables: Sequence[str]) -> sql.Composed:
    """Rows that transactions of a window changed or deleted, in the order of these."""
    columns = sql.SQL("select org_id, sync_key, origin, changed_xid from {}")
    window = sql.SQL(" where changed_xid >= %(swept)s::text::xid8 and changed_xid < %(end)s::text::xid8")
    selects = [columns.format(sql.Identifier("canon", name)) + window for name in tables]
    selects.append(columns.format(sql.Identifier("sync", "tombstone")) + window)
    return sql.SQL(
        "select r.org_id, split_part(r.sync_key, '/', 2), r.sync_key, r.origin, r.changed_xid::text from ({}) r"
        " order by r.changed_xid limit %(limit)s"
    ).format(sql.SQL(" union all ").join(selects))


def _row(org_id: str, entity_id: str, sync_key: str, origin: str, xid: str) -> Changed:
    return {"org_id": org_id, "entity_id": entity_id, "sync_key": sync_key, "origin": origin, "xid": xid}
