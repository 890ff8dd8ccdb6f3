"""Commit to arrival, and pushes per second, on the real stack with an emulated system that answers at once.

Prints JSON: single commits on an idle pipeline (milliseconds from COMMIT, read on our clock, to the request at the
system, with the median of each hop), and a backlog planned at once (rows per second from COMMIT to the last arrival).
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from streams.demo.world import World

HOPS = (
    ("planned", "planned_at", "committed_at"),
    ("claimed", "claimed_at", "planned_at"),
    ("sent", "sent_at", "claimed_at"),
)


def idle(world: World, commits: int = 100) -> dict[str, Any]:
    """Single commits, 100 ms apart."""
    ids = [row[0] for row in world.rows("select id from canon.person order by id limit %s", commits)]
    after, committed = world.theirs.counts()["calls"], {}
    for each in ids:
        world.sql.execute("update canon.person set membership_status = clock_timestamp()::text where id = %s", (each,))
        committed[each] = time.time()
        time.sleep(0.1)
    world.quiet(0.5)
    arrived = [(call["at"], key) for call in world.theirs.writes(after) for key in call["keys"]]
    waits = statistics.quantiles([1000 * (at - committed[key]) for at, key in arrived if key in committed], n=100)
    told = {"commits": len(ids), "p50_ms": waits[49], "p95_ms": waits[94], "p99_ms": waits[98]}
    for name, to, since in HOPS:
        told[f"{name}_ms"] = world.value(
            f"select percentile_cont(0.5) within group (order by extract(epoch from {to} - {since}) * 1000)::float"
            " from (select * from sync.delivery order by id desc limit %s) d",
            len(ids),
        )
    return {name: round(value, 1) for name, value in told.items()}


def backlog(world: World, rows: int = 5_000) -> dict[str, Any]:
    """Rows inserted in one transaction."""
    before = world.theirs.counts()
    world.rows("insert into canon.person (first_name) select 'First' || n from generate_series(1, %s) n", rows)
    committed, target = time.time(), before["submissions"] + rows
    world.until("the rows to arrive", lambda: world.theirs.counts()["submissions"] >= target, 300, every_s=0.5)
    last = max(call["at"] for call in world.theirs.writes(before["calls"]))
    return {"rows": rows, "rows_per_s": round(rows / (last - committed))}
