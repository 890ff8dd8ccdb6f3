"""What a worker counts, and how the gateway keeps what it has read."""

from __future__ import annotations

import socket
import urllib.request
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import psycopg
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from streams import metrics
from streams.gateway.metrics import FORGET_S, Exposition, Part

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def value(name, **labels):
    return REGISTRY.get_sample_value(name, labels)


@pytest.fixture
def connection(request):
    """One of the test's own: counters are the process's."""
    return SimpleNamespace(org_id="org", name=request.node.name)


def call(**over):
    times = {"committed_at": NOW, "sent_at": NOW + timedelta(seconds=2), "answered_at": NOW + timedelta(seconds=3)}
    return {"outcome": "delivered", "attempt": 1, "entity_type": "person", **times, **over}


@pytest.mark.covers("F087", "F091")
def test_calls_on_record_are_counted(connection):
    metrics.recorded(connection, [call(), call(outcome="busy", attempt=3), call(committed_at=None)])
    scope = {"org": "org", "connection": connection.name}

    assert value("syncline_call_seconds_count", **scope, outcome="delivered") == 2
    assert value("syncline_call_seconds_sum", **scope, outcome="busy") == 1
    assert value("syncline_call_retries_total", **scope) == 1
    assert value("syncline_commit_to_arrival_seconds_count", **scope, entity_type="person") == 1
    assert value("syncline_commit_to_arrival_seconds_sum", **scope, entity_type="person") == 3


def test_two_clocks_that_differ_give_no_time_below_nought(connection):
    metrics.arrived(connection, "person", -0.5)
    labels = {"org": "org", "connection": connection.name, "entity_type": "person"}
    assert value("syncline_commit_to_arrival_seconds_sum", **labels) == 0


def test_a_lane_that_ended_says_nothing_of_its_breaker(connection):
    scope = {"org": "org", "connection": connection.name}
    metrics.breaker(connection, is_open=True)
    assert value("syncline_lane_breaker_open", **scope) == 1
    metrics.breaker(connection, is_open=False)
    assert value("syncline_lane_breaker_open", **scope) == 0
    for _ in range(2):
        metrics.forget(connection)
    assert value("syncline_lane_breaker_open", **scope) is None


def test_routes_are_counted_by_where_they_went(connection):
    route = ("org", connection.name, "person", "skip", "own_echo")
    metrics.planned({route: 2})
    metrics.planned({route: 3})
    labels = dict(zip(("org", "connection", "entity_type", "verdict", "reason"), route, strict=True))
    assert value("syncline_planned_routes_total", **labels) == 5


def test_what_capture_missed_is_counted(request):
    metrics.missed(request.node.name, "person", 3)
    assert value("syncline_cdc_missed_total", org=request.node.name, entity_type="person") == 3


def test_a_worker_answers_on_its_port_and_a_second_one_goes_on_without():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = metrics.serve("127.0.0.1", port)
    assert server is not None
    try:
        assert metrics.serve("127.0.0.1", port) is None
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            assert b"syncline_call_seconds" in answer.read()
    finally:
        server()


def test_without_a_port_it_does_not_listen():
    assert metrics.serve("127.0.0.1", 0) is None


class Pool:
    """Connections that do nothing."""

    @asynccontextmanager
    async def connection(self, **_):
        class Conn:
            async def execute(self, *_, **__): ...

            @asynccontextmanager
            async def transaction(self):
                yield

        yield Conn()


class Read:
    """A part that counts how often it is read, takes a while, and may fail."""

    def __init__(self, clock, seconds=0.0):
        self.times, self.clock, self.seconds, self.fails = 0, clock, seconds, False

    async def __call__(self, *_):
        self.times += 1
        self.clock.at += self.seconds
        if self.fails:
            raise psycopg.errors.QueryCanceled("too slow")
        return {"syncline_slot_lag_bytes": {(): self.times}}


class Clock:
    at = 100.0

    def __call__(self):
        return self.at


async def shown(exposition):
    families = text_string_to_metric_families((await exposition.text()).decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def exposition_of(read, clock, every_s=5.0):
    return Exposition(Pool(), now=lambda: NOW, monotonic=clock, read=[Part("lag", every_s, read)])


async def test_what_was_read_is_told_for_some_seconds():
    clock = Clock()
    read = Read(clock)
    exposition = exposition_of(read, clock)
    for seconds, times in ((0, 1), (4.9, 1), (0.1, 2)):
        clock.at += seconds
        assert (await shown(exposition))["syncline_slot_lag_bytes"] == times


async def test_what_takes_long_is_read_seldom():
    clock = Clock()
    read = Read(clock, seconds=3.0)
    exposition = exposition_of(read, clock)
    for seconds, times in ((0, 1), (59, 1), (1, 2)):
        clock.at += seconds
        await exposition.text()
        assert read.times == times


async def test_what_cannot_be_read_keeps_its_value_for_a_while_and_tells_its_age():
    clock = Clock()
    read = Read(clock)
    exposition = exposition_of(read, clock)
    await exposition.text()
    read.fails = True
    clock.at += 60
    told = await shown(exposition)
    assert told == {"syncline_slot_lag_bytes": 1, "syncline_metrics_age_seconds": 60}

    clock.at += FORGET_S
    assert await shown(exposition) == {"syncline_metrics_age_seconds": 60 + FORGET_S}
