"""The watcher on a real slot, with a Connect that fails."""

from datetime import timedelta

import httpx
import psycopg
import pytest
from structlog.testing import capture_logs

from connectors.debezium.connect import Connect
from streams import capture_watch
from streams.store import publication
from tests.integration.scripted import NOW

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
    budget = capture_watch.Budget()
    async with (
        await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as conn,
        Connect("http://connect", transport=httpx.MockTransport(worker)) as connect,
    ):
        ticks = iter(range(0, 1000, 5))
        watcher = capture_watch.Watcher(budget, now=lambda: NOW, monotonic=lambda: next(ticks))
        decisions = [await watcher.look(conn, connect) for n in range(8)]

    assert decisions == ["restart"] * 5 + ["exhausted"] * 3
    assert worker.restarts == 5


class Running(FailingWorker):
    """A Connect that says that all is well."""

    def __call__(self, _):
        task = {"id": 0, "state": "RUNNING"}
        return httpx.Response(200, json={"connector": {"state": "RUNNING"}, "tasks": [task]})


def drop_slot(settings):
    with psycopg.connect(settings.dsn("admin"), autocommit=True) as admin:
        admin.execute("select pg_drop_replication_slot('syncline')")


def make_slot(settings):
    with psycopg.connect(settings.dsn("capture"), autocommit=True) as conn:
        assert publication.ensure_slot(conn)


async def told(conn):
    query = "select state, code, since, at, lag_bytes is not null from sync.capture_state"
    return await (await conn.execute(query)).fetchone()


@pytest.mark.covers("C20")
async def test_a_slot_that_is_gone_is_red_whatever_connect_says_and_said_once(database):
    seconds = iter(range(100))
    async with (
        await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as conn,
        Connect("http://connect", transport=httpx.MockTransport(Running())) as connect,
    ):
        watcher = capture_watch.Watcher(
            capture_watch.Budget(), now=lambda: NOW + timedelta(seconds=next(seconds)), monotonic=lambda: 0.0
        )
        with capture_logs() as logs:
            for _ in range(2):
                assert await watcher.look(conn, connect) == "fine"
            fine = await told(conn)
            drop_slot(database)
            try:
                for _ in range(3):
                    assert await watcher.look(conn, connect) == "slot_lost"
                gone = await told(conn)
                blind = await (await conn.execute("select blind_until is not null from sync.sweep")).fetchone()
            finally:
                make_slot(database)
            assert await watcher.look(conn, connect) == "fine"

    assert fine == ("ok", "ok", NOW, NOW + timedelta(seconds=1), True)
    assert gone == ("red", "slot_lost", NOW + timedelta(seconds=2), NOW + timedelta(seconds=4), False)
    assert blind == (True,)
    assert [(log["log_level"], log["code"]) for log in logs] == [("info", "ok"), ("error", "slot_lost"), ("info", "ok")]


async def test_a_connect_that_hangs_does_not_hide_that_the_slot_is_gone(database):
    def hangs(_):
        raise AssertionError("Connect is not asked")

    drop_slot(database)
    try:
        async with (
            await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as conn,
            Connect("http://connect", transport=httpx.MockTransport(hangs)) as connect,
        ):
            await capture_watch.Watcher(capture_watch.Budget(), now=lambda: NOW, monotonic=lambda: 0.0).look(
                conn, connect
            )
            assert (await told(conn))[:2] == ("red", "slot_lost")
    finally:
        make_slot(database)


async def test_a_connect_that_does_not_answer_is_red(database):
    def away(request):
        raise httpx.ConnectError("away", request=request)

    async with (
        await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as conn,
        Connect("http://connect", transport=httpx.MockTransport(away), patience_s=0) as connect,
    ):
        watcher = capture_watch.Watcher(capture_watch.Budget(), now=lambda: NOW, monotonic=lambda: 0.0)
        assert await watcher.look(conn, connect) == "unreachable"
        assert (await told(conn))[:2] == ("red", "connect_unreachable")


class Enough(Exception):
    """Ends the endless loop."""


async def test_only_one_watcher_acts_and_the_next_one_waits_its_turn(database):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            raise Enough

    async with await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as other:
        await other.execute("select pg_advisory_lock(%s)", (capture_watch.LOCK,))
        with pytest.raises(Enough):
            await capture_watch.watch(database, every_s=7, sleep=sleep)
    assert slept == [7, 7, 7]


async def test_a_connect_that_is_away_is_looked_at_again(database, monkeypatch):
    monkeypatch.setattr(capture_watch, "PATIENCE_S", 0.0)
    away = database.model_copy(update={"connect_url": "http://127.0.0.1:9"})
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            raise Enough

    with pytest.raises(Enough):
        await capture_watch.watch(away, sleep=sleep)
