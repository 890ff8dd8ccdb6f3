"""The guard against mass deletes of theirs: one wrong click over there must not empty our tables (rule R12).

`screen` is a step of the applier: deletes beyond max(20, 2 % of what is linked) of one type in ten minutes are kept,
that one and all that follow, until a person approves or drops them (`syncline holds`). Everything else flows on, and
what they say of a record after its delete takes the delete out of the question. `Decided` is the service that acts on
the decision. What is kept is in no ledger yet, so applying it is the plain way of any event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from psycopg import AsyncConnection

from schemas.fields import Json
from streams.inbound import tracks
from streams.inbound.incoming import Incoming, Unit
from streams.inbound.kept import Kept
from streams.inbound.loaded import Loaded
from streams.rules import mass_changes
from streams.store import queries

Conn = AsyncConnection[Any]
Row = dict[str, Json]

KIND: mass_changes.Kind = "their_deletes"

_NEVER = datetime.min.replace(tzinfo=UTC)

_SQL = queries("their_deletes")
_GUARD = queries("guard")
_log = structlog.get_logger("inbound.guard")


async def screen(
    conn: Conn, unit: Unit, loaded: Loaded, incoming: Sequence[Incoming], now: datetime
) -> tuple[list[Incoming], list[Row]]:
    """Keep what must wait. The events that go on, in order, and the ledger's lines of those that a person dropped."""
    newest = _newest(incoming)
    await _run(conn, unit, "overtaken", [{"external_id": key, "occurred_at": at} for key, at in newest.items()])
    dropped = [each for each in incoming if each.verdict == "dropped"]
    deletes = [each for each in incoming if not each.verdict and _takes_away(unit, loaded, newest, each)]
    kept: set[bytes] = {each.event.event_id for each in dropped}
    if deletes and (hold := await _admit(conn, unit, len({each.event.external_id for each in deletes}), now)):
        await _run(conn, unit, "hold", [each.as_row() for each in deletes], hold=hold)
        kept |= {each.event.event_id for each in deletes}
    entries = [tracks.entry(each.event, "ignored", "mass_delete_dropped") for each in dropped]
    return [each for each in incoming if each.event.event_id not in kept], entries


def _newest(incoming: Iterable[Incoming]) -> dict[str, datetime]:
    """Their id of every record that is there -> the latest time at which it was."""
    found: dict[str, datetime] = {}
    for each in incoming:
        if each.event.op != "delete":
            at = each.event.occurred_at
            found[each.event.external_id] = max(at, found.get(each.event.external_id, at))
    return found


def _takes_away(unit: Unit, loaded: Loaded, newest: Mapping[str, datetime], each: Incoming) -> bool:
    """Whether an event is a delete of something we have, after which the batch says no more of the record."""
    event = each.event
    if (
        event.op != "delete"
        or unit.terms.delete == "ignore"
        or newest.get(event.external_id, _NEVER) > event.occurred_at
    ):
        return False
    rows = loaded.rows.get(loaded.records[event.external_id].entity_id or "")
    return rows is not None and not rows.deleted


async def _admit(conn: Conn, unit: Unit, more: int, now: datetime) -> int | None:
    """Count `more` deletes and let them go (None), or the hold that they wait for."""
    window = mass_changes.window(now)
    values = {**unit.scope, "type": unit.root.name, "kind": KIND, "window": window, "records": more, "now": now}
    if row := await _one(conn, _GUARD["open_hold"], values):
        return int(row[0])
    _, counted = await _one(conn, _GUARD["busiest"], {**values, "since": now - mass_changes.LEARNS_FROM}) or (0, 0)
    limit = mass_changes.bound(KIND, unit.connection.guard, 0)
    if not mass_changes.admits(limit, counted, more):
        [linked] = await _one(conn, _SQL["linked"], unit.scope) or [0]
        limit = mass_changes.bound(KIND, unit.connection.guard, linked)
    values |= {"bound": limit}
    if mass_changes.admits(limit, counted, more) and await _one(conn, _GUARD["count"], values):
        return None
    [hold] = await _one(conn, _GUARD["hold"], values) or [0]
    _log.error(
        "mass_change_held", connection=unit.connection.name, type=unit.root.name, kind=KIND, bound=limit, hold=hold
    )
    return int(hold)


async def _one(conn: Conn, statement: str, values: Row) -> tuple[Any, ...] | None:
    return await (await conn.execute(statement.encode(), values)).fetchone()


async def _run(conn: Conn, unit: Unit, name: str, rows: Sequence[Row], **values: Json) -> None:
    if rows:
        await conn.execute(_SQL[name], {**unit.scope, **values, "rows": orjson.dumps(rows).decode()})


class Decided(Kept):
    """The service that applies deletes about which a person decided, or which are no question any more."""

    name = "inbound.their_deletes"
    any_due, due, taken = _SQL["any"], _SQL["decided"], _SQL["released"]
