"""Records per second through a Faust agent: our chunk transport against stock `take(1000)`, same broker, same run.

    python bench/faust_edge.py --bootstrap HOST:PORT [--records 190000]

Makes a topic, fills it, and lets each side read it whole in a process of its own, three times in turn; prints medians
and their ratio. Handlers only count: this measures the edge, not decoding or Postgres.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faust
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streams import app as edge
from streams.settings import Settings

RECORD_BYTES = 230
PARTITIONS = 4


def fill(bootstrap: str, topic: str, records: int) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        made.result(20)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "queue.buffering.max.messages": 10**6})
    for n in range(records):
        producer.produce(topic, os.urandom(RECORD_BYTES - 20), b"org_main/person_%06d" % n)
        if not n % 10_000:
            producer.poll(0)
    producer.flush(60)


class Meter:
    """Counts records; the clock starts after the first batch, which is not counted in the rate."""

    def __init__(self, records: int) -> None:
        self.left, self.counted, self.began = records, 0, 0.0

    def saw(self, records: int) -> None:
        if self.began:
            self.counted += records
        else:
            self.began = time.monotonic()
        self.left -= records
        if self.left <= 0:
            print(f"{self.counted / (time.monotonic() - self.began):.0f}", flush=True)
            os._exit(0)


def stock(bootstrap: str, topic: str, records: int, group: str) -> None:
    app = faust.App(
        group, broker=f"kafka://{bootstrap}", value_serializer="raw", key_serializer="raw", web_enabled=False,
        topic_disable_leader=True, autodiscover=False, origin="bench", datadir=tempfile.mkdtemp(),
    )  # fmt: skip
    meter = Meter(records)

    async def agent(stream):
        async for values in stream.take(1000, within=0.1):
            meter.saw(sum(value is not None for value in values))

    app.agent(app.topic(topic, key_type=bytes, value_type=bytes), name="bench")(agent)
    run(app)


def chunks(bootstrap: str, topic: str, records: int, group: str) -> None:
    settings = Settings(home=Path(tempfile.mkdtemp()), kafka_bootstrap=bootstrap, kafka_partitions=PARTITIONS)
    app = edge.create(settings, group="bench", slot=0, topics=[topic], prefix=group)
    meter = Meter(records)

    async def handler(waiting):
        meter.saw(sum(record.value is not None for chunk in waiting for record in chunk.records))

    edge.attach(app, "bench.count", [topic], handler, stored=False)
    run(app)


def run(app) -> None:
    async def main() -> None:
        await app.start()
        await asyncio.sleep(600)

    asyncio.run(main())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--bootstrap", required=True)
    arguments.add_argument("--records", type=int, default=190_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--side", choices=["stock", "chunks"])
    arguments.add_argument("--topic", default=f"bench.edge.{time.monotonic_ns()}")
    arguments.add_argument("--group", default="bench")
    asked = arguments.parse_args()
    if asked.side:
        {"stock": stock, "chunks": chunks}[asked.side](asked.bootstrap, asked.topic, asked.records, asked.group)
        return
    fill(asked.bootstrap, asked.topic, asked.records)
    figures: dict[str, list[float]] = {"stock": [], "chunks": []}
    for n in range(asked.rounds):
        for side, found in figures.items():
            command = [sys.executable, __file__, "--bootstrap", asked.bootstrap, "--records", str(asked.records)]
            command += ["--side", side, "--topic", asked.topic, "--group", f"{asked.topic}.{side}.{n}"]
            told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            found.append(float(told.stdout.split()[-1]))
            print(f"{side:8} {found[-1]:>10,.0f} records/s", flush=True)
    medians = {side: statistics.median(found) for side, found in figures.items()}
    print(f"medians: stock take(1000) {medians['stock']:,.0f}/s, chunks {medians['chunks']:,.0f}/s, "
          f"ratio {medians['chunks'] / medians['stock']:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
