"""Plain SQL migrations: which there are, which have run, running the others.

Files are `NNNN_{pre|post}_description.sql`. `pre` may run while the old code still runs; `post` only when it is gone.
A file runs in one transaction together with its line in `sync.migration`, and is never changed once released: its
checksum is kept. Our own runner, because the well-known one keeps its lock in a row that a killed process leaves
behind, splits files with a parser that has to guess where a function's body ends, and keeps no checksums.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from schemas.problems import Problem

FILE_NAME = re.compile(r"(\d{4})_(pre|post)_[a-z0-9_]+\.sql")

HISTORY = b"""
create schema if not exists sync;
create table if not exists sync.migration (
  name       text primary key,
  checksum   text not null,
  applied_at timestamptz not null default now()
);
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file; `phase` is `pre` or `post`."""

    name: str
    phase: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def shipped() -> tuple[Migration, ...]:
    """The migrations of this release, in order."""
    folder = importlib.resources.files("streams.store") / "migrations"
    return tuple(parse(file.name, file.read_text(encoding="utf-8")) for file in _sql_files(folder.iterdir()))


def _sql_files(entries: Iterable[Any]) -> list[Any]:
    return sorted((entry for entry in entries if entry.name.endswith(".sql")), key=lambda entry: str(entry.name))


def parse(name: str, text: str) -> Migration:
    """A migration from its file name and text; Problem `migration_name` when the name does not say when it runs."""
    match = FILE_NAME.fullmatch(name)
    if match is None:
        raise Problem("migration_name", f"`{name}` is no migration's name", "Name it NNNN_pre_… or NNNN_post_….sql.")
    return Migration(name, match.group(2), text)


def history(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """Name -> checksum of every migration that has run here; empty in a new database."""
    if conn.execute("select to_regclass('sync.migration')").fetchone() == (None,):
        return {}
    return dict(conn.execute("select name, checksum from sync.migration order by name").fetchall())


def pending(known: Sequence[Migration], ran: dict[str, str], *, post: bool = True) -> tuple[Migration, ...]:
    """The migrations still to run, in order; without `post`, those that the old code can live with.

    Raises:
        Problem: `migration_changed` when a file differs from what ran.
    """
    for migration in known:
        if ran.get(migration.name, migration.checksum) != migration.checksum:
            raise Problem(
                "migration_changed",
                f"{migration.name} has run here with another text",
                "Restore the file as released and put the change into a new migration.",
            )
    return tuple(m for m in known if m.name not in ran and (post or m.phase == "pre"))


def apply(conn: psycopg.Connection[Any], migration: Migration) -> None:
    """Run one migration and note it, in one transaction.

    Raises:
        Problem: `migration_failed` with the database's own words; nothing of the file remains then.
    """
    try:
        with conn.transaction():
            conn.execute(migration.text.encode())
            note(conn, migration.name, migration.checksum)
    except psycopg.Error as error:
        raise Problem(
            "migration_failed",
            f"{migration.name}: {str(error).strip().splitlines()[0]}",
            "Nothing of it was kept. Mend the cause and run `syncline migrate` again.",
        ) from error


def note(conn: psycopg.Connection[Any], name: str, checksum: str) -> None:
    """Remember that `name` has run."""
    conn.execute("insert into sync.migration (name, checksum) values (%s, %s)", (name, checksum))
