"""`POST /v1/events`: every line has an answer of its own, and is durable before it is accepted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import httpx
import pytest
from psycopg_pool import AsyncConnectionPool

from schemas.events import InboundEvent
from schemas.problems import Problem
from tests.integration.test_api import AUTH, make_app

pytestmark = pytest.mark.integration
ANN = {
    "connection": "parish",
    "type": "individual",
    "id": "x1",
    "at": "2026-03-01T12:00:00Z",
    "data": {"firstName": "Ann"},
}


class Taken:
    """Where events go; after `room` of them Kafka is away."""

    def __init__(self) -> None:
        self.events: list[InboundEvent] = []
        self.room = 10**9

    async def publish(self, facts: Sequence[InboundEvent]) -> None:
        if len(self.events) + len(facts) > self.room:
            raise Problem("kafka_unavailable", "Kafka did not take the event")
        self.events += facts


@pytest.fixture
async def taken(database):
    return Taken()


@pytest.fixture
async def client(database, taken):
    async with AsyncConnectionPool(database.dsn("app"), open=False, kwargs={"autocommit": True}) as pool:
        async with pool.connection() as conn:
            await conn.execute(
                "insert into sync.connection (org_id, name, system, url) values (%s, 'parish', 'mock-sync-server', 'https://x.example')"
                " on conflict do nothing",
                (database.org_id,),
            )
        app = make_app(database, pool)
        app.state.api = replace(app.state.api, publish=taken.publish)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=AUTH) as opened:
            yield opened


def lines(*each: object) -> bytes:
    return b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in each)


@pytest.mark.covers("C6", "C7", "C17", "F144")
async def test_a_bad_line_is_refused_alone_and_the_same_lines_are_the_same_events(client, taken):
    body = lines(
        ANN,
        b"",
        {**ANN, "id": "x2", "op": "delete", "data": None},
        b'{"connection": "parish", "connection": "other"}',
        {**ANN, "connection": "nobody"},
        {**ANN, "type": "unicorn"},
        {**ANN, "at": "2026-03-01T12:00:00"},
        {**ANN, "data": None},
        b"[" * 1000,
        {**ANN, "id": "a\x00b"},
    )
    answer = await client.post("/v1/events", content=body)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["accepted"], told["refused"], told["failed"]) == (2, 7, 0)
    assert [(each["line"], each["code"]) for each in told["lines"]] == [
        (1, None),
        (3, None),
        (4, "event_unreadable"),
        (5, "connection_unknown"),
        (6, "type_not_taken"),
        (7, "value_invalid"),
        (8, "value_invalid"),
        (9, "event_unreadable"),
        (10, "value_invalid"),
    ]
    assert [(e.external_id, e.op, e.source, e.complete) for e in taken.events] == [
        ("x1", "upsert", "api", True),
        ("x2", "delete", "api", True),
    ]
    again = (await client.post("/v1/events", content=body)).json()
    assert [each["event_id"] for each in again["lines"]] == [each["event_id"] for each in told["lines"]]


async def test_when_kafka_goes_away_the_rest_has_failed_and_says_so(client, taken):
    taken.room = 1000
    body = lines(*({**ANN, "id": f"x{n}"} for n in range(1700)))
    told = (await client.post("/v1/events", content=body)).json()
    assert (told["accepted"], told["refused"], told["failed"]) == (1000, 0, 700)
    assert {each["code"] for each in told["lines"] if each["status"] == "failed"} == {"kafka_unavailable"}

    taken.room = 0
    answer = await client.post("/v1/events", content=lines(ANN))
    assert (answer.status_code, answer.json()["code"]) == (503, "kafka_unavailable")


async def test_too_many_lines_are_refused(client):
    answer = await client.post("/v1/events", content=b"\n" * 100_001)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_without_the_token_nothing_is_read(client, taken):
    answer = await client.post("/v1/events", content=lines(ANN), headers={"authorization": "Bearer wrong"})
    assert answer.status_code == 401
    assert taken.events == []
