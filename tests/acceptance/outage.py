"""A system that is away for half an hour, on a clock that jumps: while a lane has nothing to do but wait, time passes.

Real Postgres and the real lane; their side is scripted: the question is how the lane behaves, not how fast HTTP is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import psycopg
from psycopg_pool import AsyncConnectionPool

from connectors.contract import Delivered, ExternalRecord, Failed, Outcome
from connectors.errors import NotApplied
from streams.outbound.calls import Calls
from streams.outbound.claims import Claims
from streams.outbound.lanes import Lane, Tools, wait_for
from streams.outbound.outcomes import Outcomes
from streams.resources import BY_KEY
from streams.rules.breakers import Breaker
from streams.rules.retries import Terms
from streams.settings import Settings
from streams.store import connections
from tests.integration.scripted import MANIFEST, Outbound, Theirs, connect_to

OUTAGE = timedelta(minutes=30)


class JumpingClock:
    """The wall clock and what was skipped of it."""

    def __init__(self) -> None:
        self._skipped = timedelta()
        self.lane: Lane | None = None
        self.jumps = False

    def now(self) -> datetime:
        return datetime.now(UTC) + self._skipped

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Wait while calls are on their way; else let the time pass at once."""
        if event.is_set():
            return
        if not self.jumps or (self.lane and self.lane.busy):
            await wait_for(event, min(seconds, 0.05))
        else:
            self._skipped += timedelta(seconds=seconds)
            await asyncio.sleep(0)


class Away(Theirs):
    """A system that cannot be reached before `back`, and takes its time when it can."""

    batch_size = 1

    def __init__(self, clock: JumpingClock, latency_s: float) -> None:
        super().__init__()
        self._clock, self._latency_s = clock, latency_s
        self.back = clock.now()
        self.last = clock.now()
        self.calls_while_away = self.calls = 0

    async def send(self, bodies: Sequence[bytes]) -> Sequence[Outcome]:
        self.calls += 1
        if self._clock.now() < self.back:
            self.calls_while_away += 1
            return [Failed(NotApplied("no_connection", "no connection to the system")) for _ in bodies]
        await asyncio.sleep(self._latency_s)
        self.last = self._clock.now()
        return [Delivered(orjson.loads(body)["ours"], 200) for body in bodies]


async def outage(database: Settings, backlog: int, *, latency_s: float = 0.005, concurrency: int = 5) -> dict[str, Any]:
    """`backlog` wishes without an outage, then as many that wait through one; what each took."""
    async with (
        await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as conn,
        AsyncConnectionPool(
            database.dsn("app"), min_size=2, open=False, kwargs={"autocommit": True, "options": BY_KEY}
        ) as pool,
    ):
        clock, org = JumpingClock(), f"org_outage_{backlog}"
        await connect_to(conn, org)
        out = Outbound(conn, org)
        theirs = Away(clock, latency_s)
        lane = await _lane(out, theirs, clock, pool, concurrency)
        ideal_s = await _drain(out, lane, theirs, clock, backlog)
        away_s = await _drain(out, lane, theirs, clock, backlog, OUTAGE.total_seconds()) - OUTAGE.total_seconds()
        await lane.stop()
        dead = await out.sql("select count(*) from sync.push_intent where org_id = %s and state <> 'DONE'", org)
    return {
        "backlog": backlog,
        "calls_while_away": theirs.calls_while_away,
        "share_of_backlog": round(theirs.calls_while_away / backlog, 4),
        "ideal_s": round(ideal_s, 1),
        "drained_s": round(away_s, 1),
        "ratio": round(away_s / ideal_s, 3),
        "not_done": dead,
        "doubled": theirs.calls - theirs.calls_while_away - backlog,
    }


async def _lane(out: Outbound, theirs: Away, clock: JumpingClock, pool: AsyncConnectionPool, concurrency: int) -> Lane:
    connection, breaker = await connections.load_connection(out.conn, out.org, out.name), Breaker()

    async def refresh(record: ExternalRecord) -> None:
        raise AssertionError(record)

    tools = Tools(
        client=theirs,
        claims=Claims(connection, MANIFEST, 0),
        outcomes=Outcomes(connection),
        calls=Calls(theirs, Terms("durable", MANIFEST, lambda: 0.5), breaker, refresh=refresh, now=clock.now),
        breaker=breaker,
        pool=pool,
        concurrency=concurrency,
        slot=0,
        now=clock.now,
        wait=clock.wait,
    )
    return Lane(connection, tools)


async def _drain(
    out: Outbound, lane: Lane, theirs: Away, clock: JumpingClock, backlog: int, away_s: float = 0
) -> float:
    """Plan so many new people, let the system be away, and wait until all are there; seconds by the clock."""
    cursor = await out.conn.execute(
        "insert into canon.person (org_id, first_name) select %s, 'P' || n from generate_series(1, %s) n returning id",
        (out.org, backlog),
    )
    ids = [row[0] for row in await cursor.fetchall()]
    out.now = clock.now()
    theirs.back = out.now + OUTAGE * 9  # nothing leaves before all is planned
    for start in range(0, backlog, 5000):
        await out.plan(*ids[start : start + 5000])
    started = clock.now()
    theirs.back = started + timedelta(seconds=away_s)
    theirs.calls = theirs.calls_while_away = 0
    clock.jumps = True
    if clock.lane is None:
        lane.start()
        clock.lane = lane
    lane.wake()
    open_ones = "select count(*) from sync.push_intent where org_id = %s and state not in ('DONE', 'DEAD')"
    while await out.sql(open_ones, out.org):  # noqa: ASYNC110  the database tells
        await asyncio.sleep(0.1)
    clock.jumps = False
    return (theirs.last - started).total_seconds()
