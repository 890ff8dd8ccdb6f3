"""`syncline migrate`: brings a database to this release and this model. Run it as often as you like.

Order: roles, SQL migrations, the job queue's schema, canonical tables, the planner's first beliefs, grants, the default
organisation, publication, replication slot. Everything but roles and slot is done by the owner; workers and the applier
own nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from schemas import model
from schemas.problems import Problem
from streams.settings import Settings
from streams.store import canon, jobs_schema, migration_files, publication, roles, statistics

LOCK = 7_310_051_954_881
"""Key of the advisory lock that lets one migrator in at a time; any number nobody else uses."""

LOCK_WAIT_S = 60
DDL_WAIT_S = 5
"""A statement that waits longer for its table would hold up everybody behind it; better to fail and try again."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of `migrate` changed; all empty when there was nothing to do."""

    migrations: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    """DDL run for canonical tables."""
    roles: tuple[str, ...] = ()
    """Roles created."""
    publication: bool = False
    slot: bool = False

    @property
    def changed(self) -> bool:
        """Whether anything was done."""
        return bool(self.migrations or self.statements or self.roles or self.publication or self.slot)


def model_of(settings: Settings) -> model.Model:
    """The shipped entity types and those in HOME/model."""
    own = settings.home / "model"
    return model.load(own if settings.home.is_absolute() and own.is_dir() else None)


def migrate(settings: Settings, *, post: bool = True, entities: model.Model | None = None) -> Report:
    """Bring the database to this release.

    Args:
        settings: needs the owner's and the capture role's DSN; the administrator's too while roles are missing.
        post: also run what is meant for after the old code is gone.
        entities: the model; read from the package and HOME/model when not given.

    Raises:
        Problem: of the codes `model_invalid`, `canon_contradiction`, `migration_*`, `roles_missing`, `slot_failed` …
    """
    entities = entities or model_of(settings)
    with _owner(settings) as owner:
        created = roles.ensure(owner, settings)
        owner.execute(migration_files.HISTORY)
        ran = migration_files.history(owner)
        todo = migration_files.pending(migration_files.shipped(), ran, post=post)
        for migration in todo:
            migration_files.apply(owner, migration)
        jobs = jobs_schema.ensure(owner, ran, post=post)
        statements = _tables(owner, entities)
        statistics.expect(owner)
        with owner.transaction():
            roles.grant(owner, entities, publication.PIPELINE_COLUMNS)
        _default_organisation(owner, settings)
        altered = publication.ensure_publication(owner, entities)
    # After the publication is committed: decoding looks it up as of the slot's own start.
    with psycopg.connect(settings.dsn("capture"), autocommit=True) as capture:
        slot = publication.ensure_slot(capture)
    return Report((*(m.name for m in todo), *jobs), statements, created, altered, slot)


def pending(owner: psycopg.Connection[Any], entities: model.Model) -> tuple[str, ...]:
    """What `migrate` would run, without running it: file names and DDL."""
    files = migration_files.pending(migration_files.shipped(), migration_files.history(owner))
    statements = canon.plan(entities, canon.read(owner))
    return (*(m.name for m in files), *(s.as_string(owner) for s in statements))


@contextmanager
def _owner(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    """The owner's connection, holding the migrators' lock; it goes with the session, so a killed one leaves nothing."""
    with psycopg.connect(settings.dsn("owner"), autocommit=True, application_name="syncline migrate") as owner:
        owner.execute(sql.SQL("set lock_timeout = {}").format(sql.Literal(f"{LOCK_WAIT_S}s")))
        try:
            owner.execute("select pg_advisory_lock(%s)", (LOCK,))
        except psycopg.errors.LockNotAvailable as error:
            raise Problem(
                "migration_running",
                f"another `syncline migrate` has been at work for {LOCK_WAIT_S} seconds",
                "Wait for it, or look for it in pg_stat_activity (application_name `syncline migrate`).",
            ) from error
        owner.execute(sql.SQL("set lock_timeout = {}").format(sql.Literal(f"{DDL_WAIT_S}s")))
        owner.execute(b"set client_min_messages = warning")
        yield owner


def _tables(owner: psycopg.Connection[Any], entities: model.Model) -> tuple[str, ...]:
    statements = canon.plan(entities, canon.read(owner))
    try:
        with owner.transaction():
            for statement in statements:
                owner.execute(statement)
    except psycopg.Error as error:
        raise Problem(
            "canon_failed",
            f"the canonical tables could not be brought to the model: {str(error).splitlines()[0]}",
            "Nothing was kept. Mend the cause and run `syncline migrate` again.",
        ) from error
    return tuple(statement.as_string(owner) for statement in statements)


DEFAULT_ORGANISATION = """
select 1 from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
where d.datname = current_database() and s.setrole = 0
  and exists (select 1 from unnest(s.setconfig) line where line like 'syncline.org_id=%')
"""


def _default_organisation(owner: psycopg.Connection[Any], settings: Settings) -> None:
    """Let plain SQL leave org_id out. Set once: a database that has a default keeps it."""
    if owner.execute(DEFAULT_ORGANISATION).fetchone():
        return
    database = sql.Identifier(owner.info.dbname)
    statement = sql.SQL("alter database {} set syncline.org_id = {}").format(database, sql.Literal(settings.org_id))
    try:
        owner.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        # Only a database's owner may; where the tables belong to another role, the administrator does it.
        with psycopg.connect(settings.dsn("admin"), autocommit=True) as admin:
            admin.execute(statement)
