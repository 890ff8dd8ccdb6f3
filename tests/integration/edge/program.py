"""A worker process for tests of the Kafka edge: stores every record it gets, with its positions, in one transaction.

`python program.py JSON` with home, bootstrap, dsn, prefix, topics, partitions and, if wanted, `handler`: `store`
(default), `fail`, `hang` or `links`; and `service`: `ends`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import psycopg

from streams import progress, topics, watchdog, worker
from streams.agents import AgentSpec
from streams.chunks import Chunk
from streams.settings import Settings

ASKED: dict[str, Any] = json.loads(sys.argv[1])
CONNECTION: list[psycopg.AsyncConnection[Any]] = []


async def connection() -> psycopg.AsyncConnection[Any]:
    if not CONNECTION or CONNECTION[0].closed:
        CONNECTION[:] = [await psycopg.AsyncConnection.connect(ASKED["dsn"])]
    return CONNECTION[0]


async def store(chunks: list[Chunk]) -> None:
    conn = await connection()
    async with conn.transaction():
        cursor = conn.cursor()
        async with cursor.copy("copy seen from stdin") as copy:
            for chunk in chunks:
                for record in chunk.records:
                    await copy.write_row((chunk.topic, chunk.partition, record.offset, (record.key or b"").decode()))
        await progress.advance(cursor, "edge.store", chunks)


async def fail(chunks: list[Chunk]) -> None:
    raise ValueError(chunks[0].topic)


async def hang(chunks: list[Chunk]) -> None:
    await asyncio.sleep(3600)


def links_spec() -> AgentSpec:
    from links import ENVELOPE  # beside this file

    from schemas.codec import Codec
    from streams.outbound.links import Links

    class Fixed:
        async def schema(self, _: int) -> dict[str, Any]:
            return ENVELOPE

    async def plan(sync_keys: Any) -> None:
        conn = await connection()
        async with conn.transaction():
            for key in sync_keys:
                await conn.execute("insert into planned values (%s)", (key,))

    async def bury(*_: Any) -> None:
        raise AssertionError

    made = Links(Codec(Fixed()), plan=plan, bury=bury, partitions=ASKED["partitions"])
    TELL.append(Tell(made.known))
    return made.spec()


class Tell:
    """Writes what the table knows about a fixed set of roots, again and again."""

    name = "tell"

    def __init__(self, known: Any) -> None:
        self.known = known

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0.3)
            told = {key: sorted(self.known(key)) for key in ASKED["roots"]}
            where = Path(ASKED["home"]) / "known.json"
            where.with_suffix(".new").write_text(json.dumps(told))
            where.with_suffix(".new").rename(where)

    async def stop(self) -> None: ...


class Ends:
    """A service that gives up."""

    name = "ends"

    async def run(self) -> None:
        await asyncio.sleep(0.1)

    async def stop(self) -> None: ...


TELL: list[Tell] = []


def main() -> None:
    settings = Settings(
        home=Path(ASKED["home"]),
        kafka_bootstrap=ASKED["bootstrap"],
        kafka_partitions=ASKED["partitions"],
        postgres_app_dsn=ASKED["dsn"],
    )
    wanted = ASKED.get("handler", "store")
    if wanted == "hang":
        watchdog.STALL_S, watchdog.LOOK_EVERY_S = 3.0, 0.5
        watchdog.Watchdog.run.__kwdefaults__ = {"stall_s": 3.0, "every_s": 0.5}
    if wanted == "links":
        topics.LINKS = ASKED["topics"][0]
        spec = links_spec()
    else:
        handler = {"store": store, "fail": fail, "hang": hang}[wanted]
        spec = AgentSpec("edge.store", tuple(ASKED["topics"]), handler)
    services = [Ends()] if ASKED.get("service") == "ends" else TELL
    worker.main(settings, roles=["test"], agents=[spec], services=services, prefix=ASKED["prefix"])


if __name__ == "__main__":
    main()
