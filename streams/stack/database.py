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
    "syncline_capture": "REPLICATION BYPASSRLS",
    state.REGISTRY_ROLE: "",
}
BULK_ROLE: Final = "syncline_bulk"


def role_statements(passwords: Mapping[str, str], org_id: str) -> list[str]:
    """The statements a superuser runs once in a new cluster, each on its own, in `postgres`."""
    statements = [f"CREATE ROLE {BULK_ROLE} NOLOGIN"]
    for role, attributes in ATTRIBUTES.items():
        statements.append(f"CREATE ROLE {role} LOGIN {attributes} PASSWORD {_literal(passwords[role])}")
    return [
        *(" ".join(statement.split()) for statement in statements),
        # Who writes in bulk says so by SET ROLE; its members' rights are not inherited by chance.
        f"GRANT {BULK_ROLE} TO syncline_app",
        f"CREATE DATABASE {state.DATABASE} OWNER syncline_owner",
        f"CREATE DATABASE {state.REGISTRY_DATABASE} OWNER {state.REGISTRY_ROLE}",
        f"REVOKE CONNECT ON DATABASE {state.REGISTRY_DATABASE} FROM PUBLIC",
        f"REVOKE CONNECT ON DATABASE {state.DATABASE} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {state.DATABASE} TO syncline_app, syncline_applier, syncline_capture",
        f"ALTER DATABASE {state.DATABASE} SET syncline.org_id = {_literal(org_id)}",
    ]


def prepare(admin_dsn: str, passwords: Mapping[str, str], org_id: str) -> None:
    """Create what is missing; safe to repeat, so a start that broke off in the middle is finished by the next."""
    with psycopg.connect(admin_dsn, dbname="postgres", autocommit=True) as connection:
        # The last statement's effect tells whether all have run.
        done = connection.execute(
            "select 1 from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase"
            " where d.datname = %s and s.setrole = 0",
            [state.DATABASE],
        ).fetchone()
        if done:
            return
        for statement in role_statements(passwords, org_id):
            try:
                connection.execute(statement.encode())
            except (psycopg.errors.DuplicateObject, psycopg.errors.DuplicateDatabase):
                continue


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
