"""What leaves Postgres: the publication with its column lists, and the replication slot.

Both are made here, never by the connector: an automatic publication would hold every table, our own records included,
and a slot made at the first start would begin after changes that nobody would ever miss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from schemas.model import Model
from schemas.problems import Problem

NAME = "syncline"
"""Of the publication and of the slot."""

PIPELINE_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "delivery": (
        "id", "org_id", "connection", "external_type", "entity_type", "entity_id", "sync_key", "external_id",
        "op", "outcome", "status", "reason", "changed", "bytes", "attempt", "idem_key", "seq",
        "committed_at", "planned_at", "claimed_at", "sent_at", "answered_at", "recorded_at",
    ),
    "external_link": (
        "org_id", "id", "connection", "external_type", "external_id", "part",
        "entity_type", "entity_id", "sync_key", "made_by", "created_at", "deleted_at",
    ),
    "heartbeat": ("id", "at"),
    "tombstone": ("org_id", "entity_type", "id", "version", "origin", "sync_key", "deleted_at"),
}  # fmt: skip
"""Captured tables of schema sync and their captured columns. Personal data stays: what people are matched by
(link_metadata), what a write changed (before, delta) and what a system answered (cause)."""


def wanted(entities: Model) -> dict[tuple[str, str], tuple[str, ...]]:
    """Everything that is captured: (schema, table) -> columns. This is the allow list."""
    tables = {("canon", entity.name): entity.captured_columns for entity in entities}
    return tables | {("sync", table): columns for table, columns in PIPELINE_COLUMNS.items()}


FOUND = "select schemaname, tablename, attnames::text[] from pg_publication_tables where pubname = %s"


def published(rows: list[tuple[str, str, list[str]]]) -> dict[tuple[str, str], frozenset[str]]:
    """Rows of `FOUND` as (schema, table) -> columns."""
    return {(schema, table): frozenset(columns) for schema, table, columns in rows}


def ensure_publication(owner: psycopg.Connection[Any], entities: Model) -> bool:
    """Create or alter the publication so that it holds the allow list exactly; True when it had to.

    Raises:
        Problem: `publication_failed`, for example when somebody else owns it.
    """
    target = wanted(entities)
    query = "select puballtables, pubviaroot from pg_publication where pubname = %s"
    exists = owner.execute(query, (NAME,)).fetchone()
    found = published(owner.execute(FOUND, (NAME,)).fetchall())
    if exists == (False, True) and found == {table: frozenset(columns) for table, columns in target.items()}:
        return False
    tables = sql.SQL(", ").join(
        sql.SQL("{} ({})").format(sql.Identifier(*table), sql.SQL(", ").join(map(sql.Identifier, columns)))
        for table, columns in target.items()
    )
    name = sql.Identifier(NAME)
    # through the root: a partitioned table's changes under its own name, whichever partition they are in
    create = sql.SQL("create publication {} for table {} with (publish_via_partition_root = true)")
    through_root = sql.SQL("alter publication {} set (publish_via_partition_root = true)")
    alter = sql.SQL("alter publication {} set table {}")
    try:
        with owner.transaction():
            if exists is None:
                owner.execute(create.format(name, tables))
            else:
                owner.execute(through_root.format(name))
                owner.execute(alter.format(name, tables))
    except psycopg.Error as error:
        raise Problem(
            "publication_failed",
            f"the publication `{NAME}` could not be set: {str(error).splitlines()[0]}",
            "Drop it as its owner (nothing is lost while the slot stays) and run `syncline migrate` again.",
        ) from error
    return True


def ensure_slot(conn: psycopg.Connection[Any]) -> bool:
    """Create the slot if there is none; True when it had to. `conn` is autocommit, its role may REPLICATE.

    A slot that exists is left alone whatever its state: replacing a lost one silently would skip changes.

    Raises:
        Problem: `slot_failed`, for example when wal_level is not logical.
    """
    there = conn.execute("select database from pg_replication_slots where slot_name = %s", (NAME,)).fetchone()
    if there is not None and there[0] == conn.info.dbname:
        return False
    if there is not None:
        raise Problem(
            "slot_failed",
            f"the replication slot `{NAME}` of this server is one of the database `{there[0]}`",
            "Use a Postgres server of its own for each canonical database, or drop the slot where it is not needed.",
        )
    try:
        # name, plugin, temporary, two-phase, failover: the slot follows to a standby where one is kept in step.
        conn.execute("select pg_create_logical_replication_slot(%s, 'pgoutput', false, false, true)", (NAME,))
        conn.execute("select sync.capture_begins()")
    except psycopg.Error as error:
        raise Problem(
            "slot_failed",
            f"the replication slot `{NAME}` could not be made: {str(error).splitlines()[0]}",
            "Postgres needs wal_level = logical and a free one of max_replication_slots; the role needs REPLICATION.",
        ) from error
    return True
