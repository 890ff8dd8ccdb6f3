"""Reads for the people who run Syncline: how each connection stands, how far consumers are, dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from schemas.problems import Problem
from streams.store import budgets, clock_errors, connection_changes, connections, queries, subscriptions

_SQL = queries("operations")

Conn = AsyncConnection[Any]
Row = dict[str, Any]


async def overview(conn: Conn, org_id: str, now: datetime) -> list[Row]:
    """One JSON object per connection.

    `intents` counts by state; `oldest_waiting_s` is the age in seconds of the oldest change they do not have yet, None
    when they have all; `polls` has the checkpoints by external type, with `read_in_full_at`; `subscription` tells of
    the webhook subscription that we keep there, None where a person does that.

    `lastPushExternalSyncTimestamp` and `lastPullExternalSyncTimestamp` are the times up to which everything of ours is
    there and everything of theirs is here, None where that was never so; `reads` counts records of theirs that are
    about to be read in full; `clock` is how far their clock is `ahead_s` of ours and how wrong it may be (`error_s`),
    None where it was not measured.
    """
    values = {"org": org_id, "now": now}
    intents: dict[str, dict[str, int]] = {}
    for row in await _rows(conn, "intents", values):
        intents.setdefault(row["connection"], {})[row["state"]] = row["count"]
    oldest = {row["connection"]: row["seconds"] for row in await _rows(conn, "oldest_waiting", values)}
    counts = {
        name: {row["connection"]: row["count"] for row in await _rows(conn, f"{name}_counts", values)}
        for name in ("dead_letter", "conflict", "review")
    }
    pushed = {row["connection"]: row["at"] for row in await _rows(conn, "pushed_through", values)}
    reads = {row.pop("connection"): row for row in await _rows(conn, "reads", values)}
    clocks = await clock_errors.load_all(conn, org_id)
    polls: dict[str, dict[str, Row]] = {}
    for row in await _rows(conn, "polls", values):
        polls.setdefault(row.pop("connection"), {})[row.pop("external_type")] = row
    subscribed = await subscriptions.shown(conn, org_id)
    return [
        {
            "name": c.name,
            "system": c.system,
            "state": c.state,
            "state_reason": c.state_reason,
            "option": c.option,
            "mode": c.mode,
            "gates": dict(c.gates),
            "intents": intents.get(c.name, {}),
            "oldest_waiting_s": oldest.get(c.name),
            "dead_letters": counts["dead_letter"].get(c.name, 0),
            "conflicts": counts["conflict"].get(c.name, 0),
            "reviews": counts["review"].get(c.name, 0),
            "polls": polls.get(c.name, {}),
            "subscription": subscribed.get(c.name),
            "lastPushExternalSyncTimestamp": pushed.get(c.name),
            "lastPullExternalSyncTimestamp": _pulled_through(polls.get(c.name, {})),
            "reads": reads.get(c.name, {"count": 0, "failing": 0, "oldest": None}),
            "clock": clocks.get(c.name),
        }
        for c in await connections.list_all(conn, org_id)
    ]


async def waiting_for_people(conn: Conn, org_id: str, now: datetime) -> dict[str, Row]:
    """`conflicts` and `reviews`: how many are `open` and `overdue`, and `oldest_s`, None where none is."""
    rows = await _rows(conn, "waiting_for_people", {"org": org_id, "now": now})
    return {row.pop("what"): row for row in rows}


def _pulled_through(polls: Mapping[str, Row]) -> datetime | None:
    """Everything of theirs up to this time is applied, of whatever type; None while there is a type without a time."""
    times = [poll["applied_through"] for poll in polls.values()]
    return min(times) if times and None not in times else None


async def count_dead_letters(conn: Conn, org_id: str) -> int:
    """Open dead letters, those that name no connection too."""
    return sum(row["count"] for row in await _rows(conn, "dead_letter_counts", {"org": org_id}))


async def progress(conn: Conn) -> Mapping[str, Mapping[tuple[str, int], int]]:
    """Consumer -> (topic, partition) -> next offset."""
    found: dict[str, dict[tuple[str, int], int]] = {}
    for row in await _rows(conn, "progress", {}):
        found.setdefault(row["consumer"], {})[row["topic"], row["partition"]] = row["next_offset"]
    return found


async def dead_letters(
    conn: Conn, org_id: str, connection: str | None = None, *, closed: bool = False, limit: int = 100
) -> list[Row]:
    """Dead letters without their content, newest first; `closed` shows redriven and dropped ones too."""
    values = {"org": org_id, "connection": connection, "all": closed, "limit": limit}
    return await _rows(conn, "dead_letters", values)


async def dead_letter(conn: Conn, org_id: str, number: int) -> Row:
    """One dead letter without its content. Raises Problem (`dead_letter_unknown`)."""
    rows = await _rows(conn, "dead_letter", {"org": org_id, "id": number})
    if not rows:
        raise Problem(
            "dead_letter_unknown",
            f"{org_id} has no dead letter {number}",
            "See the numbers with `syncline dead-letters list`.",
        )
    return rows[0]


async def dead_letter_value(conn: Conn, org_id: str, number: int, actor: str) -> bytes:
    """The content of a dead letter: personal data, so every look is audited. Raises as `dead_letter` does."""
    async with conn.transaction():
        await dead_letter(conn, org_id, number)
        [row] = await _rows(conn, "dead_letter_value", {"org": org_id, "id": number})
        await connection_changes.audit(conn, org_id, actor, "dead_letter.read", str(number))
    return row["value"] or b""


async def pushes(
    conn: Conn,
    org_id: str,
    connection: str | None = None,
    *,
    state: str | None = None,
    entity: str | None = None,
    limit: int = 100,
) -> list[Row]:
    """Wishes, newest first: of one connection, state or root entity; those that are fulfilled only where asked for.

    `waits_for` has the entities whose link a WAITING one needs; `behind` is how many plans are not fulfilled yet.
    """
    values = {"org": org_id, "connection": connection, "state": state, "entity": entity, "limit": limit}
    return await _rows(conn, "pushes", values)


async def lanes(conn: Conn, org_id: str, *, now: datetime) -> list[Row]:
    """How each connection's calls stand: counts by state, `oldest_s`, `budgets` (as `budgets.usage`), `breakers`."""
    values = {"org": org_id, "now": now}
    counts = {row.pop("connection"): row for row in await _rows(conn, "lanes", values)}
    breakers: dict[str, list[Row]] = {}
    for row in await _rows(conn, "breakers", values):
        breakers.setdefault(row.pop("connection"), []).append(row)
    used: dict[str, list[Row]] = {}
    for row in await budgets.usage(conn, org_id, now=now):
        used.setdefault(row.pop("connection"), []).append(row)
    idle = {"in_flight": 0, "queued": 0, "held": 0, "waiting": 0, "parked": 0, "oldest_s": None}
    return [
        {
            "name": c.name,
            "system": c.system,
            "state": c.state,
            "state_reason": c.state_reason,
            "concurrency": c.concurrency,
            "budget": dict(c.budget),
            **counts.get(c.name, idle),
            "budgets": used.get(c.name, []),
            "breakers": breakers.get(c.name, []),
        }
        for c in await connections.list_all(conn, org_id)
        if c.state != "disconnected"
    ]


async def holds(conn: Conn, org_id: str, *, closed: bool = False, limit: int = 100) -> list[Row]:
    """Mass changes that wait for approval, newest first; `records` are still held. `closed` shows decided ones too."""
    return await _rows(conn, "holds", {"org": org_id, "all": closed, "limit": limit})


async def _rows(conn: Conn, name: str, values: Mapping[str, Any]) -> list[Row]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL[name].encode(), values)
        return await cursor.fetchall()
