"""Records that flow both ways, without loops: `scripted.Outbound` and the applier on one connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from connectors.contract import ExternalRecord, Manifest, Op
from schemas import events
from schemas import model as models
from schemas.codec import Codec
from schemas.events import InboundEvent
from streams.inbound import publish
from streams.inbound.applier import Applied, Applier
from streams.inbound.incoming import Incoming
from streams.inbound.waiting import Waiting
from streams.settings import Settings
from tests.integration.scripted import MANIFEST, Outbound, outbound_of

MODEL = models.load()
SCHEMA_ID = 7


class OneSchema:
    """A registry that knows the inbound event only."""

    async def schema(self, _: int) -> dict[str, Any]:
        return events.schema("inbound_event")


class BothWays:
    """`out` pushes, `hear` applies what they tell; both read `out.now`."""

    def __init__(self, out: Outbound, database: Settings, applier: psycopg.AsyncConnection) -> None:
        self.out, self._database, self._conn = out, database, applier
        self.kind = out.manifest.for_root("person").external_type  # type: ignore[union-attr]
        self.applier = Applier(MODEL, lambda _: out.manifest, lambda: out.now)

    def event(self, external_id: str, payload: dict[str, Any] | None, at: datetime, **more: Any) -> InboundEvent:
        given = {"op": Op.DELETE if payload is None else Op.UPDATE, "payload": payload or {}}
        received_at = more.pop("received_at", self.out.now)
        source = more.pop("source", "webhook")
        record = ExternalRecord(more.pop("kind", self.kind), external_id, occurred_at=at, **given | more)
        sender = publish.Sender(self.out.org, self.out.name, self.out.manifest.name)
        return publish.event_of(record, sender, source=source, received_at=received_at)

    async def hear(self, *facts: InboundEvent) -> Applied:
        found = [Incoming(each, position=None, raw=events.encode(each, SCHEMA_ID)) for each in facts]
        async with self._conn.transaction():
            return await self.applier.apply(self._conn, found)

    async def look_again(self) -> int:
        """Apply what waited, as far as it may."""
        async with AsyncConnectionPool(
            self._database.dsn("applier"), open=False, min_size=1, max_size=1, kwargs={"autocommit": True}
        ) as pool:
            return await Waiting(pool, Codec(OneSchema()), self.applier.apply, now=lambda: self.out.now).release()

    async def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        async with self.out.conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement, values)
            return await cursor.fetchall() if cursor.description else []

    async def people(self) -> list[dict[str, Any]]:
        return await self.rows("select * from canon.person where org_id = %s order by first_name, id", self.out.org)

    async def ledger(self) -> list[tuple[str, str]]:
        found = await self.rows(
            "select decision, reason from sync.applied_event where org_id = %s order by occurred_at, received_at",
            self.out.org,
        )
        return [(row["decision"], row["reason"]) for row in found]


@asynccontextmanager
async def both_ways(
    database: Settings, org: str, *, manifest: Manifest = MANIFEST, **over: object
) -> AsyncIterator[BothWays]:
    """An organisation with one live connection, `over` as in `scripted.connect_to`."""
    async with (
        outbound_of(database, org, manifest=manifest, **over) as out,
        await psycopg.AsyncConnection.connect(database.dsn("applier"), autocommit=True) as applier,
    ):
        yield BothWays(out, database, applier)
