"""The client of Kafka Connect against a Connect that starts, rebalances, fails."""

import json

import httpx
import pytest

from connectors.debezium import connect, register
from schemas.problems import Problem

NAME = "syncline"
TRACE = (
    "org.apache.kafka.connect.errors.ConnectException: outer\nCaused by: org.postgresql.util.PSQLException: no slot\n"
)


class Worker:
    """A Connect of one connector; `moods` are answers it gives before it is itself."""

    def __init__(self, *moods, states=("RUNNING",), config=None, refuse=""):
        self.moods, self.states, self.stored, self.refuse = list(moods), list(states), config, refuse
        self.puts, self.restarts, self.resumed = 0, 0, 0

    def __call__(self, request):
        if self.moods:
            mood = self.moods.pop(0)
            if mood is None:
                raise httpx.ConnectError("refused")
            return httpx.Response(mood, json={"message": "not yet"})
        path = request.url.path
        if request.method == "PUT" and path.endswith("/config"):
            self.puts += 1
            if self.refuse:
                return httpx.Response(400, json={"message": self.refuse})
            self.stored = json.loads(request.content)
            return httpx.Response(201, json={})
        if path.endswith("/restart"):
            self.restarts += 1
            return httpx.Response(202, json={})
        if path.endswith("/resume"):
            self.resumed += 1
            self.states = ["RUNNING"]
            return httpx.Response(202)
        if path.endswith("/status"):
            return httpx.Response(200, json=self.status())
        if path == "/connectors":
            return httpx.Response(200, json=[NAME] if self.stored else [])
        return httpx.Response(200, json=self.stored)

    def status(self):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        task = {"id": 0, "state": state} | ({"trace": TRACE} if state == "FAILED" else {})
        whole = state if state in ("PAUSED", "STOPPED") else "RUNNING"
        return {"name": NAME, "connector": {"state": whole, "version": "3.7.0.Final"}, "tasks": [task]}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(connect, "RETRY_EVERY_S", 0.001)
    monkeypatch.setattr(register, "POLL_S", 0.001)
    monkeypatch.setattr(register, "SETTLED_S", 0.005)


async def apply(worker, patience_s=1.0):
    config = {"name": NAME, "a": "1"}
    return await register.apply("http://connect", config, patience_s=patience_s, transport=httpx.MockTransport(worker))


async def test_a_worker_that_is_not_ready_is_waited_for():
    worker = Worker(None, 404, 409, None, 503)
    assert await apply(worker)
    assert worker.puts == 1


async def test_what_is_right_already_is_left_alone():
    worker = Worker(config={"name": NAME, "a": "1"})
    assert not await apply(worker)
    assert worker.puts == worker.restarts == 0


async def test_a_task_that_failed_before_is_restarted_once():
    worker = Worker(states=["FAILED", "FAILED", "RUNNING"], config={"name": NAME, "a": "2"})
    assert await apply(worker)
    assert worker.restarts == 1


async def test_a_task_that_fails_again_is_a_problem_with_its_innermost_cause():
    worker = Worker(states=["FAILED"])
    with pytest.raises(Problem) as caught:
        await apply(worker)
    assert caught.value.code == "connector_failed"
    assert caught.value.cause == "the task 0 of `syncline` failed: PSQLException: no slot"


async def test_a_paused_connector_is_resumed():
    worker = Worker(states=["PAUSED"], config={"name": NAME, "a": "1"})
    assert await apply(worker)
    assert worker.resumed == 1


async def test_refused_settings_are_a_problem_in_connects_words():
    with pytest.raises(Problem, match=r"connector_refused: .*password authentication failed"):
        await apply(Worker(refuse="Connection: password authentication failed"))


async def test_what_never_runs_is_slow():
    with pytest.raises(Problem, match=r"connector_slow: .*task 0 UNASSIGNED"):
        await apply(Worker(states=["UNASSIGNED"]), patience_s=0.05)


async def test_a_worker_that_stays_away_is_unreachable():
    with pytest.raises(Problem, match=r"connect_unreachable: .*ConnectError"):
        await apply(Worker(*[None] * 10_000), patience_s=0.05)


async def test_only_cdc_subjects_lose_their_rule():
    asked = []

    def registry(request):
        asked.append((request.method, request.url.path, request.content))
        return httpx.Response(404 if "email" in request.url.path else 200, json={})

    names = ("cdc.canon.person", "cdc.canon.email")
    absent = await register.allow_any_change("http://r/", names, transport=httpx.MockTransport(registry))
    assert absent == ("cdc.canon.email-value",)
    assert asked[0] == ("PUT", "/apis/ccompat/v7/config/cdc.canon.person-value", b'{"compatibility":"NONE"}')
    assert len(asked) == 2
