"""Values that lost: the log of them, and writing one back.

Place in the flow: rules (`streams.inbound`) and people (`streams.conflict_desk`) keep in `sync.conflict_log` what gave
way; the CLI and the REST API call these. What is restored is an ordinary change of ours, and what it replaces is logged
in its turn, so that a restore can be taken back.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg import AsyncConnection

from schemas.fields import Json
from schemas.model import Model
from schemas.problems import Problem
from streams import conflict_cases, conflict_desk, edits, queues
from streams.conflict_cases import DELETE
from streams.edits import Held
from streams.queues import By
from streams.store import queries

Conn = AsyncConnection[Any]
Row = dict[str, Any]
Side = Literal["ours", "theirs"]

_SQL = queries("conflicts")


@dataclass(frozen=True, slots=True)
class Losers:
    """Which values; None for any. `before` is the `id` of the last one on the page before."""

    entity: str | None = None
    connection: str | None = None
    since: datetime | None = None
    before: int | None = None
    limit: int = 100


async def listed(conn: Conn, org_id: str, which: Losers) -> list[Row]:
    """Values that lost, the newest first: both sides, the winner, the rule, who decided, who restored it."""
    return await conflict_cases.rows(conn, "log", {"org": org_id, **asdict(which)})


async def restore(conn: Conn, by: By, number: int, model: Model, side: Side | None = None) -> Row:
    """Write a value that lost back, in one transaction.

    Args:
        side: whose value, where a third one won over both.

    Returns:
        `id`, `entity_id`, `connection`, `field`, `changed` (False: it was there again already).

    Raises:
        Problem: `loser_unknown`, `restored_already`, `side_needed`, `not_restorable`, `record_busy`, and those of
            `streams.edits.write`.
    """
    lost = await _lost(conn, by, number)
    return await conflict_desk.unhurried(conn, lost["entity_id"], lambda: _restore(conn, by, lost, model, side))


async def _restore(conn: Conn, by: By, lost: Row, model: Model, side: Side | None) -> Row:
    entity_type, entity_id = lost["entity_type"], lost["entity_id"]
    if entity_type not in model.types:
        raise Problem("field_unknown", f"the model has no {entity_type} any more", "Add the type again.")
    # the row before the log, as the applier does
    held = (await edits.read(conn, model, by.org_id, entity_type, [entity_id], lock=True))[entity_id]
    await conn.execute(_SQL["lock_lost"], {"org": by.org_id, "id": lost["id"]})
    lost = await _lost(conn, by, lost["id"])
    chosen = _side(lost, side)
    if not held.alive:
        raise Problem("entity_deleted", f"{entity_id} was deleted here", "Bring the record back first.")
    value = lost[chosen]
    now = edits.narrowed(held.value(lost["field"]), value, lost["ours"], lost["theirs"], lost["base"])
    changed = await edits.write(conn, model, by.org_id, held, {lost["field"]: value}, by.now)
    if changed:
        replaced = [_replaced(lost, held, chosen, value, now)]
        await conflict_desk.keep_losers(conn, by, lost["connection"], entity_type, entity_id, replaced)
    await conn.execute(_SQL["restored"], {"id": lost["id"], "now": by.now, "actor": by.actor})
    told = {"connection": lost["connection"], "field": lost["field"]}
    await queues.audit(conn, by, "conflict.restore", str(lost["id"]), entity_id=entity_id, side=chosen, **told)
    return {"id": lost["id"], "entity_id": entity_id, **told, "changed": changed}


def _side(lost: Row, side: Side | None) -> Side:
    """Whose value is to come back."""
    if lost["restored_at"] is not None:
        when = f"{lost['restored_at']:%Y-%m-%d %H:%M:%S}Z"
        cause = f"{lost['id']} was restored at {when} by {lost['restored_by'] or 'somebody'}"
        raise Problem("restored_already", cause, f"See `syncline conflicts log {lost['entity_id']}`.")
    if lost["field"] == DELETE or (lost["of_delete"] and lost["winner"] == "ours"):
        cause = "what lost is their delete of the whole record, not a value"
        raise Problem("not_restorable", cause, "Delete the record yourself if it is to go.")
    if lost["winner"] == "neither" and side is None:
        raise Problem("side_needed", "a third value won over both", "Say whose is to come back: ours or theirs.")
    loser: Side = "theirs" if lost["winner"] == "ours" else "ours"
    if lost["winner"] != "neither" and side not in (None, loser):
        raise Problem("not_restorable", f"{side} did not lose, it won", "Leave the side out.")
    return side or loser


def _replaced(lost: Row, held: Held, chosen: Side, value: Json, now: Json) -> Row:
    """The entry for the value that gives way: the other side of the same conflict."""
    other: Side = "theirs" if chosen == "ours" else "ours"
    at = held.written(lost["field"])
    times = {f"{chosen}_at": lost[f"{chosen}_at"], f"{other}_at": at[1] if at else None}
    named = {"field": lost["field"], "base": lost["base"], "winner": chosen, "event_id": lost["event_id"]}
    return named | {chosen: value, other: now} | times


async def _lost(conn: Conn, by: By, number: int) -> Row:
    found = await conflict_cases.rows(conn, "lost", {"org": by.org_id, "id": number})
    if not found:
        cause = f"{by.org_id} has no value {number} that lost"
        raise Problem("loser_unknown", cause, "See the numbers with `syncline conflicts log`.")
    return found[0]
