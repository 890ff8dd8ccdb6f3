"""Changes of canonical tables as they arrive in Kafka: the real Postgres, Debezium, registry and Kafka.

The tests that stop or change the connector put it back before they end.
"""

import asyncio
import time
from dataclasses import dataclass

import httpx
import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from connectors.debezium import register
from schemas.codec import Codec
from schemas.registry import Registry
from streams import capture, capture_watch, doctor, topics
from streams.store.migrate import migrate, model_of

pytestmark = pytest.mark.integration
TABLES = ("cdc.canon.person", "cdc.canon.email", "cdc.sync.tombstone", "cdc.sync.external_link")
CANARY = "Zebedee-Canary"


@dataclass
class Record:
    topic: str
    partition: int
    key: bytes
    op: str
    after: dict | None
    headers: dict
    raw: bytes


@pytest.fixture(scope="module")
def running(stack):
    """Settings of a stack with schema, topics and connector."""
    settings = stack.info()
    migrate(settings)
    topics.ensure(settings.kafka_bootstrap, partitions=settings.kafka_partitions)
    asyncio.run(capture.ensure(settings))
    return settings


@pytest.fixture
def app(running):
    with psycopg.connect(running.dsn("app"), autocommit=True) as conn:
        yield conn


@pytest.fixture
async def tail(running):
    """`await tail(n, key)`: the first n records under any of these keys since the test began."""
    consumer = Consumer({"bootstrap.servers": running.kafka_bootstrap, "group.id": "test", "enable.auto.commit": False})
    ends = []
    for topic in TABLES:
        for partition in range(running.kafka_partitions):
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            ends.append(TopicPartition(topic, partition, end))
    consumer.assign(ends)
    registry = Registry(running.registry_url)
    codec = Codec(registry)

    async def read(count, keys, wait_s=20.0):
        found = []
        deadline = time.monotonic() + wait_s
        while len(found) < count and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is None or message.error() or message.key().decode() not in keys:
                continue
            await codec.learn([message.value()])
            value = codec.decode(message.value())
            headers = dict(message.headers() or ())
            found.append(
                Record(
                    message.topic(), message.partition(), message.key(),
                    value["op"], value["after"], headers, message.value(),
                )
            )  # fmt: skip
        return found

    yield read
    consumer.close()
    await registry.aclose()


def insert(conn, table, **fields):
    names = ", ".join(fields)
    places = ", ".join(["%s"] * len(fields))
    return conn.execute(f"insert into {table} ({names}) values ({places}) returning *", [*fields.values()]).fetchone()


def person(conn):
    query = "insert into canon.person (first_name, national_id) values (%s, %s) returning id, sync_key"
    return conn.execute(query, (CANARY, CANARY)).fetchone()


@pytest.mark.covers("F134", "C20")
async def test_an_entity_its_parts_links_and_tombstones_share_key_and_partition(app, tail):
    entity_id, key = person(app)
    app.execute(
        "insert into sync.connection (org_id, name, system, url) values ('org_main', 'capture_test', 'x', 'http://x')"
        " on conflict do nothing"
    )
    insert(app, "canon.email", person_id=entity_id, address=CANARY)
    link = {"external_type": "Person", "external_id": entity_id, "entity_type": "person", "entity_id": entity_id}
    link |= {"org_id": "org_main", "connection": "capture_test", "sync_key": key, "made_by": "person"}
    insert(app, "sync.external_link", **link, link_metadata=f'{{"name": "{CANARY}"}}')
    app.execute("update canon.person set last_name = %s where id = %s", (CANARY, entity_id))
    app.execute("delete from canon.person where id = %s", [entity_id])

    records = await tail(8, {key})
    seen = sorted((record.topic, record.op) for record in records)
    assert seen == [
        ("cdc.canon.email", "c"),
        ("cdc.canon.email", "d"),
        ("cdc.canon.person", "c"),
        ("cdc.canon.person", "d"),
        ("cdc.canon.person", "u"),
        ("cdc.sync.external_link", "c"),
        ("cdc.sync.tombstone", "c"),
        ("cdc.sync.tombstone", "c"),
    ]
    assert {record.key for record in records} == {key.encode()}
    assert len({record.partition for record in records}) == 1
    assert not [record for record in records if CANARY.encode() in record.raw]
    stones = {record.after["entity_type"]: record.after["version"] for record in records if "tombstone" in record.topic}
    assert stones == {"person": 3, "email": 2}


async def test_only_captured_columns_arrive(app, tail):
    entity_id, key = person(app)
    (record,) = await tail(1, {key})
    assert set(record.after) == {
        "org_id", "id", "sync_key", "version", "origin", "origin_event", "modified_at", "deleted_at",
        "household_id", "campus_id",
    }  # fmt: skip
    assert (record.after["id"], record.after["version"], record.after["origin"]) == (entity_id, 1, "local")


async def test_a_part_that_moves_leaves_its_old_root_and_arrives_at_the_new_one(app, tail):
    (ann, from_key), (bea, to_key) = person(app), person(app)
    (email_id,) = app.execute("insert into canon.email (person_id) values (%s) returning id", [ann]).fetchone()
    app.execute("update canon.email set person_id = %s where id = %s", (bea, email_id))
    records = [record for record in await tail(5, {from_key, to_key}) if record.topic == "cdc.canon.email"]
    told = {(record.key.decode(), record.op): record for record in records}
    assert set(told) == {(from_key, "c"), (from_key, "d"), (to_key, "c")}
    assert to_key.encode() in told[from_key, "d"].headers["__debezium.newkey"]
    assert from_key.encode() in told[to_key, "c"].headers["__debezium.oldkey"]
    assert told[to_key, "c"].after["version"] == 2


async def test_everything_is_as_it_must_be(running):
    findings = await doctor.check(running)
    assert [finding for finding in findings if finding.state == "red"] == []
    assert not await register.apply(running.connect_url, capture.connector_config(running, model_of(running)))


async def test_a_changed_setting_is_named_and_put_right(running):
    wanted = capture.connector_config(running, model_of(running))
    async with httpx.AsyncClient(base_url=running.connect_url, timeout=30) as http:
        wrong = {**wanted, "errors.tolerance": "all", "poll.interval.ms": "500"}
        (await http.put("/connectors/syncline/config", json=wrong)).raise_for_status()
    findings = {finding.name: finding for finding in await doctor.check(running)}
    told = findings["connector settings"]
    assert told.state == "red"
    assert "errors.tolerance is all and should be none" in told.detail
    assert "poll.interval.ms is 500 and should be 2" in told.detail
    assert (await capture.ensure(running)).connector
    assert {f.name: f.state for f in await doctor.check(running)}["connector settings"] == "ok"


async def test_without_connect_it_is_red_and_nothing_is_lost(running, stack, app, tail):
    stack.stop_component("connect")
    try:
        entity_id, key = person(app)
        findings = {finding.name: finding for finding in await doctor.check(running)}
        assert findings["connect"].state == "red"
        assert "syncline up" in findings["connect"].next_step
        assert findings["replication slot"].state == "red"
        assert "nobody reads it" in findings["replication slot"].detail
    finally:
        stack.start_component("connect")
    await capture.ensure(running)
    (record,) = await tail(1, {key}, wait_s=60)
    assert record.after["id"] == entity_id


async def test_a_new_slot_begins_anew(running, app, tail):
    ensured = await capture.ensure(running, new_slot=True)
    assert not ensured.publication
    entity_id, key = person(app)
    (record,) = await tail(1, {key}, wait_s=60)
    assert record.after["id"] == entity_id


def lose_slot(running):
    """As an administrator's mistake would: the reader is ended and the slot dropped before it comes back."""
    deadline = time.monotonic() + 20
    with psycopg.connect(running.dsn("admin"), autocommit=True) as admin:
        while admin.execute("select 1 from pg_replication_slots where slot_name = 'syncline'").fetchone():
            assert time.monotonic() < deadline
            admin.execute("select pg_terminate_backend(active_pid) from pg_replication_slots where active")
            try:
                admin.execute("select pg_drop_replication_slot('syncline')")
            except psycopg.errors.ObjectInUse:
                continue


@pytest.mark.covers("C20")
@pytest.mark.parametrize("connector", ["runs", "was deleted"])
async def test_a_dropped_slot_is_red_and_comes_back_whatever_connect_remembers(running, app, tail, connector):
    """Connect keeps the offsets of a connector that was deleted; both lie before the new slot."""
    lose_slot(running)
    if connector == "was deleted":
        async with httpx.AsyncClient(base_url=running.connect_url, timeout=30) as http:
            (await http.delete("/connectors/syncline")).raise_for_status()
    person(app)  # never captured
    findings = {finding.name: finding for finding in await doctor.check(running)}
    told = findings["replication slot"]
    assert (told.state, "--new-slot" in told.next_step) == ("red", True)

    ensured = await capture.ensure(running, new_slot=True)
    assert ensured.slot
    entity_id, key = person(app)
    (record,) = await tail(1, {key}, wait_s=60)
    assert record.after["id"] == entity_id
    blind = app.execute("select blind_until is not null from sync.sweep").fetchone()
    assert blind == (True,)


async def test_the_watcher_finds_a_healthy_connector_fine(running):
    async with (
        await psycopg.AsyncConnection.connect(running.dsn("app"), autocommit=True) as conn,
        capture.Connect(running.connect_url) as connect,
    ):
        assert await capture_watch.Watcher(capture_watch.Budget()).look(conn, connect) == "fine"
