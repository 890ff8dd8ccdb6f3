"""The outbound half without its loops, on a real Postgres, against an external system whose answers a test writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import psycopg

from connectors import registry
from connectors.contract import Delivered, ExternalRecord, Manifest, Outcome, Write
from streams.outbound.calls import Calls
from streams.outbound.claims import Claims
from streams.outbound.outcomes import Outcomes, Result
from streams.outbound.planner import Planner, Touched
from streams.outbound.writes import Claim
from streams.rules.breakers import Breaker
from streams.rules.retries import Terms
from streams.settings import Settings
from streams.store import connections

MANIFEST = registry.find("mock-sync-server").manifest
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
Sent = dict[str, object]
Script = Callable[[Sent], Outcome]


class Theirs:
    """An external system whose answers a test writes; keeps every body it was sent."""

    batch_size = 100

    def __init__(self, answer: Script | None = None) -> None:
        self.answer: Script = answer or (lambda sent: Delivered(str(sent["id"] or sent["ours"]), 200))
        self.found: Callable[[Sent], ExternalRecord | None] = lambda _: None
        self.checked: Callable[[str], Outcome] = lambda token: Delivered(token, 200)
        self.fetched: Callable[[str], ExternalRecord | None] = lambda _: None
        self.bodies: list[bytes] = []
        self.searches: list[bytes] = []

    def build(self, write: Write) -> bytes:
        shown = {"op": write.op, "id": write.external_id, "ours": write.entity_id, "key": write.key}
        more = {"changed": sorted(write.changed), "version": write.version, "payload": dict(write.payload)}
        return orjson.dumps(shown | more)

    async def send(self, bodies: Sequence[bytes]) -> Sequence[Outcome]:
        self.bodies.extend(bodies)
        return [self.answer(orjson.loads(body)) for body in bodies]

    async def find(self, body: bytes) -> ExternalRecord | None:
        self.searches.append(body)
        return self.found(orjson.loads(body))

    async def check(self, token: str) -> Outcome:
        return self.checked(token)

    async def fetch(self, external_type: str, external_id: str) -> ExternalRecord | None:  # noqa: ARG002
        return self.fetched(external_id)

    @property
    def sent(self) -> list[Sent]:
        return [orjson.loads(body) for body in self.bodies]


class Outbound:
    """Plan, then deliver one round at a time. `manifest` may be another one than the mock sync server's."""

    def __init__(
        self, conn: psycopg.AsyncConnection, org: str, name: str = "mirror", manifest: Manifest = MANIFEST
    ) -> None:
        self.conn, self.org, self.name, self.manifest = conn, org, name, manifest
        self.now = NOW
        self.theirs = Theirs()
        self.refreshed: list[ExternalRecord] = []
        self.every_change: Callable[[str], bool] = lambda _: False

    async def insert(self, table: str = "person", **fields: object) -> str:
        given = {"first_name": "Ann", "last_name": "Lee"} if table == "person" else {}
        columns = {"org_id": self.org, **given, **fields}
        marks = ", ".join(["%s"] * len(columns))
        return await self.sql(
            f"insert into canon.{table} ({', '.join(columns)}) values ({marks}) returning id",
            *columns.values(),
        )

    async def sql(self, statement: str, *values: object) -> str:
        cursor = await self.conn.execute(statement, values)
        row = await cursor.fetchone() if cursor.description else None
        return row[0] if row else ""

    async def plan(self, *ids: str, origin: str = "local") -> None:
        roots = [Touched(self.org, i.rpartition("_")[0], i, self.now, {origin}) for i in ids]
        planner = Planner(lambda _: self.manifest, lambda _: ())
        async with self.conn.transaction():
            await planner.plan(self.conn, roots, now=self.now)

    async def connection(self) -> connections.Connection:
        return await connections.load_connection(self.conn, self.org, self.name)

    async def take(self, slot: int = 0, limit: int = 100) -> list[Claim]:
        claims = Claims(await self.connection(), self.manifest, slot, every_change=self.every_change)
        _, taken = await claims.take(self.conn, self.theirs, limit=limit, now=self.now)
        return taken

    async def send(self, taken: Sequence[Claim]) -> list[Result]:
        policy = (await self.connection()).retry_policy
        terms = Terms(policy, self.manifest, lambda: 0.5)
        results = []
        for claim in taken:
            calls = Calls(self.theirs, terms, Breaker(), refresh=self._refresh, now=lambda: self.now)
            results += await calls.make([claim])
        return results

    async def commit(self, results: Sequence[Result]) -> bool:
        return await Outcomes(await self.connection()).commit(self.conn, results, now=self.now)

    async def round(self) -> list[Result]:
        results = await self.send(await self.take())
        await self.commit(results)
        return results

    async def rounds(self, most: int = 10) -> None:
        for _ in range(most):
            if not await self.round():
                return

    async def state(self, entity_id: str) -> tuple[object, ...]:
        cursor = await self.conn.execute(
            "select state, wanted_seq, done_seq, body is null from sync.push_intent"
            " where org_id = %s and entity_id = %s",
            (self.org, entity_id),
        )
        return tuple(await cursor.fetchone() or ())

    async def _refresh(self, record: ExternalRecord) -> None:
        self.refreshed.append(record)


async def connect_to(
    conn: psycopg.AsyncConnection, org: str, name: str = "mirror", manifest: Manifest = MANIFEST, **over: object
) -> None:
    """A live connection; further columns of `sync.connection` by name, JSON ones as dicts."""
    gates = dict.fromkeys((a.root for a in manifest.aggregates), "live")
    columns = {
        "org_id": org,
        "name": name,
        "system": manifest.name,
        "url": "http://127.0.0.1:1/",
        "gates": gates,
        **over,
    }
    values = [orjson.dumps(v).decode() if isinstance(v, dict) else v for v in columns.values()]
    marks = ", ".join(["%s"] * len(columns))
    await conn.execute(f"insert into sync.connection ({', '.join(columns)}) values ({marks})", values)


@asynccontextmanager
async def outbound_of(
    database: Settings, org: str, *, manifest: Manifest = MANIFEST, **over: object
) -> AsyncIterator[Outbound]:
    """An organisation with one connection, `over` as in `connect_to`."""
    async with await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as conn:
        await connect_to(conn, org, manifest=manifest, **over)
        yield Outbound(conn, org, manifest=manifest)


def with_tier(tier: object, **over: object) -> Manifest:
    """The mock sync server's manifest with another create tier."""
    return replace(MANIFEST, create_tier=tier, **over)  # type: ignore[arg-type]
