"""One poll: what changed in one external type since its checkpoint, published, and the checkpoint moved.

    checkpoint − overlap → pages → facts that nobody applied yet → inbound.events → checkpoint

`fetched_through` moves when all pages are durable in Kafka, so a failed poll is repeated whole. `applied_through` moves
when their events are applied: a poll leaves a mark with the offsets it reached, and `settle` compares the marks with
the applier's own positions. Reading a record again costs little, and has no effect twice, whatever is left out here:
so once in a while a poll reads all there is.
`streams.inbound.schedule` decides when; this never waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple

import structlog
from prometheus_client import Counter
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from connectors.contract import Client, Manifest, Page
from schemas.events import InboundEvent
from schemas.problems import Problem
from streams.inbound import dead_letters
from streams.inbound.enumeration import Brought, doubt_missing
from streams.inbound.publish import Place, Publisher, Sender, event_of
from streams.rules import clock_errors as clock_rules
from streams.rules import full_readings
from streams.store import clock_errors, fetches, queries
from streams.store.connections import Connection
from streams.topics import INBOUND

APPLIER = "inbound.apply"
CHUNK = 500
"""Facts that are looked up and published together."""

POLLED = Counter("syncline_polls", "Polls by how they ended", ["connection", "external_type", "outcome"])
READ = Counter("syncline_poll_records", "Records read by polls", ["connection", "external_type"])
PUBLISHED = Counter("syncline_poll_published", "Records that polls published", ["connection", "external_type"])

Conn = AsyncConnection[Any]
OpenClient = Callable[[Connection], AbstractAsyncContextManager[Client]]

_SQL = queries("inbound")
_log = structlog.get_logger("inbound.polls")


@dataclass(slots=True)
class Polled:
    """What one poll came to.

    Args:
        date: their clock when they answered the first question; None where they do not tell.
        newest: of their times that were read.
        full: it reads all there is, not what changed since the checkpoint.
        positions: partition -> the offset after the last event published there.
        error: code of the problem that ended it; empty when all pages were read.
        failures: failed polls in a row, this one included.
    """

    read: int = 0
    published: int = 0
    date: datetime | None = None
    newest: datetime | None = None
    full: bool = False
    positions: dict[int, int] = field(default_factory=dict)
    error: str = ""
    failures: int = 0


class Checkpoint(NamedTuple):
    """How far the polls of a type are; names are those of the columns."""

    fetched_through: datetime | None
    failures: int
    read_in_full_at: datetime | None


class Poller:
    """Polls. Stateless but for its collaborators.

    Args:
        pool: of the role `app`, in autocommit.
        open_client: the client of a connection, as an async context manager.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool,
        publisher: Publisher,
        manifest: Callable[[str], Manifest],
        open_client: OpenClient,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._pool = pool
        self._publisher = publisher
        self._manifest = manifest
        self._open_client = open_client
        self._now = now

    async def poll(self, connection: Connection, external_type: str) -> Polled:
        """Read what changed. Never raises for what a neighbour or a record did: the checkpoint tells.

        Raises:
            psycopg.OperationalError: the database is down, and the checkpoint cannot even be read.
        """
        started = self._now()
        scope = {"org": connection.org_id, "connection": connection.name, "type": external_type}
        async with self._pool.connection() as conn:
            row = await (await conn.execute(_SQL["checkpoint"], scope)).fetchone()
        known = Checkpoint(*row) if row else Checkpoint(None, 0, None)
        polled, failures = Polled(), known.failures
        try:
            since = await self._since(connection, external_type, known, started)
            polled.full = since is None
            await self._read(connection, external_type, since, started, polled)
        except Problem as problem:
            polled.error, polled.failures = problem.code, failures + 1
        except Exception as error:  # noqa: BLE001 - whatever an adapter does, the next poll begins afresh
            _log.exception("poll_failed", connection=connection.name, type=external_type, error=type(error).__name__)
            polled.error, polled.failures = type(error).__name__, failures + 1
        await self._save(scope, started, polled)
        outcome = polled.error or "done"
        POLLED.labels(connection.name, external_type, outcome).inc()
        if polled.error or polled.published or polled.full:
            _log.info(
                "polled", connection=connection.name, type=external_type, outcome=outcome, full=polled.full,
                read=polled.read, published=polled.published,
            )  # fmt: skip
        return polled

    async def _since(
        self, connection: Connection, external_type: str, known: Checkpoint, now: datetime
    ) -> datetime | None:
        """Where to begin; None to read all there is."""
        last, every = known.read_in_full_at, timedelta(seconds=connection.full_read_every_s)
        share = full_readings.jitter(connection.org_id, connection.name, external_type, last)
        if known.fetched_through is None or full_readings.due(now, last, every, share, failures=known.failures):
            return None
        async with self._pool.connection() as conn:
            error = await clock_errors.load(conn, connection.org_id, connection.name)
        return known.fetched_through - clock_rules.overlap(self._manifest(connection.system).poll_overlap, error)

    async def _read(
        self, connection: Connection, external_type: str, since: datetime | None, began: datetime, polled: Polled
    ) -> None:
        manifest, first, brought = self._manifest(connection.system), True, Brought()
        async with self._open_client(connection) as client:
            async for page in client.pages(external_type, since):
                if first:
                    polled.date, first = page.date, False
                await self._take(connection, external_type, page, polled)
                whole = {record.external_id for record in page.records if record.complete}
                if since is None:
                    brought.add(record.external_id for record in page.records)
                async with self._pool.connection() as conn:
                    await fetches.brought(conn, connection, external_type, whole, began)
                if manifest.polls_in_order and _is_later(page, polled.date):
                    break  # what happens while we read is the next poll's: a busy system has no last page
        if since is None:
            await self._doubt_missing(connection, external_type, brought, began)

    async def _doubt_missing(
        self, connection: Connection, external_type: str, brought: Brought, began: datetime
    ) -> None:
        async with self._pool.connection() as conn:
            count = await doubt_missing(conn, connection, external_type, brought, began=began, now=self._now())
        if count:
            _log.warning("records_missing", connection=connection.name, type=external_type, count=count)

    async def _take(self, connection: Connection, external_type: str, page: Page, polled: Polled) -> None:
        polled.read += len(page.records)
        READ.labels(connection.name, external_type).inc(len(page.records))
        sender, now = Sender(connection.org_id, connection.name, connection.system), self._now()
        facts = [event_of(record, sender, source="poll", received_at=now) for record in page.records]
        await self._bury(connection, external_type, page)
        for start in range(0, len(facts), CHUNK):
            new = await self._unseen(facts[start : start + CHUNK])
            places = await self._publisher.publish(new)
            _reach(polled.positions, places)
            polled.published += len(new)
            PUBLISHED.labels(connection.name, external_type).inc(len(new))
        if page.through is not None:
            polled.newest = max(page.through, polled.newest or page.through)

    async def _unseen(self, facts: Sequence[InboundEvent]) -> list[InboundEvent]:
        """Those that nobody applied yet. Only spares work: the applier looks again."""
        async with self._pool.connection() as conn:
            ids = [fact.event_id for fact in facts]
            cursor = await conn.execute(_SQL["seen"], {"ids": ids, "redriven": [], "unstage": False})
            seen = {bytes(event_id) async for (event_id,) in cursor}
        return [fact for fact in facts if fact.event_id not in seen]

    async def _bury(self, connection: Connection, external_type: str, page: Page) -> None:
        """Items that are no record; the same item is kept once, however often it is read."""
        place = f"{connection.org_id}/{connection.name}/{external_type}"
        letters = [
            dead_letters.of_item(body, problem, connection.org_id, connection.name, f"{place}/{_name(body)}")
            for body, problem in page.unreadable
        ]
        if letters:
            async with self._pool.connection() as conn:
                await dead_letters.write(conn, letters, self._now())

    async def _save(self, scope: dict[str, str], started: datetime, polled: Polled) -> None:
        through = None if polled.error else clock_rules.read_through(polled.date, polled.newest, started)
        async with self._pool.connection() as conn, conn.transaction():
            if polled.error:
                await conn.execute(_SQL["poll_failed"], {**scope, "error": polled.error, "now": started})
            else:
                await conn.execute(_SQL["fetched"], {**scope, "through": through, "full": polled.full, "now": started})
            if polled.positions:
                positions = Jsonb({str(partition): offset for partition, offset in polled.positions.items()})
                await conn.execute(_SQL["mark"], {**scope, "through": through, "positions": positions})


async def settle(conn: Conn, org_id: str | None = None, connection: str | None = None) -> None:
    """Move `applied_through` as far as the applier has come."""
    values = {"org": org_id, "connection": connection, "consumer": APPLIER, "topic": INBOUND}
    async with conn.transaction():
        await conn.execute(_SQL["settle_marks"], values)


def _is_later(page: Page, began_there: datetime | None) -> bool:
    """Whether a page reaches what happened after the poll began, by their clock, whose `Date` is cut to the second.

    Times in their future tell nothing: there may be any number of them, and they stay there.
    """
    if page.through is None or page.date is None or began_there is None:
        return False
    return began_there + clock_rules.GRAIN < page.through <= page.date + clock_rules.GRAIN


def _reach(positions: dict[int, int], places: Iterable[Place]) -> None:
    for place in places:
        positions[place.partition] = max(positions.get(place.partition, 0), place.offset + 1)


def _name(body: bytes) -> str:
    return sha256(body).hexdigest()[:32]
