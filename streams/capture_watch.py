"""The watch over capture: failed tasks are restarted, but not for ever, and how capture is gets told.

It runs in the jobs role of the workers; one of them at a time acts, held by an advisory lock. How capture is,
`streams.rules.capture_health` judges; it is left in `sync.capture_state` for a person to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any

import psycopg
import structlog

from connectors.debezium import register
from connectors.debezium.connect import Connect, Status
from schemas.problems import Problem
from streams import clock
from streams.capture import SLOT, read_slot
from streams.rules import capture_health
from streams.rules.capture_health import FINE, Growth, Slot, Verdict, judge
from streams.settings import Settings
from streams.store import publication, queries

RESTARTS = 5
WINDOW_S = 600.0
"""Restarts of failed tasks allowed within the window; a task that fails more often does not heal by itself."""
CHECK_EVERY_S = 2.0
PATIENCE_S = 5.0
LOCK = 7_310_051_954_882
"""Key of the advisory lock that lets one watcher act."""

_SQL = queries("sweep")
log = structlog.get_logger(__name__)


class Budget:
    """How many restarts are left; time is given, in seconds of any steady clock."""

    def __init__(self, restarts: int = RESTARTS, window_s: float = WINDOW_S) -> None:
        self._restarts, self._window_s = restarts, window_s
        self._spent: deque[float] = deque()

    def spend(self, now: float) -> bool:
        """Take one restart; False when the window has none left."""
        while self._spent and now - self._spent[0] >= self._window_s:
            self._spent.popleft()
        if len(self._spent) >= self._restarts:
            return False
        self._spent.append(now)
        return True


def decide(status: Status | None, slot: Slot | None, budget: Budget, now: float) -> str:
    """What the watcher does: `fine`, `restart`, `exhausted` (left red), `slot_lost` (left red) or `absent`."""
    if slot is None or slot.lost:
        return "slot_lost"
    if status is None:
        return "absent"
    if not status.failed:
        return "fine"
    return "restart" if budget.spend(now) else "exhausted"


async def watch(
    settings: Settings,
    *,
    every_s: float = CHECK_EVERY_S,
    budget: Budget | None = None,
    now: Callable[[], datetime] = clock.now,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Look after the connector until cancelled. A Postgres that is away is looked for again."""
    watcher = Watcher(budget or Budget(), free=partial(free_bytes, settings), now=now, monotonic=monotonic)
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(
                settings.dsn("app"), autocommit=True, application_name="syncline capture watch", connect_timeout=5
            ) as conn:
                await _our_turn(conn, every_s, sleep)
                while True:
                    async with Connect(settings.connect_url, patience_s=PATIENCE_S) as connect:
                        await watcher.look(conn, connect)
                    await sleep(every_s)
        except psycopg.Error as error:
            log.warning("capture_watch_interrupted", cause=type(error).__name__)
            await sleep(every_s)


async def _our_turn(
    conn: psycopg.AsyncConnection[Any], every_s: float, sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Wait until no other worker watches. The lock goes with the session, so a killed watcher is replaced."""
    while await (await conn.execute("select 1 where not pg_try_advisory_lock(%s)", (LOCK,))).fetchone():
        await sleep(every_s)


def free_bytes(settings: Settings) -> int | None:
    """What is free where Postgres keeps its data; None where that is another machine."""
    try:
        return shutil.disk_usage(settings.home / "postgres").free
    except OSError:
        return None


class Watcher:
    """What the watch remembers from one look to the next: restarts, the pace of growth, what it told last.

    Args:
        free: bytes that are free on the disk of the WAL, None when unknown.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        free: Callable[[], int | None] = lambda: None,
        now: Callable[[], datetime] = clock.now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget, self._free, self._now, self._monotonic = budget, free, now, monotonic
        self._growth = Growth()
        self._told = ("", "")

    async def look(self, conn: psycopg.AsyncConnection[Any], connect: Connect) -> str:
        """One look, told in `sync.capture_state`, and one restart if that is what is to do; returns the decision.

        The slot's loss is told before Connect is asked, which may take long to answer and knows nothing of it.
        """
        slot = read_slot(await (await conn.execute(SLOT, (publication.NAME,))).fetchone())
        if slot is None or slot.lost:
            await conn.execute(_SQL["blind"].encode())
            await self._tell(conn, slot, capture_health.lost(slot), None)
            return "slot_lost"
        forecast_s = self._growth.forecast_s((slot.safe_wal_size, self._free()), self._monotonic())
        try:
            status = await connect.status(register.NAME)
        except Problem as problem:
            decision, status = "unreachable", None
            connector = Verdict("red", problem.code, problem.cause, problem.next_step)
        else:
            decision = decide(status, slot, self._budget, self._monotonic())
            connector = of_connector(decision, status)
        await self._tell(conn, slot, judge(slot, connector, forecast_s), forecast_s)
        if decision == "restart" and status is not None:
            log.warning("capture_restart", part=status.failed[0].name, cause=status.failed[0].cause)
            with contextlib.suppress(Problem):  # the next look sees what became of it
                await connect.restart_failed(register.NAME)
        return decision

    async def _tell(
        self, conn: psycopg.AsyncConnection[Any], slot: Slot | None, verdict: Verdict, forecast_s: float | None
    ) -> None:
        lag_bytes = slot.lag_bytes if slot else None
        told = asdict(verdict) | {"lag_bytes": lag_bytes, "forecast_s": forecast_s, "now": self._now()}
        await conn.execute(_SQL["tell_capture"].encode(), told)
        if (verdict.state, verdict.code) != self._told:
            self._told = verdict.state, verdict.code
            say = {"ok": log.info, "warning": log.warning, "red": log.error}[verdict.state]
            say("capture", state=verdict.state, code=verdict.code, cause=verdict.cause)


def of_connector(decision: str, status: Status | None) -> Verdict:
    """What Connect says, as a verdict; `decision` as of `decide`."""
    failed = status.failed[0] if status and status.failed else None
    cause = f"{failed.name}: {failed.cause}" if failed else ""
    match decision:
        case "absent":
            return Verdict("red", "connector_absent", "the connector is not there", "Run `syncline connectors apply`.")
        case "restart":
            return Verdict("warning", "connector_restarted", cause, "See `syncline logs connect` if it comes again.")
        case "exhausted":
            step = "See `syncline logs connect`, mend it, then run `syncline connectors apply`."
            return Verdict("red", "connector_failed", cause, step)
        case _:
            return FINE
