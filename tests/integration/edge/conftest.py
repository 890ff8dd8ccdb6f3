"""Workers as processes, topics and a scratch database for tests of the Kafka edge."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from psycopg.conninfo import make_conninfo

from streams import progress

sys.path.insert(0, str(Path(__file__).parent))  # `links` is shared with the program

PARTITIONS = 6
PROGRAM = Path(__file__).with_name("program.py")


class Process:
    """One worker process."""

    def __init__(self, asked: dict[str, Any], log: Path) -> None:
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen([sys.executable, str(PROGRAM), json.dumps(asked)], stdout=out, stderr=out)

    def said(self, word: str) -> bool:
        return word in self.log.read_text()

    def wait_for(self, word: str, timeout_s: float = 60) -> None:
        until(lambda: self.said(word) or self.process.poll() is not None, timeout_s)
        assert self.said(word), self.log.read_text()[-3000:]

    def end(self, timeout_s: float = 60) -> int:
        return self.process.wait(timeout_s)


def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


class Edge:
    """A broker, a scratch database and topics of this test's own."""

    def __init__(self, bootstrap: str, dsn: str, home: Path) -> None:
        self.bootstrap, self.dsn, self.home = bootstrap, dsn, home
        self.tag = f"edge{time.monotonic_ns()}"
        self.db = psycopg.connect(dsn, autocommit=True)
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        self.processes: list[Process] = []

    def topic(self, name: str, partitions: int = PARTITIONS) -> str:
        full = f"{self.tag}.{name}"  # like `cdc.sync.external_link` where the name has a dot
        for made in self.admin.create_topics([NewTopic(full, partitions, 1)]).values():
            made.result(20)
        return full

    def worker(self, *topics: str, home: Path | None = None, **asked: Any) -> Process:
        asked = {
            "home": str(home or self.home), "bootstrap": self.bootstrap, "dsn": self.dsn, "prefix": self.tag,
            "topics": topics, "partitions": PARTITIONS, **asked,
        }  # fmt: skip
        process = Process(asked, self.home / f"worker-{len(self.processes)}.log")
        self.processes.append(process)
        return process

    def producer(self, **settings: Any) -> Producer:
        settings = {"bootstrap.servers": self.bootstrap, "linger.ms": 2, "partitioner": "murmur2_random", **settings}
        return Producer(settings)

    def produce(self, topic: str, count: int, partition: int = -1) -> None:
        producer = self.producer()
        for n in range(count):
            producer.produce(topic, b"v", f"k{n}".encode(), partition)
        assert producer.flush(30) == 0

    def seen(self) -> tuple[int, int]:
        """Different records seen, and records seen in all."""
        row = self.db.execute("select count(distinct (topic, partition, position)), count(*) from seen").fetchone()
        assert row is not None
        return row[0], row[1]

    until = staticmethod(until)

    def close(self) -> None:
        for process in self.processes:
            if process.process.poll() is None:
                process.process.kill()
                process.end()
        self.db.close()
        if mine := [name for name in self.admin.list_topics(timeout=10).topics if name.startswith(self.tag)]:
            for answer in self.admin.delete_topics(mine).values():
                answer.result(20)


@pytest.fixture(scope="module")
def scratch(stack) -> Iterator[tuple[str, str]]:
    """A broker and the DSN of a database that holds nothing but what these tests need."""
    settings = stack.info()
    name = f"edge_{time.monotonic_ns()}"
    with psycopg.connect(settings.dsn("admin"), autocommit=True) as admin:
        admin.execute(f"create database {name}")
        dsn = make_conninfo(settings.dsn("admin"), dbname=name)
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute("create schema sync")
            db.execute(progress.TABLE)
            db.execute("create table seen (topic text, partition int, position bigint, key text)")
            db.execute("create table planned (sync_key text)")
        yield settings.kafka_bootstrap, dsn
        admin.execute(f"drop database {name} with (force)")


@pytest.fixture
def edge(scratch, tmp_path) -> Iterator[Edge]:
    made = Edge(*scratch, tmp_path)
    made.db.execute("truncate seen, planned, sync.progress")
    yield made
    made.close()
