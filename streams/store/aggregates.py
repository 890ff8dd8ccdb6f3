"""Aggregates as they are now: root rows and their parts, read together, as JSON values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

import orjson
from psycopg import AsyncConnection, sql

from schemas.fields import Aggregate, Document, Json
from streams.rules import mapping
from streams.rules.custom_fields import Custom

THEIRS = "custom fields"
"""Key of a row for the custom fields of the connection that was asked for, as text: few rows need them read."""

_COMMON = ("id", "version", "origin", "origin_event", "modified_at", "field_times", "deleted_at")


@dataclass(slots=True)
class Rows:
    """One root row and its living parts, part type -> rows. Values are JSON: dates and times ISO 8601 text."""

    root: dict[str, Json]
    parts: dict[str, list[dict[str, Json]]] = field(default_factory=dict)

    @property
    def deleted(self) -> bool:
        """Whether the root is marked as deleted."""
        return self.root["deleted_at"] is not None

    def document(self, aggregate: Aggregate) -> Document:
        """The mapped fields as a document."""
        return mapping.document(aggregate, self.root, self.parts)

    def custom(self, connection: str) -> dict[str, Custom]:
        """The custom fields of a connection: part key, or an empty text for the root -> field -> value."""
        rows = {"": self.root} | {f"{kind}/{row['id']}": row for kind, parts in self.parts.items() for row in parts}
        found = {key: _custom(row, connection) for key, row in rows.items()}
        return {key: custom for key, custom in found.items() if custom}


def _custom(row: dict[str, Json], connection: str) -> Custom:
    told = row[THEIRS] if THEIRS in row else (row.get("custom") or {}).get(connection)
    found = orjson.loads(told) if isinstance(told, str) else told
    return found if isinstance(found, dict) else {}  # users write the column too


async def read(
    conn: AsyncConnection,
    aggregate: Aggregate,
    org_id: str,
    ids: Iterable[str],
    *,
    lock: bool = False,
    also: tuple[str, ...] = (),
    custom_of: str = "",
) -> dict[str, Rows]:
    """Roots by id with their parts, all in one snapshot; ids that have no row are missing from the answer.

    Args:
        lock: rows are locked FOR UPDATE, the root before its parts, each table in order of id.
        also: columns of the root beside those of the aggregate.
        custom_of: the connection whose custom fields are wanted.
    """
    wanted = sorted(set(ids))
    found: dict[str, Rows] = {}
    for statement in _statements(aggregate, also, lock=lock):
        cursor = await conn.execute(statement, {"org": org_id, "ids": wanted, "custom_of": custom_of})
        async for kind, root_id, row in cursor:
            if kind == aggregate.root:
                found[root_id] = Rows(row)
            elif root_id in found:
                found[root_id].parts.setdefault(kind, []).append(row)
    return found


async def living(conn: AsyncConnection, table: str, org_id: str) -> list[str]:
    """Ids of the rows of one entity type that are not marked as deleted, in order."""
    statement = sql.SQL("select id from canon.{} where org_id = %s and deleted_at is null order by id")
    cursor = await conn.execute(statement.format(sql.Identifier(table)), (org_id,))
    return [row[0] async for row in cursor]


@cache
def _statements(aggregate: Aggregate, also: tuple[str, ...], *, lock: bool) -> tuple[bytes, ...]:
    """The root's select, then each part's; without locks as one statement, so that all see the same snapshot."""
    selects = [_select(aggregate.root, "id", (*(f.canonical for f in aggregate.fields), *also), living=False)]
    for part in aggregate.parts:
        columns = tuple(f.canonical for f in part.fields)
        selects.append(_select(part.entity_type, part.parent, columns, living=True))
    if lock:
        return tuple((select + sql.SQL(" order by id for update")).as_bytes() for select in selects)
    return (sql.SQL(" union all ").join(selects).as_bytes(),)


def _select(table: str, root: str, columns: tuple[str, ...], *, living: bool) -> sql.Composed:
    pairs = sql.SQL(", ").join(
        sql.SQL("{}, {}").format(sql.Literal(name), sql.Identifier(name)) for name in dict.fromkeys(_COMMON + columns)
    )
    return sql.SQL(
        "select {kind}, {root}, jsonb_build_object({pairs}, {theirs}, (custom -> %(custom_of)s::text)::text)"
        " from canon.{table}"
        " where org_id = %(org)s and {root} = any(%(ids)s){living}"
    ).format(
        kind=sql.Literal(table),
        root=sql.Identifier(root),
        pairs=pairs,
        theirs=sql.Literal(THEIRS),
        table=sql.Identifier(table),
        living=sql.SQL(" and deleted_at is null" if living else ""),
    )
