"""The worker process from outside: slots, patience, orderly ends and exit codes."""

from __future__ import annotations

import signal
import time

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200)]


def test_workers_take_the_lowest_free_slot(edge) -> None:
    topic = edge.topic("slots")
    first, second = edge.worker(topic), None
    first.wait_for("worker_ready")
    second = edge.worker(topic)
    second.wait_for("worker_ready")
    assert first.said('"slot": 0')
    assert second.said('"slot": 1')
    first.process.kill()
    first.end()
    third = edge.worker(topic)
    third.wait_for("worker_ready")
    assert third.said('"slot": 0')
    edge.produce(topic, 60)
    assert edge.until(lambda: edge.seen() == (60, 60), 60), "both have their partitions"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(edge, number: signal.Signals) -> None:
    topic = edge.topic("signal")
    worker = edge.worker(topic)
    worker.wait_for("worker_ready")
    edge.produce(topic, 50)
    assert edge.until(lambda: edge.seen() == (50, 50), 30)
    began = time.monotonic()
    worker.process.send_signal(number)
    assert worker.end() == 0
    assert time.monotonic() - began < 15
    assert worker.said("worker_stopped")


@pytest.mark.parametrize(("down", "what"), [("dsn", "postgres"), ("bootstrap", "kafka")])
def test_it_waits_for_what_is_down_and_says_so(edge, down: str, what: str) -> None:
    nowhere = {"dsn": "host=127.0.0.1 port=1 dbname=x user=x", "bootstrap": "127.0.0.1:1"}[down]
    worker = edge.worker(edge.topic("patient"), **{down: nowhere})
    worker.wait_for("waiting_for", 30)
    assert worker.said(f'"what": "{what}"')
    assert not worker.said("worker_ready")
    worker.process.terminate()
    assert worker.end(20) == 0


def test_missing_topics_are_named(edge) -> None:
    worker = edge.worker(f"{edge.tag}.nothing")
    assert worker.end() == 1
    assert worker.said("topics_missing")


def test_a_lost_slot_connection_is_made_anew(edge) -> None:
    worker = edge.worker(edge.topic("regain"))
    worker.wait_for("worker_ready")
    held = (
        "select pid from pg_stat_activity"
        " where application_name like 'syncline-worker-0%' and datname = current_database()"
    )
    row = edge.db.execute(held).fetchone()
    assert row is not None
    edge.db.execute("select pg_terminate_backend(%s)", row)
    worker.wait_for("slot_regained", 30)
    assert worker.process.poll() is None
    locks = """select count(*) from pg_locks l join pg_database d on d.oid = l.database
               where l.locktype = 'advisory' and l.granted and d.datname = current_database()"""
    assert edge.db.execute(locks).fetchone() == (1,)
    worker.process.terminate()
    assert worker.end() == 0


def test_a_service_that_ends_by_itself_ends_the_worker(edge) -> None:
    worker = edge.worker(edge.topic("service"), service="ends")
    assert worker.end() == 1
    assert worker.said("service_ended")
