"""A person's edit of one entity, key by key: fields of its row, whole parts, or its deletion.

Written as any program of the user's would: the rows are `local`, so capture brings the change to every system. Keys and
values are those of documents (`schemas.fields`): `first_name`, or `email/email_01h…`, which is None when removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson
import psycopg
from psycopg import AsyncConnection, sql

from schemas.entity_types import EntityField, EntityType
from schemas.fields import Aggregate, Document, Field, Json, Part
from schemas.model import Model
from schemas.problems import Problem
from streams.rules import typeids
from streams.rules.echoes import LOCAL
from streams.store import aggregates, canon_writes
from streams.store.aggregates import Rows
from streams.store.canon_writes import RowWrite

Conn = AsyncConnection[Any]

_ACCEPTED: Mapping[str, tuple[type, ...]] = {
    "text": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "bigint": (int,),
    "real": (int, float),
    "double precision": (int, float),
    "date": (str,),
    "timestamp with time zone": (str,),
}
"""SQL type -> the JSON types a value may have; the rest is the database's business."""


@dataclass(frozen=True, slots=True)
class Held:
    """An entity as it is here.

    Args:
        rows: its rows; None when the root's row is gone.
        document: every field of the root and of its living parts.
    """

    entity_type: EntityType
    id: str
    rows: Rows | None
    document: Document

    @property
    def alive(self) -> bool:
        """Whether it has a row that is not marked as deleted."""
        return self.rows is not None and not self.rows.deleted

    @property
    def name(self) -> str:
        """What a person calls it; personal data. Empty where the type has no name."""
        named = [f.name for f in self.entity_type.fields if f.normalize == "name" or f.name == "name"]
        return " ".join(str(self.document[each]) for each in named if self.document.get(each))

    def value(self, key: str) -> Json:
        """The value of a key; None for a part that is not there."""
        if key == "deleted_at":
            return self.rows.root[key] if self.rows else None
        return self.document.get(key)

    def written(self, key: str) -> tuple[str, datetime] | None:
        """Who wrote the row that holds a key, `local` or a connection, and when; None when there is none."""
        if self.rows is None:
            return None
        kind, is_part, part_id = key.partition("/")
        held = [row for row in self.rows.parts.get(kind, ()) if row["id"] == part_id] if is_part else [self.rows.root]
        return (held[0]["origin"], datetime.fromisoformat(held[0]["modified_at"])) if held else None


@lru_cache(maxsize=64)
def _whole(root: EntityType, parts: tuple[EntityType, ...]) -> Aggregate:
    """The aggregate with every column of the model."""

    def fields(entity: EntityType) -> tuple[Field, ...]:
        return tuple(Field(f.name, f.name) for f in entity.fields if not f.part)

    listed = (Part(each.name, each.parent.name, each.name, fields(each)) for each in parts if each.parent)
    return Aggregate("", root.name, fields(root), tuple(listed))


async def read(
    conn: Conn, model: Model, org_id: str, entity_type: str, ids: list[str], *, lock: bool = False
) -> dict[str, Held]:
    """Entities of one root type as they are now, those without a row too; `lock` as in `aggregates.read`."""
    root = model[entity_type]
    aggregate = _whole(root, model.parts_of(entity_type))
    found = await aggregates.read(conn, aggregate, org_id, ids, lock=lock)
    return {
        each: Held(root, each, found.get(each), found[each].document(aggregate) if each in found else {})
        for each in ids
    }


async def write(conn: Conn, model: Model, org_id: str, held: Held, changes: Document, now: datetime) -> bool:
    """Write changes in the caller's transaction; whether there was any: what the rows hold already is none.

    Raises:
        Problem: `entity_deleted`, `field_unknown`, `value_invalid`, `reference_gone`, and `value_refused` where a rule
            of the user's tables says no.
    """
    wanted = {key: value for key, value in changes.items() if not _is_held(held, key, value)}
    if not wanted:
        return False
    if not held.alive:
        raise Problem("entity_deleted", f"{held.id} was deleted here", "Bring the record back first.")
    with _refusals(held.entity_type):
        for key, value in wanted.items():
            await _check(conn, model, org_id, held.entity_type, key, value)
        async with conn.transaction():
            await canon_writes.write(conn, org_id, _rows(model, held, wanted, now))
    return True


async def delete(conn: Conn, org_id: str, held: Held, status: str, now: datetime) -> None:
    """Mark an entity as deleted, in the caller's transaction. Raises Problem (`value_refused`)."""
    if held.alive:
        marks = {"deleted_at": now.isoformat(), "status": status}
        with _refusals(held.entity_type):
            async with conn.transaction():
                rows = [RowWrite(held.entity_type.name, held.id, marks, now, LOCAL, "")]
                await canon_writes.write(conn, org_id, rows)


def narrowed(value: Json, *shown: Json) -> Json:
    """Of a part, only the fields that one of the others has: a system sees no more of it."""
    names = {name for each in shown if isinstance(each, Mapping) for name in each}
    if not isinstance(value, Mapping) or not names:
        return value
    return {name: value[name] for name in value if name in names}


def same(one: Json, other: Json) -> bool:
    """Whether two values of a key are equal; parts are by the fields that the second one has."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(name in one and one[name] == each for name, each in other.items())
    return bool(one == other)


def _is_held(held: Held, key: str, value: Json) -> bool:
    return ("/" in key or key in held.document) and same(held.value(key), value)


@contextlib.contextmanager
def _refusals(entity_type: EntityType) -> Iterator[None]:
    """Say what the database refuses, and quote no value."""
    try:
        yield
    except psycopg.DataError as error:
        raise Problem("value_invalid", "the database cannot hold a value of this kind", "See its type.") from error
    except (psycopg.IntegrityError, psycopg.errors.RaiseException) as error:
        rule = error.diag.constraint_name or error.diag.column_name or "a trigger"
        cause = f"a rule of canon.{error.diag.table_name or entity_type.name} refuses it: {rule}"
        raise Problem("value_refused", cause, "Choose a value that it allows.") from error


def _rows(model: Model, held: Held, wanted: Document, now: datetime) -> Iterator[RowWrite]:
    """The root first, then the parts; who wrote them and when is the trigger's business."""
    if columns := {key: value for key, value in wanted.items() if "/" not in key}:
        yield RowWrite(held.entity_type.name, held.id, columns, now, LOCAL, "")
    for key in sorted(key for key in wanted if "/" in key):
        kind, _, part_id = key.partition("/")
        parent, value = model[kind].parent, wanted[key]
        if value is None:
            yield RowWrite(kind, part_id, {"deleted_at": now.isoformat()}, now, LOCAL, "")
        elif key in held.document:
            yield RowWrite(kind, part_id, dict(value), now, LOCAL, "")
        elif parent is not None:
            made = {**value, parent.name: held.id, "deleted_at": None}
            yield RowWrite(kind, part_id, made, now, LOCAL, "", parent.name, insert=True)


async def _check(conn: Conn, model: Model, org_id: str, root: EntityType, key: str, value: Json) -> None:
    """Raises Problem where the model has no such key, or the value does not suit it."""
    kind, is_part, part_id = key.partition("/")
    if not is_part:
        await _check_field(conn, model, org_id, root, key, value)
        return
    part = model.types.get(kind)
    if part is None or part.parent is None or part.parent.references != root.name:
        raise _unknown(root.name, key)
    if not typeids.is_well_formed(part_id, part.prefix):
        raise Problem("field_unknown", f"{part_id} is no id of a part", f"Such ids look like {part.prefix}_01h….")
    if value is None:
        return
    if not isinstance(value, Mapping) or not value:
        raise Problem("value_invalid", f"a whole {kind} is a JSON object of its fields, or null to remove it")
    for name, each in value.items():
        await _check_field(conn, model, org_id, part, name, each)


async def _check_field(conn: Conn, model: Model, org_id: str, entity: EntityType, name: str, value: Json) -> None:
    try:
        field = entity.field(name)
    except KeyError:
        raise _unknown(entity.name, name) from None
    if field.part:
        raise Problem("field_unknown", f"a {entity.name} cannot be given to another record", "Leave it out.")
    if value is None:
        return
    if not _is_text(value):
        raise Problem("value_invalid", f"{entity.name}.{name}: no JSON that can be kept", "Send such a value.")
    accepted = _ACCEPTED.get(field.sql_type)
    if accepted and (not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted)):
        raise Problem("value_invalid", f"{entity.name}.{name} takes {field.sql_type} or null", "Send such a value.")
    if field.references:
        await _check_reference(conn, model, org_id, field, str(value))


async def _check_reference(conn: Conn, model: Model, org_id: str, field: EntityField, target: str) -> None:
    statement = sql.SQL("select from canon.{} where org_id = %s and id = %s and deleted_at is null")
    table = sql.Identifier(model[field.references].name)
    if not (await conn.execute(statement.format(table), (org_id, target))).rowcount:
        raise Problem("reference_gone", f"there is no {field.references} of the id that {field.name} names")


def _is_text(value: Json) -> bool:
    """Whether a value can be written as JSON: no lone surrogates, no numbers that are none."""
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


def _unknown(entity: str, key: str) -> Problem:
    return Problem("field_unknown", f"the model has no field {key!r} of {entity}", "See the entity's schema.")
