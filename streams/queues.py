"""What a person does about writes that stand still: parked ones, and mass changes on hold.

Place in the flow: the CLI and the REST API call these, `streams.redrives` and `streams.selected`; they change
`sync.push_intent` and `sync.mass_hold`, wake the dispatchers and leave an audit row, each in one transaction. Whatever
is tried again is built from the row as it is then: nothing older ever goes over something newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from schemas.problems import Problem
from streams.store import connection_changes, queries, waits
from streams.store.connections import Connection
from streams.store.wishes import Wish

Conn = AsyncConnection[Any]
Row = dict[str, Any]

_SQL = queries("queues")


@dataclass(frozen=True, slots=True)
class By:
    """Who acts, for which organisation, and when."""

    org_id: str
    actor: str
    now: datetime


async def retry_parked(conn: Conn, by: By, entity_id: str, connection: str | None = None) -> str:
    """Send a parked write again, as the row is now; the connection's name.

    Raises:
        Problem: `not_parked`, `connection_ambiguous`.
    """
    async with conn.transaction():
        found = await _parked(conn, by, entity_id, connection)
        await unpark(conn, by, entity_id, found["connection"], "parked_retry")
        await audit(conn, by, "parked.retry", entity_id, connection=found["connection"])
        await wake(conn)
    name: str = found["connection"]
    return name


async def drop_parked(conn: Conn, by: By, entity_id: str, connection: str | None = None) -> str:
    """Do without a parked write: they keep what they have until the record changes again; the connection's name.

    Raises:
        Problem: `not_parked`, `connection_ambiguous`.
    """
    async with conn.transaction():
        found = await _parked(conn, by, entity_id, connection)
        await drop(conn, by, found, "PARKED")
        await audit(conn, by, "parked.drop", entity_id, connection=found["connection"])
        await wake(conn)
    name: str = found["connection"]
    return name


async def unpark(conn: Conn, by: By, entity_id: str, connection: str, reason: str) -> bool:
    """Let a parked write go on, in the caller's transaction; whether there was one."""
    values = {"org": by.org_id, "entity": entity_id, "connection": connection, "reason": reason, "now": by.now}
    return (await conn.execute(_SQL["unpark"], values)).rowcount > 0


async def _parked(conn: Conn, by: By, entity_id: str, connection: str | None) -> Row:
    found = await rows(conn, "parked", {"org": by.org_id, "entity": entity_id, "connection": connection})
    if not found:
        where = f" at {connection}" if connection else ""
        raise Problem("not_parked", f"{entity_id} is not parked{where}", "See what is with `syncline parked list`.")
    if len({row["connection"] for row in found}) > 1:
        names = ", ".join(row["connection"] for row in found)
        raise Problem("connection_ambiguous", f"{entity_id} is parked at {names}", "Name one with --connection.")
    return found[0]


async def drop(conn: Conn, by: By, intent: Row, state: str) -> None:
    """They go without this wish, in the caller's transaction; who waited for its link finds out."""
    place = {"org": by.org_id, "connection": intent["connection"], "entity": intent["entity_id"], "now": by.now}
    await conn.execute(_SQL["drop_wish"], place | {"external_type": intent["external_type"], "state": state})
    await waits.look_again(conn, by.org_id, intent["connection"], [intent["entity_id"]], now=by.now)


async def decide_hold(conn: Conn, by: By, number: int, decision: Literal["approved", "dropped"]) -> Row:
    """Approve a mass change, so that it goes on and is not counted again, or drop it.

    Dropped deletes mean that our rows are gone and theirs stay; dropped deletes of theirs, the other way round; dropped
    updates, that they keep the old values until the record changes again.

    Returns:
        `connection`, `entity_type`, `kind`, and `records`: how many it decided.

    Raises:
        Problem: `hold_unknown`, `hold_closed`.
    """
    values = {"id": number, "org": by.org_id, "decision": decision, "actor": by.actor, "now": by.now}
    async with conn.transaction():
        decided = await rows(conn, "decide_hold", values)
        if not decided:
            raise await _no_hold(conn, by, number)
        held = await conn.execute(_SQL["approve_held" if decision == "approved" else "drop_held"], values)
        [theirs] = await rows(conn, "held_events", values)  # the workers see what was decided and act on it
        told = decided[0] | {"records": held.rowcount + theirs["records"]}
        action = "approve" if decision == "approved" else "drop"
        await audit(conn, by, f"hold.{action}", str(number), **told)
        await wake(conn)
    return told


async def _no_hold(conn: Conn, by: By, number: int) -> Problem:
    found = await rows(conn, "hold_state", {"id": number, "org": by.org_id})
    if found:
        cause = f"the hold {number} was {found[0]['state']} before"
        return Problem("hold_closed", cause, "What was decided cannot be taken back.")
    return Problem("hold_unknown", f"{by.org_id} has no hold {number}", "See them with `syncline holds list`.")


def wish(connection: Connection, external_type: str, entity_type: str, entity_id: str, reason: str) -> Wish:
    """The wish of a person that a connection hold the current state of a root."""
    live = connection.is_live(entity_type)
    return {
        "org_id": connection.org_id,
        "connection": connection.name,
        "external_type": external_type,
        "entity_type": entity_type,
        "entity_id": entity_id,
        "state": "PENDING" if live else "HELD",
        "reason": reason if live else f"gate_{connection.gates.get(entity_type)}",
    }


async def wake(conn: Conn) -> None:
    """Tell the dispatchers, once the transaction is committed."""
    await conn.execute(queries("wishes")["wake"])


async def audit(conn: Conn, by: By, action: str, subject: str, **detail: object) -> None:
    """Write down who did it."""
    await connection_changes.audit(conn, by.org_id, by.actor, action, subject, detail)


async def rows(conn: Conn, name: str, values: Mapping[str, Any]) -> list[Row]:
    """What a statement of `queues.sql` finds."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL[name].encode(), values)
        return await cursor.fetchall()
