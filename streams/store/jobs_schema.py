"""The job queue's own tables, as its package ships them, in the schema `jobs`.

A new database gets the whole schema of the installed release; later ones the package's own migrations, each once.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from typing import Any

import psycopg
from procrastinate.schema import SchemaManager

from streams.store import migration_files
from streams.store.migration_files import Migration

PREFIX = "jobs/"


def ensure(owner: psycopg.Connection[Any], ran: dict[str, str], *, post: bool = True) -> tuple[str, ...]:
    """Bring the schema `jobs` to the installed release; returns what was run."""
    files = {
        PREFIX + file.name: file.read_text(encoding="utf-8")
        for file in (importlib.resources.files("procrastinate") / "sql" / "migrations").iterdir()
        if file.name.endswith(".sql")
    }
    todo = [name for name in sorted(files) if name not in ran and (post or "_post_" not in name)]
    if not todo:
        return ()
    if not any(name.startswith(PREFIX) for name in ran):
        with owner.transaction():
            owner.execute(b"create schema if not exists jobs")
            owner.execute(b"set local search_path = jobs")
            owner.execute(SchemaManager.get_schema().encode())
            for name in sorted(files):
                migration_files.note(owner, name, hashlib.sha256(files[name].encode()).hexdigest())
        return ("jobs/schema.sql",)
    for name in todo:
        text = f"set local search_path = jobs;\n{files[name]}"
        migration_files.apply(owner, Migration(name, "post" if "_post_" in name else "pre", text))
    return tuple(todo)
