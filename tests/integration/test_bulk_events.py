"""`POST /v1/events` in process, on a real Postgres: who may bring events, and what becomes of each line."""

from __future__ import annotations

import base64
import gzip
from datetime import UTC, datetime, timedelta

import httpx
import orjson
import psycopg
import pytest
from fastapi import FastAPI
from psycopg_pool import AsyncConnectionPool
from pydantic import SecretStr

from connectors import config, registry
from schemas.problems import Problem
from streams import connections, vault
from streams.choices import Choices
from streams.gateway import access, api, events
from streams.store import api_keys
from streams.store.migrate import model_of

pytestmark = pytest.mark.integration
ORG, OTHER = "org_main", "org_other"
AT = "2026-03-01T12:00:00Z"


class Topic:
    """Stands for Kafka: keeps what is published, refuses from the nth chunk on."""

    def __init__(self) -> None:
        self.facts = []
        self.largest = 0
        self.chunks = 10**9

    async def publish(self, facts):
        if not self.chunks:
            raise Problem("kafka_unavailable", "Kafka did not take the event", "Send it again in a moment.")
        self.chunks -= 1
        self.largest = max(self.largest, len(facts))
        self.facts += facts
        return []


@pytest.fixture
async def pool(database):
    async with AsyncConnectionPool(
        database.dsn("app"), min_size=1, max_size=4, open=False, kwargs={"autocommit": True}
    ) as opened:
        async with opened.connection() as conn:
            await conn.execute("delete from sync.api_key; delete from sync.connection; delete from sync.audit")
        yield opened


async def no_plan(*_):
    return 0


class Gateway:
    """The application, two connections of one organisation and one of another."""

    def __init__(self, database, pool) -> None:
        self.pool, self.topic = pool, Topic()
        key = vault.parse_key(base64.b64encode(bytes(32)), "test")
        self.service = connections.Service(key, "https://sync.example.org", "api", no_plan)
        self.app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        services = api.Services(
            settings=database.model_copy(update={"gateway_token": SecretStr("the-token")}),
            pool=pool, service=self.service, model=model_of(database),
            manifest=lambda system: registry.find(system).manifest, now=lambda: datetime.now(UTC),
            publisher=self.topic,
        )  # fmt: skip
        api.install(self.app, services)
        access.check_routes(self.app)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url="http://api"
        )

    async def connect(self, org, *names):
        async with self.pool.connection() as conn:
            for name in names:
                given = config.load({"type": "sim-keyed", "url": "http://127.0.0.1:9", "extraFields": []})
                await self.service.connect(conn, org, name, given, Choices())

    async def key(self, name="export", connection=None, org=ORG):
        secret = api_keys.PREFIX + name
        async with self.pool.connection() as conn:
            now = datetime.now(UTC)
            await api_keys.create(conn, org, name, secret, connection=connection, by="ann", now=now)
        return secret

    async def post(self, secret, body, **headers):
        headers = {"authorization": f"Bearer {secret}", **headers}
        return await self.http.post("/v1/events", content=body, headers=headers)

    async def bring(self, secret, *lines):
        answer = await self.post(secret, b"\n".join(map(line, lines)))
        assert (answer.status_code, answer.headers["content-type"]) == (200, events.NDJSON)
        return [orjson.loads(each) for each in answer.content.splitlines()]


def line(content) -> bytes:
    return content if isinstance(content, bytes) else orjson.dumps(content)


def person(number=1, **changes):
    return {"type": "people", "id": f"p{number}", "op": "upsert", "at": AT, "data": {"first_name": "Ann"}, **changes}


@pytest.fixture
async def gateway(database, pool):
    made = Gateway(database, pool)
    await made.connect(ORG, "clinic", "parish")
    await made.connect(OTHER, "theirs")
    async with made.http:
        yield made


@pytest.mark.covers("C7", "C17")
async def test_a_bad_line_is_refused_alone(gateway):
    key = await gateway.key(connection="clinic")
    long = b'{"data": "' + b"x" * events.LINE_MOST_BYTES + b'"}'
    lines = [person(1), b"{", b"", person(2, op="erase"), long, person(3, type="cats"), person(4)]
    told = await gateway.bring(key, *lines)
    assert [(each["line"], each["status"], each.get("code")) for each in told] == [
        (1, "accepted", None), (2, "refused", "line_unreadable"), (4, "refused", "line_invalid"),
        (5, "refused", "line_too_long"), (6, "refused", "type_unknown"), (7, "accepted", None),
    ]  # fmt: skip
    assert all(each.get("cause") for each in told if each["status"] == "refused")
    first, last = gateway.topic.facts
    assert [first.event_id.hex(), last.event_id.hex()] == [told[0]["event_id"], told[-1]["event_id"]]
    assert (first.org_id, first.connection, first.system) == (ORG, "clinic", "sim-keyed")
    assert (first.external_type, first.external_id, first.op, first.source) == ("people", "p1", "upsert", "api")
    assert first.complete
    assert first.occurred_at == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert orjson.loads(first.payload) == {"first_name": "Ann"}


@pytest.mark.covers("C6", "C17")
async def test_the_same_lines_again_are_the_same_events(gateway):
    key = await gateway.key(connection="clinic")
    first = await gateway.bring(key, person(1), person(2, op="delete"))
    assert await gateway.bring(key, person(1), person(2, op="delete")) == first
    assert len({fact.event_id for fact in gateway.topic.facts}) == 2
    (other,) = await gateway.bring(key, person(1, data={"first_name": "Bea"}))
    assert other["event_id"] not in {each["event_id"] for each in first}


async def test_a_key_opens_its_own_connections_only(gateway):
    limited, wide, stranger = (
        await gateway.key("limited", "clinic"), await gateway.key("wide"), await gateway.key("theirs", org=OTHER),
    )  # fmt: skip

    async def told(key, **changes):
        ((each,), facts) = await gateway.bring(key, person(**changes)), gateway.topic.facts
        return each.get("code") or (facts[-1].org_id, facts[-1].connection)

    assert await told(limited) == (ORG, "clinic")
    assert await told(limited, connection="parish") == "connection_refused"
    assert await told(wide) == "connection_needed"
    assert await told(wide, connection="parish") == (ORG, "parish")
    assert await told(wide, connection="theirs") == "connection_unknown"
    assert await told(stranger) == (OTHER, "theirs")
    assert await told(stranger, connection="clinic") == "connection_unknown"
    assert await told("the-token", connection="clinic") == (ORG, "clinic")
    async with gateway.pool.connection() as conn:
        await gateway.service.disconnect(conn, ORG, "parish")
    assert await told(wide, connection="parish") == "connection_unknown"


async def test_without_a_key_that_lives_nothing_is_taken(gateway):
    key = await gateway.key()
    async with gateway.pool.connection() as conn:
        await api_keys.revoke(conn, ORG, "export", by="ann", now=datetime.now(UTC))
        await api_keys.revoke(conn, ORG, "export", by="ann", now=datetime.now(UTC) + timedelta(days=1))
        (row,) = await api_keys.list_all(conn, ORG)
        actions = await (await conn.execute("select action from sync.audit where subject = 'export'")).fetchall()
    assert row["revoked_at"] < datetime.now(UTC)
    assert [action for (action,) in actions] == ["key.create", "key.revoke", "key.revoke"]
    for wrong in (key, key + "x", "", "slk_", "slk_\u00e9", "other"):
        answer = await gateway.post(wrong.encode(), b"", authorization=f"Bearer {wrong}".encode())
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorised")
    # A key opens nothing else.
    live = await gateway.key("live")
    answer = await gateway.http.get("/v1/connections", headers={"authorization": f"Bearer {live}"})
    assert answer.status_code == 401
    assert gateway.topic.facts == []


async def test_keys_are_kept_as_hashes_and_their_names_once(gateway):
    key = await gateway.key("etl")
    async with gateway.pool.connection() as conn:
        text = str(await (await conn.execute("select k::text from sync.api_key k")).fetchall())
        assert key not in text
        for name, connection, code in [
            ("etl", None, "key_exists"), ("An ETL", None, "name_invalid"), ("x", "nowhere", "connection_unknown"),
        ]:  # fmt: skip
            with pytest.raises(Problem) as raised:
                await api_keys.create(conn, ORG, name, "slk_x", connection=connection, by="ann", now=datetime.now(UTC))
            assert raised.value.code == code
        with pytest.raises(Problem) as raised:
            await api_keys.revoke(conn, OTHER, "etl", by="ann", now=datetime.now(UTC))
        assert raised.value.code == "key_unknown"


async def test_when_kafka_takes_no_more_the_answer_tells_where_to_go_on(gateway):
    key = await gateway.key(connection="clinic")
    gateway.topic.chunks = 2
    count = events.CHUNK_LINES * 3
    lines = [b"{" if n == 7 else line(person(n)) for n in range(1, count + 1)]
    answer = await gateway.post(key, b"\n".join(lines))
    told = answer.json()
    assert (answer.status_code, told["code"]) == (503, "kafka_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert (told["accepted"], told["refused"], told["next_line"]) == (2 * events.CHUNK_LINES - 1, 1, 1001)
    assert [each["line"] for each in told["results"]] == list(range(1, 1001))
    assert len(gateway.topic.facts) == told["accepted"]
    gateway.topic.chunks = 10
    rest = await gateway.bring(key, *lines[told["next_line"] - 1 :])
    assert len(rest) == events.CHUNK_LINES
    assert len({fact.external_id for fact in gateway.topic.facts}) == count - 1


async def test_a_large_body_goes_through_in_chunks_however_it_is_cut_and_packed(gateway):
    key = await gateway.key(connection="clinic")
    body = b"\n".join(line(person(n)) for n in range(2300)) + b"\n"

    async def pieces():
        for start in range(0, len(body), 777):
            yield body[start : start + 777]

    for content, headers in [
        (pieces(), {}), (gzip.compress(body), {"content-encoding": "gzip"}), (body.replace(b"\n", b"\r\n"), {}),
    ]:  # fmt: skip
        gateway.topic.facts = []
        answer = await gateway.post(key, content, **headers)
        assert answer.status_code == 200
        assert len(answer.content.splitlines()) == 2300
        assert [fact.external_id for fact in gateway.topic.facts] == [f"p{n}" for n in range(2300)]
    assert gateway.topic.largest == events.CHUNK_LINES


async def test_what_is_beyond_the_bounds_is_refused_with_what_was_taken_before(gateway, monkeypatch):
    key = await gateway.key(connection="clinic")
    monkeypatch.setattr(events, "BODY_MOST_BYTES", 2**20)
    monkeypatch.setattr(events, "LINES_MOST", 1200)
    bomb = gzip.compress(line(person(1)) + b"\n" + bytes(2**24))
    lines = b"\n".join(line(person(n)) for n in range(2000))
    cut = gzip.compress(b"\n".join(lines.splitlines()[:1100]))[:-20]
    for content, headers, status, code, taken in [
        (b"x" * (2**20 + 1), {}, 413, "body_too_large", None),
        (bomb, {"content-encoding": "gzip"}, 413, "body_too_large", 0),
        (cut, {"content-encoding": "gzip"}, 400, "body_unreadable", 1000),
        (lines, {"content-encoding": "zstd"}, 400, "body_unreadable", 0),
        (lines, {}, 413, "too_many_lines", 1200),
    ]:
        answer = await gateway.post(key, content, **headers)
        assert (answer.status_code, answer.json()["code"], answer.json().get("accepted")) == (status, code, taken)


async def test_too_many_bodies_at_once_are_sent_away(gateway):
    key = await gateway.key(connection="clinic")
    room = gateway.app.state.api.bulks
    for _ in range(room._value):
        await room.acquire()
    answer = await gateway.post(key, line(person()))
    assert (answer.status_code, answer.json()["code"]) == (503, "gateway_busy")


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
async def test_lines_are_the_same_however_the_body_is_cut(size, monkeypatch):
    monkeypatch.setattr(events, "LINE_MOST_BYTES", 10)
    body = b"a\n\nbcd\n" + b"x" * 11 + b"\n" + b"y" * 10 + b"\nend"

    async def pieces():
        for start in range(0, len(body), size):
            yield body[start : start + size]

    found = [each async for each in events.lines(pieces())]
    assert found == [b"a", b"", b"bcd", None, b"y" * 10, b"end"]


async def test_a_webhook_secret_is_rotated_with_an_overlap_and_the_old_one_ends(gateway, pool):
    from streams.store import credentials

    now = datetime.now(UTC)
    place = vault.Place(ORG, "sim-keyed", "clinic", "")

    async def live(at):
        return [
            each.get_secret_value() for each in await credentials.webhook_secrets(conn, gateway.service.key, place, at)
        ]

    async with pool.connection() as conn:
        (old,) = await live(now)
        made = await gateway.service.rotate_webhook(conn, ORG, "clinic", timedelta(hours=2))
        new = made.secret.get_secret_value()
        assert new != old
        assert await live(now + timedelta(hours=1)) == [new, old]
        assert await live(now + timedelta(hours=3)) == [new]
        await gateway.service.rotate_webhook(conn, ORG, "clinic", timedelta())
        (newest,) = await live(datetime.now(UTC))
        assert newest not in (old, new)
        for overlap, name, code in [
            (timedelta(days=91), "clinic", "value_invalid"), (timedelta(seconds=-1), "clinic", "value_invalid"),
            (timedelta(), "nowhere", "connection_unknown"),
        ]:  # fmt: skip
            with pytest.raises(Problem) as raised:
                await gateway.service.rotate_webhook(conn, ORG, name, overlap)
            assert raised.value.code == code


async def test_the_database_holds_one_key_of_a_name(gateway):
    await gateway.key("etl")
    async with gateway.pool.connection() as conn:
        with pytest.raises(psycopg.errors.UniqueViolation):
            await conn.execute(
                """insert into sync.api_key (hash, org_id, name, created_by, created_at)
                   values ('x', %s, 'etl', 'x', %s)""",
                (ORG, datetime.now(UTC)),
            )
