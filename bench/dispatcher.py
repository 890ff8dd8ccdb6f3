"""The dispatcher alone: wishes in Postgres to requests at an endpoint, one write per request, many in flight.

Prints JSON: requests per second with 64 in flight, against an endpoint that answers at once and one that takes 20 ms;
and beside it, in the same run, the same HTTP client sending as many prepared bodies without any of our bookkeeping.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import psycopg
import uvloop
from psycopg_pool import AsyncConnectionPool

from connectors import http
from connectors.contract import Delivered, ExternalRecord, Failed, Outcome, Write
from connectors.errors import ConnectorError
from streams.clock import now
from streams.outbound.calls import Calls
from streams.outbound.claims import Claims
from streams.outbound.lanes import Lane, Tools
from streams.outbound.outcomes import Outcomes
from streams.resources import BY_KEY
from streams.rules.breakers import Breaker
from streams.rules.retries import Terms
from streams.settings import Settings
from streams.store import connections
from tests.integration.scripted import MANIFEST, Outbound, Theirs, connect_to

IN_FLIGHT = 64


class OneByOne(Theirs):
    """One request for each write."""

    batch_size = 1

    def __init__(self, web: Any, url: str) -> None:
        super().__init__()
        self._web, self._url = web, url

    def build(self, write: Write) -> bytes:
        return orjson.dumps({"id": write.entity_id, "key": write.key, "payload": write.payload})

    async def send(self, bodies: Sequence[bytes]) -> Sequence[Outcome]:
        try:
            await http.exchange(self._web, "POST", self._url, content=bodies[0])
        except ConnectorError as error:
            return [Failed(error)]
        return [Delivered(orjson.loads(bodies[0])["id"], 200)]


@contextmanager
def endpoint(wait_ms: float) -> Iterator[str]:
    """The URL of an endpoint in a process of its own."""
    command = [sys.executable, "-m", "bench.endpoint", "--wait-ms", str(wait_ms)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = (process.stdout.readline() if process.stdout else "").strip()
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.wait()


async def measure(settings: Settings, url: str, org: str, rows: int) -> dict[str, Any]:
    """Requests per second of the bare client, and of the lane."""
    async with (
        await psycopg.AsyncConnection.connect(settings.dsn("app"), autocommit=True) as conn,
        AsyncConnectionPool(
            settings.dsn("app"),
            min_size=4,
            open=False,
            kwargs={"autocommit": True, "options": BY_KEY, "prepare_threshold": 1},
        ) as pool,
        http.client() as web,
    ):
        theirs = OneByOne(web, url)
        await connect_to(conn, org, guard={"updates": None})
        out = Outbound(conn, org)
        cursor = await conn.execute(
            "insert into canon.person (org_id, first_name, last_name)"
            " select %s, 'First' || n, 'Last' || n from generate_series(1, %s) n returning id", (org, rows),
        )  # fmt: skip
        ids = [row[0] for row in await cursor.fetchall()]
        out.now = now()
        await out.plan(*ids)
        bare = await _bare(theirs, rows)
        lane = await _lane(out, theirs, pool)
        started = time.monotonic()
        lane.start()
        open_ones = "select count(*) from sync.push_intent where org_id = %s and state <> 'DONE'"
        while await out.sql(open_ones, org):  # noqa: ASYNC110  the database tells
            await asyncio.sleep(0.02)
        took = time.monotonic() - started
        await lane.stop()
    told = {"rows": rows, "bare_client_per_s": round(bare), "dispatcher_per_s": round(rows / took)}
    return told | {"ratio": round(rows / took / bare, 2)}


async def _bare(theirs: OneByOne, rows: int) -> float:
    body = orjson.dumps({"id": "person_x", "payload": {"firstName": "First", "lastName": "Last"}})
    left = iter(range(rows))

    async def sender() -> None:
        for _ in left:
            await theirs.send([body])

    started = time.monotonic()
    await asyncio.gather(*(sender() for _ in range(IN_FLIGHT)))
    return rows / (time.monotonic() - started)


async def _lane(out: Outbound, theirs: OneByOne, pool: AsyncConnectionPool) -> Lane:
    connection, breaker = await connections.load_connection(out.conn, out.org, out.name), Breaker()

    async def refresh(record: ExternalRecord) -> None:
        raise AssertionError(record)

    tools = Tools(
        client=theirs,
        claims=Claims(connection, MANIFEST, 0),
        outcomes=Outcomes(connection),
        calls=Calls(theirs, Terms("durable", MANIFEST, lambda: 0.5), breaker, refresh=refresh, now=now),
        breaker=breaker,
        pool=pool,
        concurrency=IN_FLIGHT,
        slot=0,
        now=now,
    )
    return Lane(connection, tools)


def run(settings: Settings, rows: int = 5_000) -> dict[str, Any]:
    """Both endpoints."""
    told = {}
    for wait_ms in (0, 20):
        with endpoint(wait_ms) as url:
            told[f"endpoint_{wait_ms}_ms"] = uvloop.run(measure(settings, url, f"org_bench_{wait_ms}", rows))
    return told


if __name__ == "__main__":
    print(json.dumps(run(Settings()), indent=2))
