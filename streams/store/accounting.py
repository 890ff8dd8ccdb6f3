"""Counters that outlive what they count, their reading, and the keeping of the tables they stand for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import orjson
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from streams.rules.accounting import SEEN, Routes, Wishes, differences
from streams.store import queries

SETTLED = timedelta(minutes=5)
"""A difference that is younger than this may be something that is just happening."""
AHEAD_DAYS = 7
DAYS_APART = 400
"""Counts of days older than this become one row."""

_SQL = queries("accounting")

Conn = AsyncConnection[Any]


class RouteKey(NamedTuple):
    """What routes are counted by; `verdict` and `reason` as in `streams.rules.routing`."""

    org_id: str
    connection: str
    entity_type: str
    verdict: str
    reason: str


Seen = tuple[str, str, str]
"""(organisation, connection, entity type) that the planner looked at."""


@dataclass(frozen=True, slots=True)
class Account:
    """The books of one connection."""

    routes: Routes
    wishes: Wishes

    @property
    def differences(self) -> dict[str, int]:
        """What is missing, by identity."""
        return differences(self.routes, self.wishes)


@dataclass(frozen=True, slots=True)
class Kept:
    """Partitions made and dropped by `keep_deliveries`."""

    made: int
    dropped: int


async def count_routes(conn: Conn, routes: Counter[RouteKey], seen: Counter[Seen], *, now: datetime) -> None:
    """Add a batch's routes and what was looked at, in the transaction that plans them; the last statement before its
    commit, because other planners raise the same rows."""
    rows = [{**key._asdict(), "roots": roots} for key, roots in routes.items()]
    rows += [{**RouteKey(*key, SEEN, "")._asdict(), "roots": roots} for key, roots in seen.items()]
    if rows:
        await conn.execute(_SQL["count_routes"], {"rows": orjson.dumps(rows).decode(), "now": now})


async def accounts(conn: Conn, *, now: datetime) -> Mapping[tuple[str, str], Account]:
    """(organisation, connection) -> its books; reads all intents. Only in a transaction that is REPEATABLE READ do both
    sides come from one moment."""
    verdicts: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    wishes: dict[tuple[str, str], Wishes] = {}
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL["routes"])
        for row in await cursor.fetchall():
            verdicts[row["org_id"], row["connection"]][row["verdict"]] = row["roots"]
        await cursor.execute(_SQL["wishes"], {"settled": now - SETTLED})
        for row in await cursor.fetchall():
            scope = row.pop("org_id"), row.pop("connection")
            wishes[scope] = Wishes(**row)
    return {
        key: Account(Routes.of(verdicts.get(key, {})), wishes.get(key, Wishes()))
        for key in sorted({*verdicts, *wishes})
    }


async def keep_deliveries(conn: Conn, *, kept_days: int, now: datetime) -> Kept:
    """Make the partitions of the coming days, drop those older than `kept_days`.

    Raises:
        psycopg.errors.LockNotAvailable: the table is in use for long; try again.
    """
    values = {"today": now.astimezone(UTC).date(), "ahead": AHEAD_DAYS, "kept": kept_days}
    row = await (await conn.execute(_SQL["keep_deliveries"], values)).fetchone()
    return Kept(*row) if row else Kept(0, 0)


async def fold(conn: Conn, *, now: datetime) -> None:
    """Make one row of the counts of days long ago: totals stay, the tables do not grow for ever."""
    before: date = now.astimezone(UTC).date() - timedelta(days=DAYS_APART)
    for name in ("fold_routes", "fold_deliveries"):
        await conn.execute(_SQL[name], {"before": before})
