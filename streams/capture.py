"""Capture kept going: publication, slot and connector as they must be, and failed tasks restarted, but not for ever.

`ensure` is what `syncline connectors apply` runs. `watch` runs in the jobs role of the workers; one of them at a time
acts, held by an advisory lock. A slot that Postgres has given up is not healed by a restart, while Connect goes on to
report RUNNING and retries: so the slot's own state is read, and capture is left red for a person to see.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict

from connectors.debezium import register
from connectors.debezium.connect import Connect, Status
from schemas.model import Model
from schemas.problems import Problem
from streams import clock
from streams.settings import Settings
from streams.store import publication, queries
from streams.store.migrate import model_of

log = structlog.get_logger(__name__)

RESTARTS = 5
WINDOW_S = 600.0
"""Restarts of failed tasks allowed within the window; a task that fails more often does not heal by itself."""
CHECK_EVERY_S = 2.0
PATIENCE_S = 5.0
LOCK = 7_310_051_954_882
"""Key of the advisory lock that lets one watcher act."""

SECRETS_FILE = "connect-secrets.properties"
"""File in HOME; where it exists, the worker reads the password from it with its FileConfigProvider, named `file`."""

SLOT = """
select active, wal_status, safe_wal_size, confirmed_flush_lsn::text,
       pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint
from pg_replication_slots where slot_name = %s
"""

DROP_SLOT = """
select pg_drop_replication_slot(slot_name) from pg_replication_slots
where slot_name = %s and database = current_database()
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """A row of pg_replication_slots.

    Args:
        active: a connector is reading it.
        wal_status: reserved, extended, unreserved (about to be lost) or lost.
        safe_wal_size: bytes that may still be written before it is in danger; None when unlimited or lost.
        confirmed: LSN up to which the connector has confirmed.
        lag_bytes: WAL written since then.
    """

    active: bool
    wal_status: str
    safe_wal_size: int | None
    confirmed: str
    lag_bytes: int

    @property
    def safe(self) -> bool:
        """Whether everything not yet captured is still there, and will be."""
        return self.wal_status in ("reserved", "extended")


@dataclass(frozen=True, slots=True)
class Ensured:
    """What `ensure` changed."""

    publication: bool
    slot: bool
    connector: bool


class Budget:
    """How many restarts are left; time is given, in seconds of any steady clock."""

    def __init__(self, restarts: int = RESTARTS, window_s: float = WINDOW_S) -> None:
        self._restarts, self._window_s = restarts, window_s
        self._spent: deque[float] = deque()

    def spend(self, now: float) -> bool:
        """Take one restart; False when the window has none left."""
        while self._spent and now - self._spent[0] >= self._window_s:
            self._spent.popleft()
        if len(self._spent) >= self._restarts:
            return False
        self._spent.append(now)
        return True


def decide(status: Status | None, slot: Slot | None, budget: Budget, now: float) -> str:
    """What the watcher does: `fine`, `restart`, `exhausted` (left red), `slot_lost` (left red) or `absent`."""
    if slot is None or slot.wal_status == "lost":
        return "slot_lost"
    if status is None:
        return "absent"
    if not status.failed:
        return "fine"
    return "restart" if budget.spend(now) else "exhausted"


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
    return Slot(bool(row[0]), str(row[1]), row[2], str(row[3] or ""), int(row[4] or 0)) if row else None


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
    if new_slot:
        await _forget(settings, patience_s)
    config = connector_config(settings, entities)
    published, slot = await asyncio.to_thread(_ensure_database, settings, entities, config)
    changed = await register.apply(settings.connect_url, config, patience_s=patience_s)
    await register.allow_any_change(settings.registry_url, register.topics(publication.wanted(entities)))
    return Ensured(published, slot, changed)


async def _forget(settings: Settings, patience_s: float) -> None:
    """Drop the slot, and the connector's offsets with it: `trust_offset` refuses a slot that is ahead of them."""
    async with Connect(settings.connect_url, patience_s=patience_s) as connect:
        if await connect.config(register.NAME) is not None:
            await connect.forget_offsets(register.NAME)
    async with await psycopg.AsyncConnection.connect(settings.dsn("capture"), autocommit=True) as conn:
        await conn.execute(DROP_SLOT, (publication.NAME,))


def _ensure_database(settings: Settings, entities: Model, config: Mapping[str, str]) -> tuple[bool, bool]:
    with psycopg.connect(settings.dsn("owner"), autocommit=True) as owner:
        published = publication.ensure_publication(owner, entities)
    with psycopg.connect(settings.dsn("capture"), autocommit=True) as capture:
        made = publication.ensure_slot(capture)
        slot = read_slot(capture.execute(SLOT, (publication.NAME,)).fetchone())
        # The connector's own first one comes an interval later; until then doctor would call it dead.
        capture.execute(config["heartbeat.action.query"].encode())
    if slot is not None and slot.wal_status == "lost":
        raise slot_lost(slot)
    return published, made


def slot_lost(slot: Slot | None) -> Problem:
    """Changes between the slot's position and now are gone from the WAL, or soon will be."""
    state = (
        "does not exist" if slot is None else f"is {slot.wal_status} (confirmed up to {slot.confirmed or 'nothing'})"
    )
    return Problem(
        "slot_lost",
        f"the replication slot `{publication.NAME}` {state}",
        "Run `syncline connectors apply --new-slot`: capture begins anew, and the sweep then plans every change that "
        "was not captured.",
    )


async def watch(
    settings: Settings,
    *,
    every_s: float = CHECK_EVERY_S,
    budget: Budget | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Look after the connector until cancelled. Whatever is unreachable is logged and looked at again."""
    budget = budget or Budget()
    growth = Growth()
    told = ""
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(
                settings.dsn("app"), autocommit=True, application_name="syncline capture watch", connect_timeout=5
            ) as conn:
                await _our_turn(conn, every_s, sleep)
                while True:
                    async with Connect(settings.connect_url, patience_s=PATIENCE_S) as connect:
                        found = await look(conn, connect, budget, monotonic(), growth)
                    if found not in (told, "restart"):
                        (log.info if found == "fine" else log.error)("capture", state=found)
                        told = found
                    await sleep(every_s)
        except (psycopg.Error, Problem) as error:
            log.warning("capture_watch_interrupted", cause=type(error).__name__, code=getattr(error, "code", ""))
            await sleep(every_s)


async def _our_turn(
    conn: psycopg.AsyncConnection[Any], every_s: float, sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Wait until no other worker watches. The lock goes with the session, so a killed watcher is replaced."""
    while await (await conn.execute("select 1 where not pg_try_advisory_lock(%s)", (LOCK,))).fetchone():
        await sleep(every_s)


async def look(
    conn: psycopg.AsyncConnection[Any], connect: Connect, budget: Budget, now: float, growth: Growth | None = None
) -> str:
    """One look, told in `sync.capture_state`, and one restart if that is what is to do; returns the decision."""
    slot = read_slot(await (await conn.execute(SLOT, (publication.NAME,))).fetchone())
    try:
        status = await connect.status(register.NAME)
    except Problem as problem:
        await _tell(conn, problem, slot, None)
        raise
    decision = decide(status, slot, budget, now)
    forecast_s = growth.forecast_s(slot, now) if growth and slot else None
    await _tell(conn, problem_of(decision, slot, status), slot, forecast_s)
    if decision == "restart" and status is not None:
        log.warning("capture_restart", part=status.failed[0].name, cause=status.failed[0].cause)
        await connect.restart_failed(register.NAME)
    return decision


class Growth:
    """How fast the room of the slot goes: what is left of it at the pace of the last minute."""

    def __init__(self, over_s: float = 60.0) -> None:
        self._over_s = over_s
        self._seen: deque[tuple[float, int]] = deque()

    def forecast_s(self, slot: Slot, now: float) -> float | None:
        """Seconds until the slot is in danger of being lost; None when it is not in sight."""
        if slot.safe_wal_size is None:
            return None
        self._seen.append((now, slot.safe_wal_size))
        while now - self._seen[0][0] > self._over_s:
            self._seen.popleft()
        then, before = self._seen[0]
        lost = before - slot.safe_wal_size
        return slot.safe_wal_size * (now - then) / lost if lost > 0 and now > then else None


def problem_of(decision: str, slot: Slot | None, status: Status | None) -> Problem | None:
    """What is wrong with capture; None when nothing is."""
    failed = status.failed[0] if status and status.failed else None
    match decision:
        case "fine":
            return None
        case "slot_lost":
            return slot_lost(slot)
        case "absent":
            return Problem("connector_absent", "the connector is not there", "Run `syncline connectors apply`.")
        case _:
            cause = f"{failed.name}: {failed.cause}" if failed else "a task failed"
            return Problem("connector_failed", cause, "See `syncline logs connect`, mend it, `connectors apply`.")


async def _tell(
    conn: psycopg.AsyncConnection[Any], problem: Problem | None, slot: Slot | None, forecast_s: float | None
) -> None:
    told = {
        "state": "red" if problem else "ok",
        "code": problem.code if problem else "ok",
        "cause": problem.cause if problem else "",
        "next_step": problem.next_step if problem else "",
        "lag_bytes": slot.lag_bytes if slot else None,
        "forecast_s": forecast_s,
        "now": clock.now(),
    }
    await conn.execute(queries("sweep")["tell_capture"].encode(), told)
