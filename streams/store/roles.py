"""Who may do what in Postgres. Capture, the applier and the bulk role are told apart by who is logged in, so roles and
their passwords are part of correctness, not only of security.

| role | is for | may |
|---|---|---|
| `syncline_app` | workers, gateway, the user's own programs (members of it) | read and write canon, sync, jobs |
| `syncline_applier` | applying events of other systems | the same; only its writes may carry an origin |
| `syncline_bulk` | imports (SET ROLE) | write canon; its changes are pushed by an explicit resync only |
| `syncline_capture` | Debezium | REPLICATION, BYPASSRLS; select on captured columns, write its heartbeat |

Tombstones are written by a trigger alone: nobody but the owner may insert, change or remove one.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from schemas.entity_types import EntityType
from schemas.problems import Problem
from streams.settings import Settings

APP, APPLIER, BULK, CAPTURE = "syncline_app", "syncline_applier", "syncline_bulk", "syncline_capture"
WRITERS = (APP, APPLIER, BULK)

ATTRIBUTES: Mapping[str, str] = {
    APP: "login",
    APPLIER: "login",
    BULK: "nologin",
    CAPTURE: "login replication bypassrls",
}
"""Role -> attributes it is created with."""

DSN_OF: Mapping[str, str] = {APP: "app", APPLIER: "applier", CAPTURE: "capture"}


def ensure(owner: psycopg.Connection[Any], settings: Settings) -> tuple[str, ...]:
    """Create the roles that are missing, as the administrator; returns their names.

    Raises:
        Problem: `roles_missing` when there are some and no administrator's connection is configured.
    """
    query = "select rolname from pg_roles where rolname = any(%s)"
    there = {name for (name,) in owner.execute(query, (list(ATTRIBUTES),))}
    missing = [role for role in ATTRIBUTES if role not in there]
    if not missing:
        return ()
    if settings.postgres_admin_dsn is None:
        raise Problem(
            "roles_missing",
            f"the database has no role {', '.join(missing)}",
            "Set SYNCLINE_POSTGRES_ADMIN_DSN once, or create them: "
            + "; ".join(f"create role {role} {ATTRIBUTES[role]}" for role in missing),
        )
    with psycopg.connect(settings.dsn("admin"), autocommit=True) as admin:
        for role in missing:
            _create(admin, role, settings)
    return tuple(missing)


def _create(admin: psycopg.Connection[Any], role: str, settings: Settings) -> None:
    statement = sql.SQL("create role {} {}").format(sql.Identifier(role), sql.SQL(ATTRIBUTES[role]))
    if role in DSN_OF:
        login = conninfo_to_dict(settings.dsn(DSN_OF[role]))
        if login.get("user") == role and login.get("password"):
            # Hashed here, so that the password itself is in no statement and no log.
            secret = str(login["password"]).encode()
            hashed = admin.pgconn.encrypt_password(secret, role.encode(), b"scram-sha-256").decode()
            statement = sql.SQL("{} password {}").format(statement, sql.Literal(hashed))
    admin.execute(statement)
    if role == APPLIER:
        # In a deadlock with a user's own SQL it is the applier that notices first, and gives way; see inbound.applier.
        admin.execute(b"alter role syncline_applier set deadlock_timeout = '50ms'")
    if role == BULK:
        # Members take the role on with SET ROLE only: an import is marked on purpose or not at all.
        admin.execute(b"grant syncline_bulk to syncline_app with inherit false, set true")


def grant(owner: psycopg.Connection[Any], entities: Iterable[EntityType], others: Mapping[str, Iterable[str]]) -> None:
    """Give every role what it needs and no more; run by the owner, may be repeated.

    Args:
        entities: the canonical types; capture reads their captured columns only.
        others: captured tables of schema sync -> their captured columns.
    """
    grants = importlib.resources.files("streams.store") / "grants.sql"
    owner.execute(grants.read_bytes())
    tables = {("canon", entity.name): tuple(entity.captured_columns) for entity in entities}
    tables |= {("sync", table): tuple(columns) for table, columns in others.items() if table != "heartbeat"}
    for (schema, table), columns in tables.items():
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        where = sql.Identifier(schema, table)
        owner.execute(sql.SQL("revoke select on {} from syncline_capture").format(where))
        owner.execute(sql.SQL("grant select ({}) on {} to syncline_capture").format(names, where))
