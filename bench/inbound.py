"""The applier alone: Avro events to rows, in batches as the agent takes them, in one process against Postgres.

Prints JSON: events per second that make records, change one field of each, and come once more; beside it, in the same
run, the set-based upsert of the same rows in as many transactions that anybody would write, without ledger, links,
states, parts or decisions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, TypeVar

import orjson
import psycopg
import uvloop

from connectors import registry
from connectors.contract import ExternalRecord, Op
from schemas import events
from schemas import model as models
from schemas.codec import Codec
from streams.inbound import publish
from streams.inbound.applier import Applier
from streams.inbound.incoming import Incoming
from streams.resources import BY_KEY
from streams.settings import Settings
from tests.integration.both_ways import SCHEMA_ID, OneSchema

ORG, SYSTEM, BATCH = "org_bench_inbound", "sim-keyed", 500
AS_THE_WORKER: dict[str, Any] = {"prepare_threshold": 1, "options": BY_KEY}
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
T = TypeVar("T")
UPSERT = """
insert into canon.person (org_id, id, first_name, last_name)
select %(org)s, r.id, r.first_name, r.last_name
from json_to_recordset(%(rows)s::json) as r(id text, first_name text, last_name text)
on conflict (org_id, id) do update set first_name = excluded.first_name, last_name = excluded.last_name"""


def told(records: int, turn: int) -> Iterator[bytes]:
    """The events of one turn, one for each record, as they lie in Kafka."""
    sender = publish.Sender(ORG, "bench", SYSTEM)
    for n in range(records):
        at = START + timedelta(minutes=turn, milliseconds=n)
        emails = [{"address": f"{n}@example.org", "label": None}]
        payload = {"first_name": f"First{n}", "last_name": f"Last{turn}", "emails": emails}
        record = ExternalRecord("people", f"p{n}", Op.UPDATE, at, payload, str(turn + 1))
        yield events.encode(publish.event_of(record, sender, source="webhook", received_at=at), SCHEMA_ID)


def batches(values: Sequence[T]) -> Iterator[list[T]]:
    """In order, BATCH at a time."""
    left = iter(values)
    return iter(lambda: list(islice(left, BATCH)), [])


async def apply(conn: psycopg.AsyncConnection[Any], values: Sequence[bytes]) -> float:
    """Events per second."""
    applier = Applier(models.load(), lambda name: registry.find(name).manifest, lambda: START + timedelta(days=1))
    codec = Codec(OneSchema())
    await codec.learn(values[:1])
    started = time.monotonic()
    for batch in batches(values):
        async with conn.transaction():
            await applier.apply(conn, [Incoming(events.decode(codec, value), raw=value) for value in batch])
    return len(values) / (time.monotonic() - started)


async def upsert(conn: psycopg.AsyncConnection[Any], records: int, turn: int) -> float:
    """Rows per second."""
    rows = [{"id": f"person_{n:026}", "first_name": f"First{n}", "last_name": f"Last{turn}"} for n in range(records)]
    started = time.monotonic()
    for batch in batches(rows):
        async with conn.transaction():
            await conn.execute(UPSERT, {"org": f"{ORG}_bare", "rows": orjson.dumps(batch).decode()})
    return records / (time.monotonic() - started)


async def measure(settings: Settings, records: int) -> dict[str, Any]:
    """All turns, ours and the bare one in turn."""
    async with (
        await psycopg.AsyncConnection.connect(settings.dsn("applier"), autocommit=True, **AS_THE_WORKER) as applier,
        await psycopg.AsyncConnection.connect(settings.dsn("admin"), autocommit=True, **AS_THE_WORKER) as admin,
    ):
        await admin.execute(
            "insert into sync.connection (org_id, name, system, url, gates)"
            " values (%s, 'bench', %s, 'https://bench.example', %s)",
            (ORG, SYSTEM, orjson.dumps({"person": "live"}).decode()),
        )
        result = {"records": records}
        for name, turn in (("create", 0), ("update", 1), ("replay", 1)):
            values = list(told(records, turn))
            ours, bare = await apply(applier, values), await upsert(admin, records, turn)
            result[f"{name}_per_s"], result[f"{name}_bare_per_s"] = round(ours), round(bare)
        found = await admin.execute(
            "select count(*) from canon.person where org_id = %s and last_name = 'Last1'", (ORG,)
        )
        assert await found.fetchone() == (records,)
    return result


def run(settings: Settings, records: int = 10_000) -> dict[str, Any]:
    """All of it."""
    return uvloop.run(measure(settings, records))


if __name__ == "__main__":
    print(json.dumps(run(Settings()), indent=2))
