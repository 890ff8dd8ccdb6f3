"""Postgres: reachable, migrated, and every setting that capture stands on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg

from connectors.debezium import register
from schemas.model import Model
from schemas.problems import Problem
from streams import capture, slots
from streams.doctor import completeness, subscriptions
from streams.doctor.findings import Check, from_faults, from_problem, ok, red, warn
from streams.rules import capture_health
from streams.settings import Settings
from streams.store import canon, migrate, publication, roles

OLDEST = 180_000
"""Postgres 18: uuidv7() makes the ids."""
CONNECT_TIMEOUT_S = 3
HEARTBEATS_MISSED = 4

Connection = psycopg.Connection[Any]
LOGINS = {"app": roles.APP, "applier": roles.APPLIER, "owner": "", "capture": roles.CAPTURE}
"""DSN -> the role it must log in as; triggers and grants go by it."""


def check(settings: Settings, entities: Model, now: datetime) -> list[Check]:
    """All findings about the database."""
    try:
        conn = psycopg.connect(settings.dsn("app"), autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
    except Problem as problem:
        return [from_problem("postgres", problem)]
    except psycopg.OperationalError as error:
        return [red("postgres", _first_line(error), "Start it: `syncline up` for the embedded stack; then look again.")]
    with conn:
        found = [_version(conn), _logins(settings), *_wal(conn), _migrations(conn, entities)]
        if found[-1].state == "red":
            return [*found, _slot(conn)]
        steps: tuple[Callable[[], Check], ...] = (
            lambda: _tables(conn, entities),
            lambda: _publication(conn, entities),
            lambda: _slot(conn),
            lambda: _heartbeat(conn, settings, entities),
            lambda: _workers(conn),
            lambda: _polls(conn, now),
            *completeness.checks(conn, settings, now),
            *subscriptions.checks(conn),
        )
        return found + [_guarded(step) for step in steps]


def _guarded(step: Callable[[], Check]) -> Check:
    """A check that the database itself refuses is a finding too."""
    try:
        return step()
    except psycopg.Error as error:
        return red("postgres", _first_line(error), "Run `syncline migrate` and look again.")


def _version(conn: Connection) -> Check:
    number = conn.info.server_version
    told = f"Postgres {number // 10_000}.{number % 10_000} answers"
    if number < OLDEST:
        return red("postgres", told, f"Use Postgres {OLDEST // 10_000} or newer.")
    return ok("postgres", told)


def _logins(settings: Settings) -> Check:
    faults = []
    for name, role in LOGINS.items():
        try:
            with psycopg.connect(settings.dsn(name), connect_timeout=CONNECT_TIMEOUT_S) as conn:
                is_now = conn.info.user
        except (psycopg.OperationalError, Problem) as error:
            faults.append(error.cause if isinstance(error, Problem) else f"{name}: {_first_line(error)}")
            continue
        if role and is_now != role:
            faults.append(f"the connection `{name}` logs in as {is_now}, not {role}")
    return from_faults("roles", faults, "every role logs in", "Mend the DSN or the password; roles are told by login.")


def _wal(conn: Connection) -> list[Check]:
    level = _value(conn, "show wal_level")
    limit = _value(conn, "show max_slot_wal_keep_size")
    return [
        ok("wal_level", "logical")
        if level == "logical"
        else red("wal_level", f"is {level}", "Set wal_level = logical in postgresql.conf and restart Postgres."),
        warn(
            "max_slot_wal_keep_size",
            "is unlimited: a stopped connector fills the disk",
            "Set it to what the disk can spare.",
        )
        if limit == "-1"
        else ok("max_slot_wal_keep_size", str(limit)),
    ]


def _migrations(conn: Connection, entities: Model) -> Check:
    try:
        pending = migrate.pending(conn, entities)
    except Problem as problem:
        return from_problem("migrations", problem)
    if not pending:
        return ok("migrations", "database and model are those of this release")
    shown = ", ".join(pending[:3]) + (f" and {len(pending) - 3} more" if len(pending) > 3 else "")
    return red("migrations", f"{len(pending)} pending: {shown}", "Run `syncline migrate`.")


def _tables(conn: Connection, entities: Model) -> Check:
    """Replica identity and triggers; a missing one would show as a pending migration already, so this reads sync."""
    found = {("canon", name): table for name, table in canon.read(conn).items()}
    found |= {("sync", name): table for name, table in canon.read(conn, "sync").items()}
    faults = [
        f"{schema}.{name} has no replica identity on {name}_identity"
        for schema, name in publication.wanted(entities)
        if name != "heartbeat" and not found.get((schema, name), canon.Table()).identity.endswith("_identity")
    ]
    faults += [
        f"{trigger} of canon.{entity.name} is not ENABLE ALWAYS"
        for entity in entities
        for trigger in canon.triggers(entity)
        if found.get(("canon", entity.name), canon.Table()).triggers.get(trigger) != "A"
    ]
    return from_faults("tables", faults, "replica identities and triggers are in place", "Run `syncline migrate`.")


def _publication(conn: Connection, entities: Model) -> Check:
    rows = conn.execute(publication.FOUND, (publication.NAME,)).fetchall()
    return publication_check(publication.published(rows), entities)


def publication_check(found: dict[tuple[str, str], frozenset[str]], entities: Model) -> Check:
    """The publication against the allow list: what is too much would leave Postgres, what is missing would be lost."""
    wanted = {table: frozenset(columns) for table, columns in publication.wanted(entities).items()}
    faults = [f"{'.'.join(table)} is published and must not be" for table in sorted(found.keys() - wanted.keys())]
    faults += [f"{'.'.join(table)} is not published" for table in sorted(wanted.keys() - found.keys())]
    for table in sorted(found.keys() & wanted.keys()):
        faults += [
            f"{'.'.join(table)}.{column} is published and must not be"
            for column in sorted(found[table] - wanted[table])
        ]
        faults += [f"{'.'.join(table)}.{column} is not published" for column in sorted(wanted[table] - found[table])]
    return from_faults(
        "publication", faults, f"{len(wanted)} tables, column lists as wanted", "Run `syncline migrate`."
    )


def _slot(conn: Connection) -> Check:
    return slot_check(capture.read_slot(conn.execute(capture.SLOT, (publication.NAME,)).fetchone()))


def slot_check(slot: capture_health.Slot | None) -> Check:
    """The slot as Postgres has it."""
    name = "replication slot"
    if slot is None or slot.lost:
        return from_problem(name, capture.slot_lost(slot))
    behind = f"{slot.lag_bytes / 2**20:.1f} MiB behind"
    if not slot.safe:
        step = "Start Kafka Connect now, or raise max_slot_wal_keep_size: the slot is lost at the next checkpoint."
        return red(name, f"is {slot.wal_status}, {behind}", step)
    if not slot.active:
        return red(name, f"nobody reads it, {behind}", "Start Kafka Connect, then run `syncline connectors apply`.")
    if slot.filled >= capture_health.HALF:
        return warn(name, f"{behind}, more than half of max_slot_wal_keep_size", "Look why the connector is slow.")
    return ok(name, f"active, {slot.wal_status}, {behind}")


def _heartbeat(conn: Connection, settings: Settings, entities: Model) -> Check:
    every_s = int(capture.connector_config(settings, entities)["heartbeat.interval.ms"]) / 1000
    age_s = _value(conn, "select extract(epoch from now() - at)::float8 from sync.heartbeat where id = 1")
    if age_s is None:
        return red("heartbeat", "the connector has never written one", "Run `syncline connectors apply`.")
    if age_s > every_s * HEARTBEATS_MISSED:
        return red(
            "heartbeat", f"the newest is {age_s:.0f} s old, one is due every {every_s:.0f} s", "See the connector."
        )
    return ok("heartbeat", f"{age_s:.0f} s old; the connector `{register.NAME}` reads and writes")


def _workers(conn: Connection) -> Check:
    query = """select count(*) from pg_locks l join pg_database d on d.oid = l.database
               where d.datname = current_database() and l.locktype = 'advisory' and l.granted
                 and l.objsubid = 2 and l.classid = %s"""
    count = _value(conn, query, slots.LOCK_CLASS)
    if not count:
        return warn("workers", "none is running: changes and events wait", "Run `syncline worker`.")
    return ok("workers", f"{count} running")


POLLS = """
select c.name, p.external_type, p.failures, extract(epoch from %s - p.polled_at)::float8 / i.seconds
from sync.connection c join sync.checkpoint p on p.org_id = c.org_id and p.connection = c.name
cross join lateral (
  select coalesce((c.poll_intervals ->> p.external_type)::float8, c.poll_interval_s) as seconds) i
where c.state = 'active' and c.mode <> 'realtime'
  and (p.failures > 0 or p.polled_at < %s - 3 * i.seconds * interval '1 second')
order by 1, 2
"""


def _polls(conn: Connection, now: datetime) -> Check:
    late = conn.execute(POLLS, (now, now)).fetchall()
    faults = [
        f"{name}/{kind}: " + (f"failed {failures} times in a row" if failures else f"{intervals:.0f} intervals late")
        for name, kind, failures, intervals in late
    ]
    if faults:
        return warn("polls", "; ".join(faults), "See `syncline connections`, which tells the last error.")
    return ok("polls", "none is late")


def _value(conn: Connection, query: str, *arguments: Any) -> Any:
    row = conn.execute(query.encode(), arguments or None).fetchone()
    return row[0] if row else None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
