"""What every command needs: the settings, the organisation, the clock, a database connection.

Commands import the pipeline's modules where they use them, so that `--help` needs none.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from streams.queues import By
    from streams.settings import Settings

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5


@dataclass
class Invocation:
    """The global options of this run."""

    home: Path | None = None
    org: str | None = None
    as_json: bool = False


current = Invocation()
"""Also read when a command fails, to show the problem the way that was asked for."""


def _note_json(value: bool) -> bool:
    current.as_json = value
    return value


Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.", callback=_note_json)]
Name = Annotated[str, typer.Argument(help="Name of the connection, as in `syncline connections list`.")]


def settings() -> Settings:
    """The settings of this run."""
    from streams.settings import load

    return load(current.home.expanduser().absolute() if current.home else None)


def org(loaded: Settings) -> str:
    """The organisation this command acts for."""
    return current.org or loaded.org_id


def now() -> datetime:
    """The time, read here and handed on."""
    from streams import clock

    return clock.now()


def actor() -> str:
    """Who acts, for the audit."""
    import getpass

    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a user without a name, as in some containers
        return "cli"


def by(loaded: Settings) -> By:
    """Who acts, for which organisation, and when."""
    from streams.queues import By

    return By(org(loaded), actor(), now())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the asynchronous part of a command."""
    import asyncio

    return asyncio.run(work)


@contextlib.asynccontextmanager
async def database(loaded: Settings, role: str = "app") -> AsyncIterator[AsyncConnection[Any]]:
    """An autocommit connection.

    Raises:
        Problem: `not_configured`, `postgres_unreachable`, `not_migrated`.
    """
    import psycopg

    from schemas.problems import Problem

    dsn = loaded.dsn(role)
    try:
        conn = await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
    except psycopg.OperationalError as failure:
        raise Problem(
            "postgres_unreachable",
            str(failure).strip().replace("\n", " ") or "Postgres does not answer",
            "Start the stack with `syncline up`, then look at `syncline doctor`.",
        ) from failure
    try:
        async with conn:
            yield conn
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as failure:
        raise Problem(
            "not_migrated", "the database has not all tables of this release", "Run `syncline migrate`."
        ) from failure
