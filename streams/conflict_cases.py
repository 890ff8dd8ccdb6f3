"""Which conflicts wait for a person: the list, the counts, and both sides of one record's.

Place in the flow: the applier asks (`sync.conflict`), `streams.conflict_desk` decides. Values are personal data: they
are in answers, never in problems, logs or the audit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from schemas.fields import Json
from schemas.model import Model
from schemas.problems import Problem
from streams import edits
from streams.edits import Held
from streams.store import connections, queries

Conn = AsyncConnection[Any]
Row = dict[str, Any]

DELETE = "deleted_at"
"""The field of a question that is about their delete of the whole record."""

_SQL = queries("conflicts")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which conflicts to list; None for any. `after` is the `id` of the last one on the page before."""

    connection: str | None = None
    entity_type: str | None = None
    older_than: timedelta | None = None
    after: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Asked:
    """One field or part on which both sides differ.

    Args:
        rule: why a person is asked: `protected`, `manual` …
        base: what both held last.
        ours, ours_by, ours_at: as it is here now; `ours_by` is `local` or the connection that wrote the row.
        ours_then: as it was when it was asked.
    """

    id: int
    field: str
    rule: str | None
    base: Json
    ours: Json
    theirs: Json
    ours_then: Json
    ours_by: str | None
    ours_at: datetime | None
    theirs_at: datetime | None
    source: str | None
    event_id: str
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class Case:
    """All open questions about one record at one connection.

    Args:
        name: what people call the record.
        deleted: it was deleted here meanwhile.
        seen: changes whenever anything that is shown of a question does; `resolve` wants it back.
    """

    connection: str
    system: str
    entity_type: str
    entity_id: str
    name: str
    deleted: bool
    seen: str
    fields: Sequence[Asked]

    def as_json(self) -> Row:
        """As JSON values but for times, which stay datetimes."""
        return asdict(self)


async def listed(conn: Conn, org_id: str, model: Model, wanted: Wanted, *, now: datetime) -> list[Row]:
    """Records with open questions, what is due first; one row for each connection that asks.

    Its keys are `id`, `connection`, `entity_type`, `entity_id`, `name`, `fields`, `opened_at`, `owner`, `due_at`,
    `overdue` and `age_s`: how long the oldest of its questions waits.
    """
    before = now - wanted.older_than if wanted.older_than is not None else None
    values = {"org": org_id, "before": before, "now": now, **asdict(wanted)}
    found = await rows(conn, "list", values)
    names: dict[str, str] = {}
    for kind in sorted({row["entity_type"] for row in found} & model.types.keys()):
        ids = [row["entity_id"] for row in found if row["entity_type"] == kind]
        held = await edits.read(conn, model, org_id, kind, ids)
        names |= {each: held[each].name for each in held}
    return [
        row | {"name": names.get(row["entity_id"], ""), "age_s": (now - row["opened_at"]).total_seconds()}
        for row in found
    ]


async def counts(conn: Conn, org_id: str, *, now: datetime) -> list[Row]:
    """Open questions by `connection`, `entity_type` and `field` (of parts their type): `count`, `oldest_s`."""
    found = await rows(conn, "counts", {"org": org_id})
    return [row | {"oldest_s": (now - row.pop("oldest")).total_seconds()} for row in found]


async def cases(conn: Conn, org_id: str, model: Model, entity_id: str, connection: str | None = None) -> list[Case]:
    """The open questions about one record, one case for each connection that asks.

    Raises:
        Problem: `conflict_unknown`, `conflict_closed` when they were answered before.
    """
    found = await with_rows(conn, org_id, model, entity_id, connection)
    if not found:
        raise await none_open(conn, org_id, entity_id, connection)
    return [case for case, _ in found]


async def with_rows(
    conn: Conn, org_id: str, model: Model, entity_id: str, connection: str | None
) -> list[tuple[Case, Held]]:
    """The same with our rows; empty where nothing is asked."""
    found = await rows(conn, "open", {"org": org_id, "entity": entity_id, "connection": connection})
    if not found:
        return []
    entity_type = found[0]["entity_type"]
    held = (await edits.read(conn, model, org_id, entity_type, [entity_id]))[entity_id]
    known = {each.name: each.system for each in await connections.list_all(conn, org_id)}
    asked: dict[str, list[Asked]] = {}
    for row in found:
        asked.setdefault(row["connection"], []).append(_asked(row, held))
    about = (entity_type, entity_id, held.name, not held.alive)
    return [
        (Case(name, known.get(name, ""), *about, _seen(held, fields), fields), held) for name, fields in asked.items()
    ]


def _asked(row: Row, held: Held) -> Asked:
    name = row["field"]
    ours = edits.narrowed(held.value(name), row["theirs"], row["ours"], row["base"])
    by, at = held.written(name) or (None, None)
    return Asked(
        row["id"], name, row["rule"], row["base"], ours, row["theirs"], row["ours"], by, at, row["theirs_at"],
        row["source"], row["event_id"], row["opened_at"],
    )  # fmt: skip


def _seen(held: Held, fields: Sequence[Asked]) -> str:
    shown = [held.alive, [[each.id, each.ours, each.theirs] for each in fields]]
    return hashlib.sha256(orjson.dumps(shown, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


async def none_open(conn: Conn, org_id: str, entity_id: str, connection: str | None) -> Problem:
    """Why there is no open question about a record."""
    last = await rows(conn, "closed", {"org": org_id, "entity": entity_id, "connection": connection})
    if not last:
        cause = f"nothing is asked about {entity_id}" + (f" at {connection}" if connection else "")
        return Problem("conflict_unknown", cause, "See what is with `syncline conflicts list`.")
    row = last[0]
    who = f"by {row['resolved_by']}" if row["resolved_by"] else "by itself: both sides became equal"
    when = f"{row['resolved_at']:%Y-%m-%d %H:%M:%S}Z"
    cause = f"the conflict about {entity_id} at {row['connection']} was resolved at {when} {who}"
    return Problem("conflict_closed", cause, f"See what lost with `syncline conflicts log {entity_id}`.")


async def rows(conn: Conn, name: str, values: Mapping[str, Any]) -> list[Row]:
    """What a statement of `conflicts.sql` finds."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL[name].encode(), values)
        return await cursor.fetchall()
