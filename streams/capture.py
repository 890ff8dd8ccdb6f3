"""Capture as it must be: publication, slot and connector. `ensure` is what `syncline connectors apply` runs.

Whether it stays so, `streams.capture_watch` looks after.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from connectors.debezium import register
from connectors.debezium.connect import Connect
from schemas.model import Model
from schemas.problems import Problem
from streams.rules import capture_health
from streams.rules.capture_health import Slot
from streams.settings import Settings
from streams.store import publication
from streams.store.migrate import model_of

DROP_AGAIN_S = 0.2

SECRETS_FILE = "connect-secrets.properties"
"""File in HOME; where it exists, the worker reads the password from it with its FileConfigProvider, named `file`."""

SLOT = """
select active, wal_status, safe_wal_size, confirmed_flush_lsn::text,
       pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint,
       (select nullif(setting::bigint, -1) * 1048576 from pg_settings where name = 'max_slot_wal_keep_size'),
       coalesce(extract(epoch from statement_timestamp() - inactive_since)::float8, 0), invalidation_reason
from pg_replication_slots where slot_name = %s and database = current_database()
"""

DROP_SLOT = """
select pg_drop_replication_slot(slot_name) from pg_replication_slots
where slot_name = %s and database = current_database()
"""

END_READER = """
select pg_terminate_backend(active_pid) from pg_replication_slots
where slot_name = %s and database = current_database() and active_pid is not null
"""


@dataclass(frozen=True, slots=True)
class Ensured:
    """What `ensure` changed."""

    publication: bool
    slot: bool
    connector: bool


def connector_config(settings: Settings, entities: Model) -> dict[str, str]:
    """The settings the connector must have here."""
    dsn: Mapping[str, Any] = conninfo_to_dict(settings.dsn("capture"))
    secrets = settings.home / SECRETS_FILE
    password = f"${{file:{secrets}:capture_password}}" if secrets.is_file() else str(dsn.get("password", ""))
    source = register.Source(
        host=str(dsn.get("host", "localhost")),
        port=int(dsn.get("port", 5432)),
        database=str(dsn["dbname"]),
        user=str(dsn["user"]),
        password=password,
        registry_url=settings.registry_url,
        sslmode=str(dsn.get("sslmode", "")),
    )
    return register.build(source, publication.wanted(entities))


def read_slot(row: tuple[Any, ...] | None) -> Slot | None:
    """A row of the query `SLOT`; a lost slot has no lag any more, only a loss."""
    if row is None:
        return None
    active, wal_status, safe, confirmed, lag, limit, unread_s, reason = row
    return Slot(
        bool(active), str(wal_status), safe, confirmed or "", int(lag or 0), limit, max(unread_s, 0.0), reason or ""
    )


async def ensure(
    settings: Settings, *, entities: Model | None = None, patience_s: float = 60.0, new_slot: bool = False
) -> Ensured:
    """Publication, slot and connector as they must be; may be repeated. Topics must exist before.

    With `new_slot` capture begins anew at the present end of the WAL, as it must once the slot is lost. What was
    committed in between is never captured: the sweep finds it in the tables.

    Raises:
        Problem: `publication_failed`, `slot_failed`, `slot_lost`, or one of `connectors.debezium.register.apply`.
    """
    entities = entities or model_of(settings)
    config = connector_config(settings, entities)
    if new_slot:
        await _forget(settings, config, patience_s)
    published, slot = await asyncio.to_thread(_ensure_database, settings, entities, config)
    changed = await register.apply(settings.connect_url, config, patience_s=patience_s)
    await register.allow_any_change(settings.registry_url, register.topics(publication.wanted(entities)))
    return Ensured(published, slot, changed)


async def _forget(settings: Settings, config: Mapping[str, str], patience_s: float) -> None:
    """Drop the slot, and the connector's offsets with it: `trust_offset` refuses a slot that is ahead of them.

    Connect keeps the offsets of a connector that was deleted, and forgets them only while there is one.
    """
    async with Connect(settings.connect_url, patience_s=patience_s) as connect:
        if await connect.config(register.NAME) is None:
            await connect.put_config(register.NAME, config)
        await connect.forget_offsets(register.NAME)
    deadline = time.monotonic() + patience_s
    async with await psycopg.AsyncConnection.connect(settings.dsn("capture"), autocommit=True) as conn:
        while True:
            try:
                await conn.execute(DROP_SLOT, (publication.NAME,))
                return
            except psycopg.errors.ObjectInUse as error:
                if time.monotonic() > deadline:
                    raise Problem(
                        "slot_failed",
                        f"the replication slot `{publication.NAME}` is in use by another program",
                        "Stop who reads it (pg_replication_slots.active_pid), then run this again.",
                    ) from error
                # what a connector that was stopped, or killed, has left
                await conn.execute(END_READER, (publication.NAME,))
                await asyncio.sleep(DROP_AGAIN_S)


def _ensure_database(settings: Settings, entities: Model, config: Mapping[str, str]) -> tuple[bool, bool]:
    with psycopg.connect(settings.dsn("owner"), autocommit=True) as owner:
        published = publication.ensure_publication(owner, entities)
    with psycopg.connect(settings.dsn("capture"), autocommit=True) as capture:
        made = publication.ensure_slot(capture)
        slot = read_slot(capture.execute(SLOT, (publication.NAME,)).fetchone())
        # The connector's own first one comes an interval later; until then doctor would call it dead.
        capture.execute(config["heartbeat.action.query"].encode())
    if slot is not None and slot.lost:
        raise slot_lost(slot)
    return published, made


def slot_lost(slot: Slot | None) -> Problem:
    """Changes between the slot's position and now are gone from the WAL."""
    verdict = capture_health.lost(slot)
    return Problem(verdict.code, verdict.cause, verdict.next_step)
