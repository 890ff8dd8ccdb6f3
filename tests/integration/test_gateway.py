"""Webhooks over HTTP into the real Kafka: what is refused, what is durable, what happens when a neighbour is down."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import time
import zlib
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import orjson
import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from connectors import config, registry, webhook
from connectors.contract import ExternalRecord, Op
from schemas import events
from schemas.events import InboundEvent
from streams import clock, connections, resources, topics, vault
from streams.choices import Choices
from streams.gateway import app as gateway_app
from streams.gateway import webhooks
from streams.inbound import publish
from streams.store import credentials
from streams.store.migrate import migrate

pytestmark = pytest.mark.integration
SYNC = {"type": "mock-sync-server", "url": "http://127.0.0.1:9/mock-sync", "extraFields": []}
_number = itertools.count(time.time_ns())


@pytest.fixture(scope="module")
def running(stack):
    settings = stack.info()
    migrate(settings)
    topics.ensure(settings.kafka_bootstrap, partitions=settings.kafka_partitions)
    return settings


class Gateway:
    """The application, one connected organisation, and the topic since the test began."""

    def __init__(self, opened, client, org, hook, tail) -> None:
        self.opened, self.client, self.org, self.tail = opened, client, org, tail
        self.path = httpx.URL(hook.url.get_secret_value()).path
        self.secret = hook.secret.get_secret_value()
        self._deliveries = itertools.count(1)

    def sign(self, body: bytes, *, delivery="", secret="", at=None) -> dict[str, str]:
        delivery = delivery or f"msg_{self.org}_{next(self._deliveries)}"
        return webhook.sign(webhook.STANDARD, body, secret or self.secret, delivery, at or datetime.now(UTC))

    async def post(self, body: bytes, headers=None, path="") -> httpx.Response:
        return await self.client.post(
            path or self.path, content=body, headers=self.sign(body) if headers is None else headers
        )

    async def facts(self, count: int, wait_s=10.0) -> list[InboundEvent]:
        return await self.tail(self.org, count, wait_s)

    async def deliveries(self) -> list[tuple[str, int]]:
        async with self.opened.app.connection() as conn:
            cursor = await conn.execute(
                "select delivery_id, events from sync.webhook_delivery where org_id = %s order by received_at",
                (self.org,),
            )
            return await cursor.fetchall()


def record(**fields) -> bytes:
    item = {
        "id": "x1",
        "type": "update-individual",
        "timestamp": "2026-03-01T12:00:00.000Z",
        "data": {"firstName": "Ann"},
    }
    return orjson.dumps({"type": "record.changed", "record": item | fields})


@pytest.fixture
async def tail(running):
    """Reads `inbound.events` from where it ended when the test began."""
    consumer = Consumer({"bootstrap.servers": running.kafka_bootstrap, "group.id": "test", "enable.auto.commit": False})
    ends = []
    for partition in range(running.kafka_partitions):
        _, end = consumer.get_watermark_offsets(TopicPartition(topics.INBOUND, partition), timeout=10)
        ends.append(TopicPartition(topics.INBOUND, partition, end))
    consumer.assign(ends)
    found: list[InboundEvent] = []

    async def read(org: str, count: int, wait_s: float) -> list[InboundEvent]:
        async with resources.opened(running) as opened:
            deadline = time.monotonic() + wait_s
            while sum(fact.org_id == org for fact in found) < count and time.monotonic() < deadline:
                message = await asyncio.to_thread(consumer.poll, 0.2)
                if message is not None and not message.error():
                    await opened.codec.learn([message.value()])
                    found.append(events.decode(opened.codec, message.value()))
                    assert message.key() == found[-1].key
        return [fact for fact in found if fact.org_id == org]

    yield read
    consumer.close()


async def nothing_planned(*_):
    return 0


@asynccontextmanager
async def serving(settings, publisher_settings=None, *, timeout_s=5.0):
    async with (
        resources.opened(settings) as opened,
        publish.opened(
            (publisher_settings or settings).kafka_bootstrap, opened.schemas, timeout_s=timeout_s
        ) as publisher,
    ):
        transport = httpx.ASGITransport(gateway_app.create(opened, publisher), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://sync.example.org") as client:
            yield opened, client


@pytest.fixture
async def gateway(running, tail):
    org = f"org{next(_number)}"
    async with serving(running) as (opened, client):
        service = connections.service(running, "test", nothing_planned)
        async with opened.app.connection() as conn:
            made = await service.connect(conn, org, "parish", config.load(SYNC), Choices(entity_types=["person"]))
        yield Gateway(opened, client, org, made.webhook, tail)


@pytest.mark.covers("F127", "C18", "R18")
async def test_a_signed_webhook_is_durable_before_the_answer_and_its_replay_has_no_effect(gateway):
    body = b'{ "record" : ' + orjson.dumps(orjson.loads(record())["record"]) + b', "type":"record.changed" }\n'
    headers = gateway.sign(body)
    assert (await gateway.post(body, headers)).status_code == 202
    (fact,) = await gateway.facts(1)
    assert (fact.connection, fact.external_type, fact.external_id) == ("parish", "individual", "x1")
    assert (fact.source, fact.op, fact.complete) == ("webhook", "upsert", True)
    assert fact.delivery_id == headers["webhook-id"]
    assert orjson.loads(fact.payload) == {"firstName": "Ann"}
    for _ in range(2):
        assert (await gateway.post(body, headers)).status_code == 202
    assert await gateway.deliveries() == [(headers["webhook-id"], 1)]
    assert len(await gateway.facts(2, wait_s=1)) == 1


async def test_a_poll_of_the_same_state_is_the_same_event(gateway):
    await gateway.post(record())
    (fact,) = await gateway.facts(1)
    (read,) = registry.find("mock-sync-server").parse_webhook(record())
    sender = publish.Sender(gateway.org, "parish", "mock-sync-server")
    polled = publish.event_of(read, sender, source="poll", received_at=datetime.now(UTC))
    assert polled.event_id == fact.event_id
    other = publish.event_of(replace(read, external_id="x2"), sender, source="poll", received_at=datetime.now(UTC))
    assert other.event_id != fact.event_id


@pytest.mark.covers("F127")
async def test_a_wrong_signature_and_an_unknown_token_are_refused_alike(gateway):
    body = record()
    late = datetime.now(UTC) - timedelta(hours=1)
    refused = [
        await gateway.post(body, {}),
        await gateway.post(body + b" ", gateway.sign(body)),
        await gateway.post(body, gateway.sign(body, secret="whsec_c2VjcmV0")),
        await gateway.post(body, gateway.sign(body, at=late)),
        await gateway.post(body, gateway.sign(body), path="/hooks/nobody"),
        await gateway.post(body, {}, path="/hooks/nobody"),
        await gateway.post(b"\xff", {b"webhook-id": b"\xff"}, path="/hooks/%ff%00"),
    ]
    assert {answer.status_code for answer in refused} == {401}
    assert len({answer.content for answer in refused}) == 1
    assert len({tuple(sorted(answer.headers.items())) for answer in refused}) == 1
    assert refused[0].json()["code"] == "webhook_refused"
    assert await gateway.deliveries() == []
    assert await gateway.facts(1, wait_s=1) == []


async def test_a_body_has_a_cap_whatever_it_says_of_its_length(gateway):
    body = b"x" * (webhooks.CAP_BYTES + 1)

    async def pieces():
        for _ in range(17):
            yield b"x" * 2**16

    answer = await gateway.post(body)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    streamed = await gateway.client.post(gateway.path, content=pieces(), headers=gateway.sign(b""))
    assert streamed.status_code == 413
    unread = await gateway.post(b"{}", {"content-length": str(10**30)})
    assert (unread.status_code, unread.json()["code"]) == (413, "body_too_large")
    largest = orjson.dumps({"type": "other", "pad": "x" * (webhooks.CAP_BYTES - 40)})
    assert (await gateway.post(largest)).status_code == 202


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"type": "record.changed", "record": 7}', b"null"])
async def test_what_is_authentic_but_unreadable_is_kept_as_it_is(gateway, body):
    assert (await gateway.post(body)).status_code == 202
    (fact,) = await gateway.facts(1)
    assert (fact.op, fact.complete, fact.payload) == ("hint", False, body)


TWICE = b'{"type": "record.changed", "type": "record.changed", "record": {}}'


@pytest.mark.covers("F127", "C17")
@pytest.mark.parametrize(
    ("body", "encoding", "code"),
    [
        (b"[" * 10_000, "", "json_too_deep"),
        (TWICE, "", "json_key_twice"),
        (record(data={"n": 1}).replace(b"1}", b"9" * 50 + b"}"), "", "json_number_unbounded"),
        (gzip.compress(b"\0" * 2**24), "gzip", "answer_too_large"),
        (gzip.compress(record())[:-3], "gzip", "answer_unreadable"),
        (record(), "br", "answer_unreadable"),
        (record().decode().encode("utf-16"), "", "webhook_unreadable"),
    ],
)
async def test_what_breaks_a_limit_is_kept_as_it_came_with_the_reason(gateway, body, encoding, code):
    answer = await gateway.post(body, gateway.sign(body) | {"content-encoding": encoding})
    assert answer.status_code == 202
    (fact,) = await gateway.facts(1)
    assert (fact.op, fact.external_type, fact.payload) == ("hint", "", body)
    assert fact.content_type == f"; encoding={encoding}; refused={code}"


@pytest.mark.covers("F127")
@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_packed_webhook_is_signed_as_it_travels_and_read_as_it_was(gateway, encoding, pack):
    packed = pack(record(data={"firstName": "Ann" * 20_000}))
    wrong = gateway.sign(record()) | {"content-encoding": encoding}
    assert (await gateway.post(packed, wrong)).status_code == 401
    answer = await gateway.post(packed, gateway.sign(packed) | {"content-encoding": encoding})
    assert answer.status_code == 202
    (fact,) = await gateway.facts(1)
    assert (fact.external_id, fact.complete) == ("x1", True)
    assert orjson.loads(fact.payload) == {"firstName": "Ann" * 20_000}


async def test_a_webhook_that_holds_no_record_is_taken_and_remembered(gateway):
    body = orjson.dumps({"type": "ping"})
    assert (await gateway.post(body)).status_code == 202
    assert [count for _, count in await gateway.deliveries()] == [0]


async def test_while_a_secret_is_rotated_both_live_and_then_only_the_new_one(gateway, running):
    place = vault.Place(gateway.org, "mock-sync-server", "parish", "")
    from pydantic import SecretStr

    newer = "whsec_bmV3ZXIgc2VjcmV0IG9mIHRoZSB0ZXN0cw=="
    async with gateway.opened.app.connection() as conn:
        await credentials.rotate_webhook_secret(
            conn, gateway.opened.key, place, SecretStr(newer), not_after=clock.now() + timedelta(hours=1)
        )
    for secret in (gateway.secret, newer):
        body = record(id=secret)
        assert (await gateway.post(body, gateway.sign(body, secret=secret))).status_code == 202


async def test_an_odd_delivery_id_is_kept_by_its_hash(gateway):
    body = record()
    headers = gateway.sign(body, delivery="d" * 5000)
    assert (await gateway.post(body, headers)).status_code == 202
    assert (await gateway.post(body, headers)).status_code == 202
    ((kept, _),) = await gateway.deliveries()
    assert len(kept) == 64


# hints --------------------------------------------------------------------------------------------------------------


class Thin:
    """A system whose webhooks name a record, and hold its state only where they are told to."""

    def __init__(self, **manifest) -> None:
        self.manifest = replace(registry.find("mock-sync-server").manifest, **manifest)

    def parse_webhook(self, body: bytes) -> list[ExternalRecord]:
        told = orjson.loads(body)
        state = told.get("state", {})
        at = datetime(1970, 1, 1, tzinfo=UTC)
        return [ExternalRecord("individual", str(told["id"]), Op.UPDATE, at, state, complete=bool(state))]


@pytest.fixture
def speaks(gateway):
    """`speaks(scheme, …)`: from now on their webhooks are thin, and signed so."""

    def become(scheme, **manifest):
        thin = Thin(webhook_scheme=scheme, **manifest)
        gateway.client._transport.app.state.ingress.adapter = lambda _: thin

    return become


HINT, WHOLE = b'{"id": 5}', b'{"id": 5, "state": {"firstName": "Ann"}}'
NAMES = {"webhook_id_header": "x-delivery"}


@pytest.mark.covers("F127", "F131")
async def test_the_same_hint_again_is_another_one_where_nobody_names_deliveries(gateway, speaks):
    speaks(webhook.NONE)
    for _ in range(3):
        assert (await gateway.post(HINT, {})).status_code == 202
    facts = await gateway.facts(3)
    assert {(fact.op, fact.external_id, fact.complete, fact.payload) for fact in facts} == {("hint", "5", False, b"")}
    assert len({fact.event_id for fact in facts}) == 3, "the ledger of events drops none of them either"
    assert [count for _, count in await gateway.deliveries()] == [1, 1, 1]


@pytest.mark.parametrize("scheme", [webhook.NONE, webhook.HMAC_HEX])
async def test_a_hint_that_is_named_is_a_repeat_under_its_name(gateway, speaks, scheme):
    speaks(scheme, **NAMES)
    signed = webhook.sign(scheme, HINT, gateway.secret, "", datetime.now(UTC))
    for name in ("d1", "d1", "d2", "d1"):
        assert (await gateway.post(HINT, signed | {"x-delivery": name})).status_code == 202
    assert len({fact.event_id for fact in await gateway.facts(3, wait_s=1)}) == 2
    assert len(await gateway.deliveries()) == 2


@pytest.mark.covers("F127", "R18")
async def test_a_signed_body_that_nobody_names_is_a_repeat_only_where_it_holds_a_state(gateway, speaks):
    speaks(webhook.HMAC_HEX)
    for body in (WHOLE, HINT, WHOLE, HINT, b"{"):
        signed = webhook.sign(webhook.HMAC_HEX, body, gateway.secret, "", datetime.now(UTC))
        assert (await gateway.post(body, signed)).status_code == 202
        if body == b"{":
            assert (await gateway.post(body, signed)).status_code == 202
    facts = await gateway.facts(5, wait_s=1)
    assert sorted((fact.external_id, fact.complete) for fact in facts) == [
        ("", False),
        *[("5", False)] * 2,
        ("5", True),
    ]
    assert len({fact.event_id for fact in facts}) == 4


async def test_a_hint_under_a_new_signed_name_is_another_event(gateway, speaks):
    speaks(webhook.STANDARD)
    first = gateway.sign(HINT)
    for headers in (first, first, gateway.sign(HINT)):
        assert (await gateway.post(HINT, headers)).status_code == 202
    assert len({fact.event_id for fact in await gateway.facts(3, wait_s=1)}) == 2


@pytest.mark.parametrize("scheme", [webhook.NONE, webhook.STANDARD])
async def test_a_webhook_asks_the_database_twice(gateway, speaks, scheme, monkeypatch):
    speaks(scheme)
    asked = []
    execute = psycopg.AsyncConnection.execute

    async def counted(conn, query, *values, **how):
        asked.append(query)
        return await execute(conn, query, *values, **how)

    headers = gateway.sign(HINT) if scheme == webhook.STANDARD else {}
    assert (await gateway.post(HINT, headers)).status_code == 202  # the secret is known now
    monkeypatch.setattr(psycopg.AsyncConnection, "execute", counted)
    headers = gateway.sign(HINT) if scheme == webhook.STANDARD else {}
    assert (await gateway.post(HINT, headers)).status_code == 202
    assert len(asked) == 2


# neighbours that are down -------------------------------------------------------------------------------------------


async def test_a_disconnected_connection_hears_nothing(gateway, running):
    service = connections.service(running, "test", nothing_planned)
    async with gateway.opened.app.connection() as conn:
        await service.disconnect(conn, gateway.org, "parish")
    assert (await gateway.post(record())).status_code == 401


async def test_when_kafka_is_down_they_are_asked_to_send_it_again(gateway, running):
    down = running.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})
    body = record()
    headers = gateway.sign(body)
    async with serving(running, down, timeout_s=1.0) as (_, client):
        answer = await client.post(gateway.path, content=body, headers=headers)
        ready = await client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "kafka_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert (ready.status_code, ready.json()["postgres"]) == (503, "ok")
    assert await gateway.deliveries() == []
    assert (await gateway.post(body, headers)).status_code == 202
    assert len(await gateway.facts(1)) == 1


async def test_when_postgres_or_the_registry_is_down_they_are_asked_to_send_it_again(gateway, running, monkeypatch):
    monkeypatch.setattr(resources, "POOL_TIMEOUT_S", 0.3)
    nowhere = psycopg.conninfo.make_conninfo(running.dsn("app"), port=9)
    for update, code in [
        ({"postgres_app_dsn": nowhere}, "postgres_unreachable"),
        ({"registry_url": "http://127.0.0.1:9"}, "registry_unreachable"),
    ]:
        from pydantic import SecretStr

        given = {name: SecretStr(value) if "dsn" in name else value for name, value in update.items()}
        body = record()
        async with serving(running.model_copy(update=given)) as (_, client):
            answer = await client.post(gateway.path, content=body, headers=gateway.sign(body))
        assert (answer.status_code, answer.json()["code"]) == (503, code)
        assert int(answer.headers["retry-after"]) > 0


async def test_more_than_it_can_hold_is_sent_away_at_once(gateway):
    ingress = gateway.client._transport.app.state.ingress
    ingress.room = asyncio.Semaphore(0)
    answer = await gateway.post(record())
    assert (answer.status_code, answer.json()["code"]) == (503, "gateway_busy")


async def test_many_at_once_are_all_durable(gateway):
    bodies = [record(id=f"x{n}") for n in range(200)]
    answers = await asyncio.gather(*(gateway.post(body) for body in bodies))
    assert {answer.status_code for answer in answers} == {202}
    assert len({fact.external_id for fact in await gateway.facts(200)}) == 200


async def test_probes_and_metrics_need_no_token_and_everything_else_is_a_problem(gateway):
    assert (await gateway.client.get("/healthz")).status_code == 200
    ready = await gateway.client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"postgres": "ok", "kafka": "ok"})
    await gateway.post(record())
    told = (await gateway.client.get("/metrics")).text
    assert 'syncline_webhooks_total{outcome="accepted"}' in told
    assert gateway.path not in told
    lost = await gateway.client.get("/nowhere")
    assert (lost.status_code, lost.headers["content-type"]) == (404, "application/problem+json")
    assert (await gateway.client.get(gateway.path)).status_code == 405
    assert (await gateway.client.get("/v1/connections")).status_code == 401
