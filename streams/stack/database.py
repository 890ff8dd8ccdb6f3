"""Roles and databases of a new Postgres: what migrations expect to find and cannot make themselves.

Schemas, tables, grants, the publication and the slot are made by `syncline migrate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import psycopg

from streams.stack import state

ATTRIBUTES: Final = {
    "syncline_owner": "",
    "syncline_app": "",
    "syncline_applier": "",
    # Without BYPASSRLS a snapshot under row security reads nothing and says nothing.
    "syncline_capture": " REPLICATION BYPASSRLS",
    state.REGISTRY_ROLE: "",
}
BULK_ROLE: Final = "syncline_bulk"


def statements(passwords: Mapping[str, str], org_id: str) -> list[str]:
    """What a superuser runs once in a new cluster, each on its own, connected to `postgres`.

    Args:
        passwords: by role, as plain text or as the server stores them.
        org_id: organisation of rows that name none.
    """
    database, registry = state.DATABASE, state.REGISTRY_DATABASE
    return [
        f"CREATE ROLE {BULK_ROLE} NOLOGIN",
        *(
            f"CREATE ROLE {role} LOGIN{attributes} PASSWORD {_literal(passwords[role])}"
            for role, attributes in ATTRIBUTES.items()
        ),
        # Who writes in bulk says so by SET ROLE: nobody is bulk by chance.
        f"GRANT {BULK_ROLE} TO syncline_app WITH INHERIT FALSE, SET TRUE",
        f"CREATE DATABASE {database} OWNER syncline_owner",
        f"CREATE DATABASE {registry} OWNER {state.REGISTRY_ROLE}",
        f"REVOKE CONNECT ON DATABASE {registry} FROM PUBLIC",
        f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {database} TO syncline_app, syncline_applier, syncline_capture",
        # Last: its effect tells that all have run.
        f"ALTER DATABASE {database} SET syncline.org_id = {_literal(org_id)}",
    ]


def prepare(admin_dsn: str, passwords: Mapping[str, str], org_id: str) -> None:
    """Create what is missing; safe to repeat, so a start that broke off in the middle is finished by the next."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        done = connection.execute(
            "select 1 from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase"
            " where d.datname = %s and s.setrole = 0",
            [state.DATABASE],
        ).fetchone()
        if done:
            return
        # Hashed here, so that no password is in a statement, which the server's log may show.
        hashed = {
            role: connection.pgconn.encrypt_password(passwords[role].encode(), role.encode(), b"scram-sha-256").decode()
            for role in ATTRIBUTES
        }
        for statement in statements(hashed, org_id):
            try:
                connection.execute(statement.encode())
            except (psycopg.errors.DuplicateObject, psycopg.errors.DuplicateDatabase):
                continue


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
