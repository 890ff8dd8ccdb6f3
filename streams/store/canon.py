"""The canonical tables: what the model wants, what the database has, and the SQL that leads from one to the other.

Tables and columns are only ever added. What contradicts the model is refused with a Problem that names both sides,
since the data in it is not ours to convert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from schemas import model
from schemas.entity_types import COMMON_COLUMNS, KEY_KINDS, EntityType
from schemas.problems import Problem

COMMON_CLAUSES: Mapping[str, str] = {
    "org_id": "not null default current_setting('syncline.org_id', true) check (org_id ~ '^[^/]+$')",
    "created_at": "not null default now()",
    "updated_at": "not null default now()",
    "modified_at": "not null default now()",
    "field_times": "not null default '{}'",
    "status": "default 'active'",
    "custom": "not null default '{}'",
    "version": "not null default 1",
    "origin": "not null default 'local'",
    "changed_xid": "not null default pg_current_xact_id()",
    "sync_key": "not null default ''",
}
"""What follows the type of a common column; `id` is made per entity type. The trigger fills what has a dull default."""


EVENT_TRIGGER = "000_event"
"""Of event-like types only. The others come after a user's own; this one before, or a trigger of theirs that edits the
row once more would have its edit logged before the one that it answers."""


@dataclass
class Table:
    """What the database has of one canonical table."""

    columns: dict[str, str] = field(default_factory=dict)
    """Column -> type, as `format_type` spells it."""
    indexes: set[str] = field(default_factory=set)
    triggers: dict[str, str] = field(default_factory=dict)
    """Trigger -> `tgenabled`; A is ALWAYS."""
    constraints: set[str] = field(default_factory=set)
    identity: str = ""
    """Index that is the replica identity."""


def triggers(entity: EntityType) -> dict[str, sql.Composed]:
    """The triggers of a canonical table: name -> CREATE TRIGGER."""
    table = sql.Identifier("canon", entity.name)
    root = sql.Literal(entity.parent.name) if entity.parent else sql.SQL("")
    made = {
        "zzz_stamp": sql.SQL(
            "create trigger zzz_stamp before insert or update on {} for each row execute function canon.stamp({})"
        ).format(table, root),
        "zzz_tombstone": sql.SQL(
            "create trigger zzz_tombstone after delete on {} for each row execute function sync.leave_tombstone()"
        ).format(table),
        "zzz_truncate": sql.SQL(
            "create trigger zzz_truncate before truncate on {}"
            " for each statement execute function canon.refuse_truncate()"
        ).format(table),
    }
    if entity.parent:
        made["zzz_left_root"] = sql.SQL(
            "create trigger zzz_left_root after update on {} for each row"
            " when (old.sync_key is distinct from new.sync_key) execute function sync.note_left_root()"
        ).format(table)
    if entity.every_change:
        made[EVENT_TRIGGER] = sql.SQL(
            "create trigger {} after insert or update or delete on {} for each row execute function sync.record_event()"
        ).format(sql.Identifier(EVENT_TRIGGER), table)
    return made


def log_changes(entity: EntityType, found: Table | None) -> list[sql.Composed]:
    """What begins or ends the log of a table that exists, beside its trigger.

    A log begins with the rows that are there, or nothing would ever bring them to a connection; it is written behind
    the new trigger, whose lock lets no writer in between. One that is no longer kept goes, because it would have gaps.
    """
    if found is None or entity.every_change == (EVENT_TRIGGER in found.triggers):
        return []
    if entity.every_change:
        first = sql.SQL(_FIRST_EVENTS).format(
            entity=sql.Literal(entity.name), table=sql.Identifier("canon", entity.name)
        )
        return [sql.SQL("set local timezone = 'UTC'").format(), first]  # as sync.record_event writes them
    return [
        sql.SQL("drop trigger {} on {}").format(sql.Identifier(EVENT_TRIGGER), sql.Identifier("canon", entity.name)),
        sql.SQL("delete from sync.push_event where entity_type = {}").format(sql.Literal(entity.name)),
    ]


_FIRST_EVENTS = """
insert into sync.push_event (entity_id, org_id, entity_type, sync_key, op, version, origin, modified_at, row)
select t.id, t.org_id, {entity}, t.sync_key, 'create', t.version, t.origin, t.modified_at, to_jsonb(t) from {table} t
where not exists (select from sync.push_event e where e.entity_id = t.id and e.org_id = t.org_id)
order by t.id"""


def indexes(entity: EntityType) -> dict[str, sql.Composed]:
    """The indexes beside the primary key: name -> CREATE INDEX."""
    table = sql.Identifier("canon", entity.name)
    wanted = {
        f"{entity.name}_identity": "create unique index {} on {} (sync_key, org_id, id)",
        f"{entity.name}_changed_xid": "create index {} on {} (changed_xid)",
    }
    made = {name: sql.SQL(text).format(sql.Identifier(name), table) for name, text in wanted.items()}
    if entity.parent:
        name = f"{entity.name}_{entity.parent.name}"
        columns = sql.Identifier(entity.parent.name)
        made[name] = sql.SQL("create index {} on {} (org_id, {})").format(sql.Identifier(name), table, columns)
    for own in entity.fields:
        if own.normalize in KEY_KINDS:
            name = f"{entity.name}_{own.name}_key"
            key = match_key(own.normalize, sql.Identifier(own.name))
            # The key first: it is far more selective than the organisation.
            made[name] = sql.SQL("create index {} on {} (({}), org_id) where {} is not null").format(
                sql.Identifier(name), table, key, key
            )
    return made


def match_key(kind: str, value: sql.Composable) -> sql.Composed:
    """The key that a value is matched by; `kind` is one of KEY_KINDS."""
    return sql.SQL("{}({})").format(sql.Identifier("canon", f"match_{kind}"), value)


def foreign_keys(entity: EntityType) -> dict[str, sql.Composed]:
    """A part goes with its root; plain references are not enforced, since they may arrive in any order."""
    if entity.parent is None:
        return {}
    name = f"{entity.name}_{entity.parent.name}_fkey"
    text = (
        "alter table {} add constraint {} foreign key (org_id, {}) references {} on delete cascade"
        " deferrable initially immediate"
    )
    return {
        name: sql.SQL(text).format(
            sql.Identifier("canon", entity.name),
            sql.Identifier(name),
            sql.Identifier(entity.parent.name),
            sql.Identifier("canon", entity.parent.references),
        )
    }


def create_table(entity: EntityType) -> sql.Composed:
    """CREATE TABLE with the common columns, the entity's own and the primary key."""
    lines: list[sql.Composable] = []
    clause: sql.Composable
    for name, sql_type in COMMON_COLUMNS.items():
        clause = _id_clause(entity) if name == "id" else _trusted(COMMON_CLAUSES.get(name, ""))
        lines.append(sql.SQL("{} {} {}").format(sql.Identifier(name), _trusted(sql_type), clause))
    for own in entity.fields:
        clause = sql.SQL("not null" if own.part else "")
        lines.append(sql.SQL("{} {} {}").format(sql.Identifier(own.name), _trusted(own.sql_type), clause))
    lines.append(sql.SQL("primary key (org_id, id)"))
    return sql.SQL("create table {} ({})").format(sql.Identifier("canon", entity.name), sql.SQL(", ").join(lines))


def _trusted(text: str) -> sql.SQL:
    """A type or clause out of the fixed lists of this module and `schemas.model_checks`, never from outside."""
    return sql.SQL(text)


def _id_clause(entity: EntityType) -> sql.Composed:
    return sql.SQL("not null default canon.typeid({}) check (starts_with(id, {}))").format(
        sql.Literal(entity.prefix), sql.Literal(f"{entity.prefix}_")
    )


def plan(entities: model.Model, found: Mapping[str, Table]) -> list[sql.Composed]:
    """The statements that bring the canonical tables to the model; empty when they are there.

    Raises:
        Problem: `canon_contradiction`, naming table, column and both types.
    """
    return [statement for entity in entities for statement in _plan_one(entity, found.get(entity.name))]


def _plan_one(entity: EntityType, found: Table | None) -> list[sql.Composed]:
    table = sql.Identifier("canon", entity.name)
    statements = [create_table(entity)] if found is None else _missing_columns(entity, found)
    log = log_changes(entity, found)
    found = found or Table()
    statements += [s for name, s in indexes(entity).items() if name not in found.indexes]
    if found.identity != f"{entity.name}_identity":
        statements.append(
            sql.SQL("alter table {} replica identity using index {}").format(
                table, sql.Identifier(f"{entity.name}_identity")
            )
        )
    statements += [s for name, s in foreign_keys(entity).items() if name not in found.constraints]
    for name, statement in triggers(entity).items():
        if name not in found.triggers:
            statements.append(statement)
        if found.triggers.get(name) != "A":
            statements.append(sql.SQL("alter table {} enable always trigger {}").format(table, sql.Identifier(name)))
    return statements + log


def _missing_columns(entity: EntityType, found: Table) -> list[sql.Composed]:
    wanted = {**COMMON_COLUMNS, **{own.name: own.sql_type for own in entity.fields}}
    missing: list[sql.Composed] = []
    for name, sql_type in wanted.items():
        there = found.columns.get(name)
        if there == sql_type:
            continue
        if there is not None:
            raise contradiction(entity.name, name, f"has the type {there}, the model says {sql_type}")
        if name in COMMON_COLUMNS or (entity.parent and entity.parent.name == name):
            raise contradiction(
                entity.name, name, f"is missing in a table that exists; the model says {sql_type} not null"
            )
        missing.append(
            sql.SQL("alter table {} add column {} {}").format(
                sql.Identifier("canon", entity.name),
                sql.Identifier(name),
                _trusted(sql_type),
            )
        )
    return missing


def contradiction(table: str, column: str, what: str) -> Problem:
    """A table that was not made from this model."""
    return Problem(
        "canon_contradiction",
        f"canon.{table}.{column} {what}",
        f"Convert the column yourself, or change `{column}` in {table}.avsc; `syncline migrate` never converts data.",
    )


CATALOG = """
select c.relname,
       (select jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)) from pg_attribute a
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
       (select array_agg(ic.relname::text) from pg_index i join pg_class ic on ic.oid = i.indexrelid
         where i.indrelid = c.oid),
       (select jsonb_object_agg(t.tgname, t.tgenabled) from pg_trigger t
         where t.tgrelid = c.oid and not t.tgisinternal),
       (select array_agg(o.conname::text) from pg_constraint o where o.conrelid = c.oid),
       (select ic.relname from pg_index i join pg_class ic on ic.oid = i.indexrelid
         where i.indrelid = c.oid and i.indisreplident)
from pg_class c
where c.relnamespace = to_regnamespace(%s) and c.relkind in ('r', 'p')
"""


def read(conn: psycopg.Connection[Any], schema: str = "canon") -> dict[str, Table]:
    """The tables of `schema` as they are; empty when the schema does not exist."""
    return {
        name: Table(
            columns=columns or {},
            indexes=set(found_indexes or ()),
            triggers=found_triggers or {},
            constraints=set(constraints or ()),
            identity=identity or "",
        )
        for name, columns, found_indexes, found_triggers, constraints, identity in conn.execute(CATALOG, (schema,))
    }
