"""Becomes the psql that comes with the embedded Postgres, connected to a stack's database."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, NoReturn

from psycopg.conninfo import conninfo_to_dict

from streams import settings
from streams.stack import installation

ROLES: Final = ("app", "applier", "owner", "admin", "capture")


def run(loaded: settings.Settings, role: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process; the password goes by the environment, where `ps` does not show it.

    Raises:
        Problem: `not_configured`, `embedded_missing`.
    """
    dsn = conninfo_to_dict(loaded.dsn(role))
    program = str(installation.find_postgres(settings.default_cache()) / "psql")
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    environment = {variable: str(dsn[name]) for name, variable in names.items() if dsn.get(name)}
    os.execve(program, [program, *arguments], {**os.environ, **environment})  # noqa: S606 - no shell is wanted
