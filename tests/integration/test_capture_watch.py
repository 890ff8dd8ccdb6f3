"""The watcher on a real slot, with a Connect that fails."""

import httpx
import psycopg
import pytest

from connectors.debezium.connect import Connect
from streams import capture

pytestmark = pytest.mark.integration


class FailingWorker:
    """A Connect whose task is FAILED whatever is done."""

    def __init__(self):
        self.restarts = 0

    def __call__(self, request):
        if request.url.path.endswith("/restart"):
            self.restarts += 1
            return httpx.Response(202, json={})
        failed = {"id": 0, "state": "FAILED", "trace": "a.B: no slot"}
        return httpx.Response(200, json={"connector": {"state": "RUNNING"}, "tasks": [failed]})


async def test_a_task_that_keeps_failing_is_restarted_five_times_and_then_left_red(database):
    worker = FailingWorker()
    budget = capture.Budget()
    async with (
        await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as conn,
        Connect("http://connect", transport=httpx.MockTransport(worker)) as connect,
    ):
        decisions = [await capture.look(conn, connect, budget, 10.0 * n) for n in range(8)]
    assert decisions == ["restart"] * 5 + ["exhausted"] * 3
    assert worker.restarts == 5


class Enough(Exception):
    """Ends the endless loop."""


async def test_only_one_watcher_acts_and_the_next_one_waits_its_turn(database):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            raise Enough

    async with await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as other:
        await other.execute("select pg_advisory_lock(%s)", (capture.LOCK,))
        with pytest.raises(Enough):
            await capture.watch(database, every_s=7, sleep=sleep)
    assert slept == [7, 7, 7]


async def test_a_connect_that_is_away_is_looked_at_again(database, monkeypatch):
    monkeypatch.setattr(capture, "PATIENCE_S", 0.0)
    away = database.model_copy(update={"connect_url": "http://127.0.0.1:9"})
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            raise Enough

    with pytest.raises(Enough):
        await capture.watch(away, sleep=sleep)
