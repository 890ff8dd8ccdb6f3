"""Whether what capture misses would be found: the sweep moves, and somebody watches over capture."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from streams.doctor.findings import Check, ok, red, warn
from streams.rules.sweeps import PATIENCE
from streams.settings import Settings
from streams.store import queries

LOOKED_S = 30.0
"""The watch looks every few seconds."""
SLACK = 4
"""Intervals beyond its patience after which a sweep does not move."""
NO_JOBS = "Run a worker with the role `jobs` (`syncline worker`)."

SWEPT = """
select extract(epoch from %(now)s - turned_at)::float8,
       extract(epoch from %(now)s - greatest(swept_at, noted_at))::float8
from sync.sweep where id = 1
"""
MISSED = "select coalesce(sum(value), 0)::bigint from sync.counter where name = 'cdc_missed'"

Connection = psycopg.Connection[Any]


def checks(conn: Connection, settings: Settings, now: datetime) -> tuple[Callable[[], Check], ...]:
    """What is to be looked at, one finding each."""
    return lambda: _sweep(conn, settings, now), lambda: _capture(conn, now)


def _sweep(conn: Connection, settings: Settings, now: datetime) -> Check:
    turned_s, swept_s = conn.execute(SWEPT, {"now": now}).fetchone() or (None, None)
    (missed,) = conn.execute(MISSED).fetchone() or (0,)
    return sweep_check(turned_s, swept_s, settings.sweep_every_s, missed)


def sweep_check(turned_s: float | None, swept_s: float | None, every_s: float, missed: int) -> Check:
    """The sweep, given the seconds since it was at work and since its mark moved; `missed`: roots that capture lost."""
    late_s = every_s * (PATIENCE + SLACK)
    if turned_s is None:
        return warn("sweep", "has never run: nobody would find what capture misses", NO_JOBS)
    if turned_s > late_s:
        return warn("sweep", f"last ran {turned_s:.0f} s ago: nobody would find what capture misses", NO_JOBS)
    if swept_s is not None and swept_s > late_s:
        step = "Look at the log of the worker with the role `jobs`; it tells what the sweep waits for."
        return red("sweep", f"runs, but its mark has not moved for {swept_s:.0f} s", step)
    told = f"{swept_s:.0f} s old" if swept_s is not None else "just begun"
    if missed:
        return ok("sweep", f"{told}; it found {missed} changes in all that capture had missed")
    return ok("sweep", f"{told}; capture has missed nothing")


def _capture(conn: Connection, now: datetime) -> Check:
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(queries("sweep")["capture_state"].encode()).fetchone()
    return capture_check(found, now)


def capture_check(found: dict[str, Any] | None, now: datetime) -> Check:
    """What the watch over capture saw last; a row of `sync.capture_state`."""
    name = "capture watch"
    if found is None:
        return warn(name, "nobody has ever watched", NO_JOBS)
    age_s = (now - found["at"]).total_seconds()
    if age_s > LOOKED_S:
        return warn(name, f"nobody has looked for {age_s:.0f} s", NO_JOBS)
    match found["state"]:
        case "ok":
            return ok(name, f"all well {age_s:.0f} s ago, since {found['since']:%Y-%m-%d %H:%M:%S %Z}")
        case "warning":
            return warn(name, found["cause"], found["next_step"])
        case _:
            return red(name, found["cause"], found["next_step"])
