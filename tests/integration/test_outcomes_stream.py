"""Deliveries as they arrive on the topic `outbound.outcomes`: the real Postgres, Debezium, registry and Kafka."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from schemas import events
from schemas.codec import Codec
from schemas.registry import Registry
from streams import capture, topics
from streams.store import accounting, deliveries
from streams.store.migrate import migrate

pytestmark = pytest.mark.integration
CANARY = "Zebedee-Canary"
NOW = datetime(2026, 5, 6, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def running(stack):
    """Settings of a stack with schema, topics and connector."""
    settings = stack.info()
    migrate(settings)
    topics.ensure(settings.kafka_bootstrap, partitions=settings.kafka_partitions)
    asyncio.run(capture.ensure(settings))
    return settings


@pytest.fixture
async def app(running):
    async with await psycopg.AsyncConnection.connect(running.dsn("app"), autocommit=True) as conn:
        await conn.execute(
            "insert into sync.connection (org_id, name, system, url) values ('org_main', 'told', 'x', 'http://x')"
            " on conflict do nothing"
        )
        yield conn


def delivery(person: str, **over):
    return {
        "external_type": "Person", "entity_type": "person", "entity_id": person, "sync_key": f"org_main/{person}",
        "external_id": "9", "op": "update", "outcome": "delivered", "status": 200, "cause": CANARY, "reason": "change",
        "before": {"first_name": CANARY}, "sent": {"first_name": f"{CANARY} II"}, "changed": ["firstName"],
        "attempt": 2, "idem_key": "k", "seq": 3, "committed_at": NOW, "planned_at": None, "claimed_at": NOW,
        "sent_at": NOW, "answered_at": NOW + timedelta(seconds=1), "version": 4, "modified_at": NOW, "bytes": 17,
    } | over  # fmt: skip


async def read(settings, keys, count, wait_s=30.0):
    """The first `count` records under these keys: (key, decoded value, raw value), and the schema of the last."""
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka_bootstrap, "group.id": "test", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topics.OUTCOMES, n, 0) for n in range(settings.kafka_partitions)])
    registry = Registry(settings.registry_url)
    codec = Codec(registry)
    found, deadline = [], time.monotonic() + wait_s
    while len(found) < count and time.monotonic() < deadline:
        message = await asyncio.to_thread(consumer.poll, 0.2)
        if message is None or message.error() or message.key().decode() not in keys:
            continue
        await codec.learn([message.value()])
        found.append((message.key().decode(), codec.decode(message.value()), message.value()))
    schema = await registry.schema(int.from_bytes(found[-1][2][1:5], "big")) if found else {}
    consumer.close()
    await registry.aclose()
    return found, schema


def plain(schema):
    """Names, types and defaults: without words, and without what Connect notes for itself."""
    if isinstance(schema, list):
        return [plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: plain(value) for key, value in schema.items() if key != "doc" and not key.startswith("connect.")}
    return kept["type"] if set(kept) == {"type"} else kept


@pytest.mark.covers("F054", "R23")
async def test_every_delivery_is_told_once_without_personal_data(running, app):
    now = datetime.now(UTC)
    rows = [delivery("person_old", seq=1), delivery("person_new", outcome="rejected", external_id=None)]
    await deliveries.record(app, "org_main", "told", rows[:1], now=NOW)  # a day without a partition
    await deliveries.record(app, "org_main", "told", rows[1:], now=now)
    found, schema = await read(running, {"org_main/person_old", "org_main/person_new"}, 2)

    told = {key: value for key, value, _ in found}
    assert told["org_main/person_old"] == {
        "id": told["org_main/person_old"]["id"], "org_id": "org_main", "connection": "told", "external_type": "Person",
        "entity_type": "person", "entity_id": "person_old", "sync_key": "org_main/person_old", "external_id": "9",
        "op": "update", "outcome": "delivered", "status": 200, "reason": "change", "changed": ["firstName"],
        "bytes": 17, "attempt": 2, "idem_key": "k", "seq": 1, "committed_at": "2026-05-06T12:00:00.000000Z",
        "planned_at": None,
        "claimed_at": "2026-05-06T12:00:00.000000Z", "sent_at": "2026-05-06T12:00:00.000000Z",
        "answered_at": "2026-05-06T12:00:01.000000Z", "recorded_at": "2026-05-06T12:00:00.000000Z",
    }  # fmt: skip
    assert told["org_main/person_new"]["outcome"] == "rejected"
    assert not [value for _, _, value in found if CANARY.encode() in value]
    assert plain(schema) == plain(events.schema("delivery_outcome"))


async def test_what_retention_removes_is_not_told(running, app):
    await deliveries.record(app, "org_main", "told", [delivery("person_gone")], now=datetime(2020, 1, 1, tzinfo=UTC))
    await accounting.keep_deliveries(app, kept_days=30, now=datetime.now(UTC))
    left = await app.execute("select count(*) from sync.delivery where entity_id = 'person_gone'")
    await deliveries.record(app, "org_main", "told", [delivery("person_gone", seq=9)], now=datetime.now(UTC))
    found, _ = await read(running, {"org_main/person_gone"}, 2)

    assert await left.fetchone() == (0,)
    assert [value["seq"] for _, value, _ in found] == [3, 9]
