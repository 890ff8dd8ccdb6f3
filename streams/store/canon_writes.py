"""Writes of the applier to canonical tables: only the columns that an event brings, set-based, one statement per shape.

The caller is in a transaction of the role `syncline_applier` and names `origin` and `origin_event` in every row; the
trigger keeps them and `modified_at` (`canon.stamp`). What the database made of the values comes back. Custom fields are
set under the key of their connection alone, whatever stands under the others by now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import orjson
from psycopg import AsyncConnection, sql

from schemas.fields import Json
from schemas.problems import Problem

_TAG = ("modified_at", "origin", "origin_event", "field_times")


class Shape(NamedTuple):
    """What a statement depends on; the fields are as in `RowWrite`."""

    table: str
    insert: bool
    parent: str
    columns: tuple[str, ...]
    custom: bool


@dataclass(frozen=True, slots=True)
class RowWrite:
    """One row of one table.

    Args:
        table: the entity type.
        columns: column -> JSON value; the parent's column among them for a part.
        parent: the parent's column, for parts.
        insert: the row may be missing and is made then.
        times: column -> when it was edited; of roots, whose columns are compared one by one.
        custom: connection -> its custom fields, all of them; None leaves them alone.
    """

    table: str
    id: str
    columns: dict[str, Json]
    modified_at: datetime
    origin: str
    origin_event: str
    parent: str = ""
    insert: bool = False
    times: Mapping[str, datetime] = field(default_factory=dict)
    custom: Mapping[str, Json] | None = None

    @property
    def shape(self) -> Shape:
        """Rows of one shape go into one statement."""
        return Shape(self.table, self.insert, self.parent, tuple(sorted(self.columns)), self.custom is not None)


@dataclass(slots=True)
class Written:
    """What the database holds where it differs from what was written: (table, id) -> column -> value."""

    differing: dict[tuple[str, str], dict[str, Json]] = field(default_factory=dict)


async def write(conn: AsyncConnection[Any], org_id: str, rows: Iterable[RowWrite]) -> Written:
    """Write the rows, tables in the order in which they come first, each table in order of id.

    Raises:
        Problem: `row_not_ours` when a part's id belongs to another root, or a row has gone meanwhile.
        psycopg.Error: whatever the database refuses.
    """
    written = Written()
    for shape, group in _by_shape(rows):
        wanted = {row.id: row for row in group}
        values = [_record(org_id, wanted[key]) for key in sorted(wanted)]
        cursor = await conn.execute(_statement(shape), {"rows": orjson.dumps(values).decode()})
        answered: set[str] = set()
        async for key, held in cursor:
            answered.add(key)
            if differing := {name: held[name] for name in shape.columns if held[name] != wanted[key].columns[name]}:
                written.differing[shape.table, key] = differing
        if wanted.keys() != answered:
            raise Problem("row_not_ours", f"a row of canon.{shape.table} is part of another root, or has gone")
    return written


def _by_shape(rows: Iterable[RowWrite]) -> Iterator[tuple[Shape, Sequence[RowWrite]]]:
    groups: dict[Shape, list[RowWrite]] = defaultdict(list)
    for row in rows:
        groups[row.shape].append(row)
    places = {table: place for place, table in enumerate(dict.fromkeys(shape.table for shape in groups))}
    yield from sorted(groups.items(), key=lambda item: (places[item[0].table], item[0]))


def _record(org_id: str, row: RowWrite) -> dict[str, Json]:
    tag = {"modified_at": row.modified_at, "origin": row.origin, "origin_event": row.origin_event}
    return {"org_id": org_id, "id": row.id, **row.columns, **tag, "field_times": row.times, "custom": row.custom or {}}


@cache
def _statement(shape: Shape) -> sql.Composed:
    names = (*shape.columns, *_TAG, *(("custom",) if shape.custom else ()))
    parts = {
        "table": sql.Identifier("canon", shape.table),
        "names": _list("{}", names),
        "given": _list("r.{}", names),
        "set": _assignments("r", names),
        "excluded": _assignments("excluded", names),
        "held": sql.SQL(", ").join(
            sql.SQL("{}, t.{}").format(sql.Literal(name), sql.Identifier(name)) for name in shape.columns
        ),
        "own": sql.SQL("t.{0} = excluded.{0}").format(sql.Identifier(shape.parent))
        if shape.parent
        else sql.SQL("false"),
    }
    text = _INSERT if shape.insert else _UPDATE
    return sql.SQL(text).format(**parts)


_INSERT = """
insert into {table} as t (org_id, id, {names})
select r.org_id, r.id, {given} from jsonb_populate_recordset(null::{table}, %(rows)s::jsonb) r order by r.id
on conflict (org_id, id) do update set {excluded} where {own}
returning t.id, jsonb_build_object({held})"""

_UPDATE = """
update {table} t set {set} from jsonb_populate_recordset(null::{table}, %(rows)s::jsonb) r
where t.org_id = r.org_id and t.id = r.id
returning t.id, jsonb_build_object({held})"""


def _assignments(source: str, names: Iterable[str]) -> sql.Composed:
    merged = sql.SQL("{0} = t.{0} || {1}.{0}")
    plain = sql.SQL("{0} = {1}.{0}")
    return sql.SQL(", ").join(
        (merged if name == "custom" else plain).format(sql.Identifier(name), sql.Identifier(source)) for name in names
    )


def _list(pattern: str, names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL(pattern).format(sql.Identifier(name)) for name in names)
