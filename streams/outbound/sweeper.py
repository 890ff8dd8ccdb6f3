"""The sweep: capture gives latency, the sweep gives completeness (rule R6).

Every row carries the transaction that changed it last, every wish the snapshot it was planned under. A change that no
wish's snapshot contains was not planned, whoever was to blame; it goes through the same routing as any other. When a
window of changes is swept is decided by `streams.rules.sweeps`. Where the slot is gone the sweep does all the work:
slower, but nothing waits for a person.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
import psycopg
import structlog
from psycopg import AsyncConnection, sql
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool

from streams import metrics
from streams.outbound.agents import NAME as PLAN
from streams.outbound.arrivals import Ends
from streams.outbound.planner import Planner, Touched
from streams.rules.sweeps import Step, Why, Window, next_step
from streams.store import publication, queries
from streams.turns import InTurns

EVERY_S = 15.0
WITHOUT_CAPTURE_EVERY_S = 3.0
BATCH = 5_000
"""Rows of one transaction of the sweep; more only where one transaction changed more rows of one root."""
AWAY = 2
"""Intervals after which a sweep that was not at work gives capture and planner their time anew."""
DEADLOCKS = 5

_SQL = queries("sweep")
_log = structlog.get_logger("outbound.sweeper")
Conn = AsyncConnection[Any]


class Changed(NamedTuple):
    """A row that changed, or what is left of it."""

    org_id: str
    sync_key: str
    origin: str
    xid: str
    changed_at: datetime


class Scope(NamedTuple):
    """What raised wishes are counted by."""

    org_id: str
    connection: str
    entity_type: str


@dataclass(frozen=True, slots=True)
class State:
    """`sync.sweep` and the slot, as one look finds them; see the statement `turn`."""

    turned_at: datetime | None
    noted: str | None
    noted_at: datetime | None
    blind: bool
    captured: bool
    passed: bool
    has_ends: bool
    restored: bool


class Sweeper(InTurns):
    """A service of the worker. It may run in every worker; one at a time acts.

    Args:
        tables: names of the captured canonical tables.
        root_type: id -> entity type of its prefix, None for what is no entity's id.
        ends: how far capture has written into Kafka.
        every_s: from one window to the next while capture is there.
        batch: rows of one transaction.
    """

    name = "sweeper"

    def __init__(
        self,
        pool: AsyncConnectionPool,
        planner: Planner,
        tables: Sequence[str],
        *,
        root_type: Callable[[str], str | None],
        ends: Ends,
        now: Callable[[], datetime],
        every_s: float = EVERY_S,
        batch: int = BATCH,
    ) -> None:
        super().__init__()
        self._pool = pool
        self._planner = planner
        self._root_type = root_type
        self._ends = ends
        self._now = now
        self._every_s = every_s
        self._batch = batch
        self._changed = _statement(tables)

    async def take_turn(self) -> float:
        """See `InTurns`; without capture it is all there is, and comes oftener."""
        return self._every_s if await self.turn() else min(self._every_s, WITHOUT_CAPTURE_EVERY_S)

    async def turn(self) -> bool:
        """Do what is due; whether capture is there at all."""
        captured, finished, deadlocks = True, False, 0
        while not self.stopping.is_set():
            try:
                done = await self._act(noting=captured or not finished)
            except psycopg.errors.DeadlockDetected:  # with a planner, over the books
                deadlocks += 1
                if deadlocks == DEADLOCKS:
                    raise
                continue
            if done is None:
                break  # somebody else's turn
            captured = done.captured
            finished = finished or done.finished
            if done.over:
                break
        return captured

    async def _act(self, *, noting: bool) -> _Done | None:
        """One step in one transaction; None when another sweeper acts. `noting`: a new window may be begun."""
        raised: Counter[Scope] = Counter()
        async with self._pool.connection() as conn, conn.transaction():
            async with conn.cursor(row_factory=class_row(State)) as cursor:
                await cursor.execute(_SQL["turn"], {"slot": publication.NAME})
                state = await cursor.fetchone()
            if state is None:
                return None
            if state.restored:
                await conn.execute(_SQL["restored"], {"now": self._now()})
                _log.error("swept_snapshots_of_another_server", next="everything since is swept")
                return _Done(state.captured)
            step = await self._step(conn, state)
            if step == "note":
                if noting:
                    await conn.execute(_SQL["note"], {"now": self._now(), "captured": state.captured})
                return _Done(state.captured, over=not noting)
            if step == "wait":
                await conn.execute(_SQL["wait"], {"now": self._now()})
                return _Done(state.captured, over=True)
            finished = await self._sweep(conn, step, raised)
        if raised:
            _log.warning("swept", why=step, roots=raised.total())
        if step == "cdc_missed":
            for scope, count in raised.items():
                metrics.missed(scope.org_id, scope.entity_type, count)
        return _Done(state.captured, finished=finished)

    async def _step(self, conn: Conn, state: State) -> Step:
        now, interval = self._now(), timedelta(seconds=self._every_s)
        window, noted_at = None, state.noted_at
        if noted_at is not None and state.noted is not None:
            if state.turned_at is not None and now - state.turned_at > AWAY * interval:
                await conn.execute(_SQL["again"], {"now": now})
                noted_at = now
            arrived = not state.blind and state.passed and await self._planner_has_read(conn, state)
            window = Window(noted_at, state.blind, arrived)
        return next_step(window, captured=state.captured, now=now, interval=interval)

    async def _planner_has_read(self, conn: Conn, state: State) -> bool:
        """Whether the planner has read what was in Kafka when capture had passed the window."""
        if not state.has_ends:
            ends = await self._ends()
            if ends is None:
                return False
            await conn.execute(_SQL["expect"], {"ends": orjson.dumps(ends).decode()})
        row = await (await conn.execute(_SQL["read"], {"consumer": PLAN})).fetchone()
        return bool(row and row[0])

    async def _sweep(self, conn: Conn, why: Why, raised: Counter[Scope]) -> bool:
        """One batch, planned and marked; whether it was the window's last."""
        cursor = await conn.execute(_SQL["window"])
        late, start, end, noted, xid, key = await cursor.fetchone() or ([], "0", "0", "", "0", "")
        values: dict[str, Any] = {"late": late, "start": start, "end": end, "noted": noted, "xid": xid, "key": key}
        rows = await self._read(conn, values)
        full = len(rows) == self._batch
        if full:
            rows = whole_roots(rows) or await self._read(conn, values | {"only": _place(rows[-1])})
        raised.update(await self._plan(conn, rows, blind=why == "swept_without_capture"))
        if raised:
            counted = [{**scope._asdict(), "value": count} for scope, count in raised.items()]
            await conn.execute(_SQL["count"], {"name": why, "rows": orjson.dumps(counted).decode()})
        if full:
            xid, key = _place(rows[-1])
            await conn.execute(_SQL["advance"], {"xid": xid, "key": key, "now": self._now()})
        else:
            await conn.execute(_SQL["finish"], {"now": self._now()})
        return not full

    async def _read(self, conn: Conn, values: dict[str, Any]) -> list[Changed]:
        """The next rows of the window, or all rows of `only` one (transaction, root)."""
        only_xid, only_key = values.get("only", (None, None))
        limit = None if only_key else self._batch
        given = {**values, "only_xid": only_xid, "only_key": only_key, "limit": limit}
        given.pop("only", None)
        return [Changed(*row) for row in await (await conn.execute(self._changed, given)).fetchall()]

    async def _plan(self, conn: Conn, rows: Sequence[Changed], *, blind: bool) -> Counter[Scope]:
        """Plan what nobody planned; how many wishes were raised."""
        now = self._now()
        told = [found for row in rows if (found := self._root(row))]
        if not told:
            return Counter()
        cursor = await conn.execute(_SQL["uncovered"], {"rows": orjson.dumps(told).decode(), "blind": blind})
        roots: dict[tuple[str, str], list[Touched]] = defaultdict(list)
        async for org_id, connection, root_type, sync_key, origins, changed_at in cursor:
            heard = {*origins, "local"} if blind else set(origins)
            root_id = sync_key.rpartition("/")[2]
            roots[org_id, connection].append(Touched(org_id, root_type, root_id, changed_at, heard))
        raised: Counter[Scope] = Counter()
        for (org_id, connection), touched in sorted(roots.items(), key=lambda each: each[0]):
            planned = await self._planner.plan(conn, touched, now=now, reason="swept", only=connection)
            for route, count in planned.routes.items():
                if route.verdict in ("push", "hold"):
                    raised[Scope(org_id, connection, route.entity_type)] += count
        return raised

    def _root(self, row: Changed) -> dict[str, object] | None:
        """The row as `uncovered` takes it; None when its key names no entity of the model."""
        root_id = row.sync_key.rpartition("/")[2]
        root_type = self._root_type(root_id)
        return {**row._asdict(), "entity_id": root_id, "root_type": root_type} if root_type else None


@dataclass(frozen=True, slots=True)
class _Done:
    """What one step came to. `finished`: a window; `over`: nothing more is due in this turn."""

    captured: bool
    finished: bool = False
    over: bool = False


def whole_roots(rows: Sequence[Changed]) -> list[Changed]:
    """The rows without those of the last (transaction, root), of which there may be more; empty when that is all.

    What happened to a root is routed together: its parts may have come from different places.
    """
    last = _place(rows[-1])
    return [row for row in rows if _place(row) != last]


def _place(row: Changed) -> tuple[str, str]:
    return row.xid, row.sync_key


def _statement(tables: Sequence[str]) -> sql.Composed:
    """Rows that a window's transactions changed, deleted or took from a root, in the order of transaction and root."""
    sources = [(sql.Identifier("canon", name), sql.SQL("updated_at")) for name in tables]
    sources.append((sql.Identifier("sync", "tombstone"), sql.SQL("deleted_at")))
    sources.append((sql.Identifier("sync", "left_root"), sql.SQL("left_at")))
    ranges = (
        sql.SQL("changed_xid = any(%(late)s::text[]::xid8[])"),
        sql.SQL(
            "changed_xid >= %(start)s::text::xid8 and changed_xid < %(end)s::text::xid8"
            " and pg_visible_in_snapshot(changed_xid, %(noted)s::text::pg_snapshot)"
        ),
    )
    each = sql.SQL(
        "(select org_id, sync_key, origin, changed_xid, {at} as changed_at from {table} where {range}"
        " and (changed_xid, sync_key) > (%(xid)s::text::xid8, %(key)s::text) and changed_xid >= %(xid)s::text::xid8"
        " and (%(only_key)s::text is null or changed_xid = %(only_xid)s::text::xid8 and sync_key = %(only_key)s::text)"
        " order by changed_xid, sync_key limit %(limit)s::bigint)"
    )
    selects = [each.format(at=at, table=table, range=span) for table, at in sources for span in ranges]
    return sql.SQL(
        "select org_id, sync_key, origin, changed_xid::text, changed_at from ({}) r"
        " order by r.changed_xid, r.sync_key limit %(limit)s::bigint"
    ).format(sql.SQL(" union all ").join(selects))
