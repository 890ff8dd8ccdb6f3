"""Events that programs bring, and webhooks signed in ways of their own, through the gateway into the real Kafka."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import orjson
import pytest
from confluent_kafka import Consumer, TopicPartition

from connectors import config, registry, webhook
from schemas import events
from streams import clock, connections, resources, topics
from streams.choices import Choices
from streams.gateway import app as gateway_app
from streams.gateway import events as bulk
from streams.inbound import publish
from streams.store import api_keys
from streams.store.migrate import migrate

pytestmark = pytest.mark.integration
_number = itertools.count(time.time_ns())
KEY = api_keys.PREFIX + "nightly"


@pytest.fixture(scope="module")
def running(stack):
    settings = stack.info()
    migrate(settings)
    topics.ensure(settings.kafka_bootstrap, partitions=settings.kafka_partitions)
    return settings


async def no_plan(*_):
    return 0


@asynccontextmanager
async def serving(settings, kafka, *, timeout_s=5.0):
    async with (
        resources.opened(settings) as opened,
        publish.opened(kafka, opened.schemas, timeout_s=timeout_s) as publisher,
    ):
        transport = httpx.ASGITransport(gateway_app.create(opened, publisher), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://sync.example.org") as client:
            yield opened, client


class Gateway:
    """The application, one connection of an organisation of its own, a key, and the topic since the test began."""

    def __init__(self, settings, opened, client) -> None:
        self.settings, self.opened, self.client = settings, opened, client
        self.org = f"org{next(_number)}"
        self.key = f"{KEY}-{self.org}"

    async def prepare(self):
        given = config.load({"type": "sim-keyed", "url": "http://127.0.0.1:9", "extraFields": []})
        service = connections.service(self.settings, "test", no_plan)
        async with self.opened.app.connection() as conn:
            made = await service.connect(conn, self.org, "parish", given, Choices())
            await api_keys.create(conn, self.org, "nightly", self.key, connection="parish", by="test", now=clock.now())
        self.hook = made.webhook
        config_ = {"bootstrap.servers": self.settings.kafka_bootstrap, "group.id": "test", "enable.auto.commit": False}
        self.consumer = Consumer(config_)
        places = [TopicPartition(topics.INBOUND, n) for n in range(self.settings.kafka_partitions)]
        for place in places:
            _, place.offset = self.consumer.get_watermark_offsets(place, timeout=10)
        self.consumer.assign(places)

    async def facts(self, count):
        """The first `count` facts of our organisation since the test began, fewer when no more come."""
        found = []
        deadline = time.monotonic() + 15
        while len(found) < count and time.monotonic() < deadline:
            message = await asyncio.to_thread(self.consumer.poll, 0.2)
            if message is None or message.error():
                continue
            await self.opened.codec.learn([message.value()])
            fact = events.decode(self.opened.codec, message.value())
            found += [fact] if fact.org_id == self.org else []
        return found

    async def bring(self, client, body, **headers):
        return await client.post("/v1/events", content=body, headers={"authorization": f"Bearer {self.key}", **headers})


@pytest.fixture
async def gateway(running):
    async with serving(running, running.kafka_bootstrap) as (opened, client):
        made = Gateway(running, opened, client)
        await made.prepare()
        yield made
        made.consumer.close()


def body(count: int, first: int = 0) -> bytes:
    told = {"type": "people", "op": "upsert", "at": "2026-03-01T12:00:00Z", "data": {"first_name": "Ann"}}
    return b"\n".join(orjson.dumps({**told, "id": f"p{first + n}", "version": 3}) for n in range(count))


@pytest.mark.covers("C7", "C17")
async def test_lines_are_durable_before_they_count_as_accepted(gateway):
    answer = await gateway.bring(gateway.client, body(1200) + b'\n{"id": ')
    told = [orjson.loads(line) for line in answer.content.splitlines()]
    assert [each["status"] for each in told] == ["accepted"] * 1200 + ["refused"]
    facts = await gateway.facts(1200)
    assert {fact.event_id.hex() for fact in facts} == {each["event_id"] for each in told[:-1]}
    assert {(fact.source, fact.external_version, fact.complete) for fact in facts} == {("api", "3", True)}


async def test_a_line_and_a_webhook_of_the_same_state_are_the_same_event(gateway):
    item = {"id": "p1", "version": 3, "updated_at": "2026-03-01T12:00:00.000+00:00", "first_name": "Ann"}
    content = orjson.dumps({"type": "record.changed", "kind": "people", "record": item})
    signed = webhook.sign(webhook.STANDARD, content, gateway.hook.secret.get_secret_value(), "msg_1", datetime.now(UTC))
    path = httpx.URL(gateway.hook.url.get_secret_value()).path
    assert (await gateway.client.post(path, content=content, headers=signed)).status_code == 202
    await gateway.bring(gateway.client, body(1, first=1))
    first, second = await gateway.facts(2)
    assert first.event_id == second.event_id


async def test_while_kafka_is_down_nothing_is_accepted_and_later_everything(gateway, running):
    async with serving(running, "127.0.0.1:9", timeout_s=1.0) as (_, client):
        answer = await gateway.bring(client, b"{\n" + body(3))
    told = answer.json()
    assert (answer.status_code, told["code"], told["accepted"], told["next_line"]) == (503, "kafka_unavailable", 0, 1)
    assert int(answer.headers["retry-after"]) > 0
    assert (await gateway.bring(gateway.client, body(3))).status_code == 200
    assert len(await gateway.facts(3)) == 3


async def test_what_is_too_large_by_its_own_account_is_not_read(gateway):
    answer = await gateway.bring(gateway.client, b"", **{"content-length": str(bulk.BODY_MOST_BYTES + 1)})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("scheme", [webhook.HMAC_HEX, webhook.HMAC_BASE64, webhook.TOKEN])
async def test_a_manifest_names_scheme_and_headers_of_its_webhooks(gateway, scheme):
    sim = registry.find("sim-keyed")

    class Signed:
        manifest = replace(
            sim.manifest, webhook_scheme=scheme, webhook_header="x-their-signature", webhook_id_header="x-their-id"
        )
        parse_webhook = staticmethod(sim.parse_webhook)

    gateway.client._transport.app.state.ingress.adapter = lambda _: Signed
    item = {"id": "p1", "version": 3, "updated_at": "2026-03-01T12:00:00.000+00:00", "first_name": "Ann"}
    content = orjson.dumps({"type": "record.changed", "kind": "people", "record": item})
    secret, now = gateway.hook.secret.get_secret_value(), datetime.now(UTC)
    path = httpx.URL(gateway.hook.url.get_secret_value()).path

    async def post(content, **headers):
        return (await gateway.client.post(path, content=content, headers=headers)).status_code

    right = webhook.sign(scheme, content, secret, "", now, header="x-their-signature")
    wrong = webhook.sign(scheme, content, "whsec_b3RoZXI=", "", now, header="x-their-signature")
    elsewhere = webhook.sign(scheme, content, secret, "", now)
    assert await post(content, **wrong) == await post(content, **elsewhere) == await post(content) == 401
    other = content.replace(b"Ann", b"Bea")
    resigned = webhook.sign(scheme, other, secret, "", now, header="x-their-signature")
    for each, headers in ((content, right), (content, right), (other, resigned)):
        assert await post(each, **headers, **{"x-their-id": "1"}) == 202
    assert await post(content, **right) == 202  # without an id the body itself tells
    assert await post(content, **right) == 202
    async with gateway.opened.app.connection() as conn:
        cursor = await conn.execute(
            "select count(*) from sync.webhook_delivery where org_id = %s and events = 1", (gateway.org,)
        )
        # An id that nothing signs is no reason to drop another body that bears it.
        assert await cursor.fetchone() == (3,)
