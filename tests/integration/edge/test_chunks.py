"""The chunk transport on a real Kafka with real kills: nothing lost, nothing twice, refusals where it cannot go on."""

from __future__ import annotations

import json
import random
import threading
import time
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from fastavro import parse_schema

from schemas import codec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.mark.covers("F007")
def test_kills_lose_nothing_and_double_nothing(edge) -> None:
    topics, count, random_ = [edge.topic("a"), edge.topic("b")], 30_000, random.Random(7)
    stop = threading.Event()

    def produce() -> None:
        producer = edge.producer()
        for n in range(count):
            producer.produce(random_.choice(topics), b"v", f"k{n}".encode())
            if n % 100 == 0 and not stop.is_set():
                producer.poll(0)
                time.sleep(0.15)
        assert producer.flush(30) == 0

    producing = threading.Thread(target=produce)
    producing.start()
    workers = [edge.worker(*topics), edge.worker(*topics)]
    for n in range(8):
        victim = workers[n % 2]
        victim.wait_for("worker_ready")
        time.sleep(random_.uniform(0.2, 2))
        if n % 4 == 3:
            victim.process.terminate()
            assert victim.end() == 0, victim.log.read_text()[-3000:]
        else:
            victim.process.kill()
            victim.end()
        workers[n % 2] = edge.worker(*topics)
    stop.set()
    producing.join()
    edge.until(lambda: edge.seen()[0] >= count, 60)
    assert edge.seen() == (count, count)
    stored = edge.db.execute("select sum(next_offset) from sync.progress").fetchone()
    assert stored == (count,)


def test_transaction_markers_leave_gaps_that_lose_nothing(edge) -> None:
    topic = edge.topic("tx", 2)
    producer = edge.producer(**{"transactional.id": edge.tag})
    producer.init_transactions(20)
    for batch in range(40):
        producer.begin_transaction()
        for n in range(5):
            producer.produce(topic, b"v", f"{batch}-{n}".encode())
        producer.commit_transaction(20)
    worker = edge.worker(topic)
    worker.wait_for("worker_ready")
    edge.until(lambda: edge.seen()[0] >= 200, 30)
    worker.process.terminate()
    assert worker.end() == 0
    assert edge.seen() == (200, 200)


def test_a_position_before_the_log_is_red(edge) -> None:
    topic = edge.topic("lost", 1)
    edge.produce(topic, 100)
    for answer in edge.admin.delete_records([TopicPartition(topic, 0, 60)]).values():
        answer.result(20)
    edge.db.execute("insert into sync.progress values ('edge.store', %s, 0, 40)", (topic,))
    worker = edge.worker(topic)
    assert worker.end() == 1
    assert worker.said("offset_lost")
    assert edge.seen() == (0, 0)


def test_a_position_behind_the_log_is_red(edge) -> None:
    topic = edge.topic("ahead", 1)
    edge.produce(topic, 100)
    edge.db.execute("insert into sync.progress values ('edge.store', %s, 0, 101)", (topic,))
    worker = edge.worker(topic)
    assert worker.end() == 1
    assert worker.said("offset_ahead")


def test_a_position_wound_back_is_read_again_by_the_next_start(edge) -> None:
    topic = edge.topic("back", 1)
    edge.produce(topic, 10)
    worker = edge.worker(topic)
    edge.until(lambda: edge.seen()[0] >= 10, 60)
    edge.db.execute("update sync.progress set next_offset = 5")
    edge.produce(topic, 1)
    assert worker.end() == 1
    assert worker.said("offset_moved_back")
    again = edge.worker(topic)
    edge.until(lambda: edge.seen()[1] >= 16, 60)
    again.process.terminate()
    assert again.end() == 0
    assert edge.seen() == (11, 16)


def test_a_handler_that_fails_ends_the_worker_and_loses_nothing(edge) -> None:
    topic = edge.topic("fail")
    edge.produce(topic, 50)
    worker = edge.worker(topic, handler="fail")
    assert worker.end() == 1
    assert worker.said("handler_failed")
    mended = edge.worker(topic)
    edge.until(lambda: edge.seen()[0] >= 50, 60)
    mended.process.terminate()
    assert mended.end() == 0
    assert edge.seen() == (50, 50)


def test_a_handler_that_hangs_ends_the_worker(edge) -> None:
    topic = edge.topic("hang")
    edge.produce(topic, 50)
    worker = edge.worker(topic, handler="hang")
    assert worker.end() == 1
    assert worker.said('"code": "stalled"')


@pytest.mark.covers("F096")
def test_the_links_table_survives_kills_and_moves(edge) -> None:
    from links import ENVELOPE, link

    topic, parsed = edge.topic("sync.links"), parse_schema(ENVELOPE)
    count, roots = 3_000, [f"org/person_{n}" for n in range(0, 3_000, 100)]

    def send(numbers: range, **how: Any) -> None:
        producer = edge.producer()
        for n in numbers:
            producer.produce(topic, codec.encode(1, parsed, link(n, **how)), f"org/person_{n}".encode())
        assert producer.flush(30) == 0

    def knows(wanted: dict[str, list[str]]) -> bool:
        told = edge.home / "known.json"
        return edge.until(lambda: told.exists() and json.loads(told.read_text()) == wanted, 60)

    send(range(count), made_by="match")
    worker = edge.worker(topic, handler="links", roots=roots)
    worker.wait_for("worker_ready")
    worker.process.kill()
    worker.end()
    worker = edge.worker(topic, handler="links", roots=roots)
    assert knows({key: ["c1"] for key in roots}), worker.log.read_text()[-3000:]
    planned = edge.db.execute("select count(distinct sync_key) from planned").fetchone()
    assert planned == (count,), "every match was planned, before or after the kill"
    send(range(0, count, 100), connection="c2")
    send(range(0, count, 200), deleted=True)
    worker.process.kill()
    worker.end()
    (edge.home / "known.json").unlink()
    moved = edge.home / "elsewhere"
    moved.mkdir()
    elsewhere = edge.worker(topic, handler="links", roots=roots, home=moved)
    wanted = {key: (["c2"] if n % 2 == 0 else ["c1", "c2"]) for n, key in enumerate(roots)}
    told = moved / "known.json"
    edge.until(lambda: told.exists() and json.loads(told.read_text()) == wanted, 60)
    assert json.loads(told.read_text()) == wanted
    elsewhere.process.terminate()
    assert elsewhere.end() == 0
