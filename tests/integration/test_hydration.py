"""Hints and parts of records, read in full: real Postgres, the applier, and a client whose answers a test writes."""

from __future__ import annotations

import itertools
import os
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from psycopg_pool import AsyncConnectionPool

from connectors.contract import CreateTier, ExternalRecord, Op
from connectors.errors import Ambiguous, Rejected, Unauthorized
from schemas import events
from streams import topics
from streams.inbound import polls, publish
from streams.inbound.hydration import LEASE, Hydrator
from streams.rules.clock_errors import Measured
from streams.rules.hydration import BURST
from streams.store import clock_errors
from tests.integration.both_ways import SCHEMA_ID, BothWays, both_ways
from tests.integration.scripted import with_tier

pytestmark = pytest.mark.integration
MANIFEST = with_tier(CreateTier.SEARCH, read_lag=timedelta(seconds=20))
_number = itertools.count()


class Topic:
    """Stands for Kafka: keeps what was published; fails when it is told to."""

    def __init__(self) -> None:
        self.facts: list[events.InboundEvent] = []

    async def publish(self, facts):
        self.facts += facts
        return [publish.Place(0, n) for n, _ in enumerate(facts)]

    async def encoded(self, fact):
        return events.encode(fact, SCHEMA_ID)

    def take(self) -> list[events.InboundEvent]:
        found, self.facts = self.facts, []
        return found


class Reading:
    """`both` and a hydrator for its connection. `hints` are of one record each; `read` makes one round of reads."""

    def __init__(self, both: BothWays, pool: AsyncConnectionPool) -> None:
        self.both, self.out, self.theirs, self.topic = both, both.out, both.out.theirs, Topic()
        self.hurried: list[str] = []
        self.pool = pool
        self.hydrator = self.worker(pool)

    def worker(self, pool) -> Hydrator:
        return Hydrator(
            pool, self.topic, manifest=lambda _: self.out.manifest, open_client=self.client, hurry=self.hurry,
            now=lambda: self.out.now, spread=lambda: 1.0,
        )  # fmt: skip

    @asynccontextmanager
    async def client(self, _):
        yield self.theirs

    async def hurry(self, _, external_type):
        self.hurried.append(external_type)

    async def hint(self, *ids: str) -> None:
        facts = [self.both.event(each, {}, self.out.now) for each in ids]
        facts = [replace(each, op="hint", complete=False, event_id=os.urandom(16)) for each in facts]
        await self.both.hear(*facts)

    async def read(self, hydrator: Hydrator | None = None) -> int:
        return await (hydrator or self.hydrator).hydrate(await self.out.connection())

    async def apply(self) -> None:
        await self.both.hear(*self.topic.take())

    def holds(self, **fields: object) -> None:
        at = self.out.now
        self.theirs.fetched = lambda their_id: ExternalRecord(
            self.both.kind, their_id, Op.UPDATE, at, payload=fields, external_version=at.isoformat()
        )

    def wait(self, seconds: float) -> None:
        self.out.now += timedelta(seconds=seconds)

    async def wish(self, their_id: str = "x1"):
        (row,) = await self.both.rows(
            "select * from sync.fetch_intent where org_id = %s and external_id = %s", self.out.org, their_id
        )
        return row

    async def names(self) -> list[str]:
        return [row["first_name"] for row in await self.both.people() if row["deleted_at"] is None]


@pytest.fixture
async def reading(database):
    async with (
        both_ways(database, f"hydrate{next(_number)}", manifest=MANIFEST, delete_policy="archive") as both,
        AsyncConnectionPool(
            database.dsn("app"), open=False, min_size=1, max_size=2, kwargs={"autocommit": True}
        ) as pool,
    ):
        yield Reading(both, pool)


def failing(error: Exception):
    def fetch(_):
        raise error

    return fetch


@pytest.mark.covers("F127", "F131")
async def test_a_hint_is_read_in_full_and_applied(reading):
    reading.holds(firstName="Ann")
    await reading.hint("x1")
    assert await reading.read() == 1
    assert [(fact.source, fact.op, fact.complete) for fact in reading.topic.facts] == [("fetch", "upsert", True)]
    await reading.apply()
    assert await reading.names() == ["Ann"]
    assert await reading.read() == 0


@pytest.mark.covers("F131")
async def test_part_of_a_record_is_read_in_full_even_where_it_was_all_there_is(reading):
    reading.holds(firstName="Ann")
    sender = publish.Sender(reading.out.org, reading.out.name, reading.out.manifest.name)
    part = replace(reading.theirs.fetched("x1"), complete=False)
    await reading.both.hear(publish.event_of(part, sender, source="webhook", received_at=reading.out.now))
    await reading.read()
    await reading.apply()
    assert await reading.names() == ["Ann"]


@pytest.mark.covers("F131")
async def test_an_unsigned_webhook_does_not_hide_the_record_that_it_names(reading):
    reading.holds(firstName="Ann")
    sender = publish.Sender(reading.out.org, reading.out.name, reading.out.manifest.name)
    told = publish.event_of(reading.theirs.fetched("x1"), sender, source="webhook", received_at=reading.out.now)
    await reading.both.hear(publish.hint_of(told))
    assert await reading.names() == []
    await reading.read()
    await reading.apply()
    assert await reading.names() == ["Ann"]


@pytest.mark.covers("F131")
async def test_a_hint_during_the_read_causes_another_read(reading):
    reading.holds(firstName="Ann")
    await reading.hint("x1")
    connection = await reading.out.connection()
    claims = await reading.hydrator._claim(connection, MANIFEST, [])
    reads = [await reading.hydrator._read(reading.theirs, connection, MANIFEST, each) for each in claims]
    reading.wait(1)
    reading.holds(firstName="Anna")
    await reading.hint("x1")
    await reading.hydrator._record(connection, reads)
    wish = await reading.wish()
    assert (wish["wanted_seq"], wish["done_seq"], wish["lease_until"]) == (2, 1, None)
    assert await reading.read() == 1
    await reading.apply()
    assert await reading.names() == ["Anna"]
    assert (await reading.wish())["done_seq"] == 2


@pytest.mark.covers("F131", "F141")
async def test_a_worker_that_dies_after_publishing_has_its_read_repeated_without_a_second_effect(reading, monkeypatch):
    from streams.store import fetches

    async def dies(*_):
        raise ConnectionResetError

    reading.holds(firstName="Ann")
    await reading.hint("x1")
    with monkeypatch.context() as crash:
        crash.setattr(fetches, "settle", dies)
        with pytest.raises(ConnectionResetError):
            await reading.read()
    other = reading.worker(reading.pool)
    assert await reading.read(other) == 0, "the lease of the first one still runs"
    reading.wait(LEASE.total_seconds())
    assert await reading.read(other) == 1
    assert len({fact.event_id for fact in reading.topic.facts}) == 1
    assert len(reading.topic.facts) == 2
    await reading.apply()
    (person,) = await reading.both.people()
    assert person["version"] == 1


async def test_a_worker_that_comes_too_late_does_not_settle_what_another_has_taken_over(reading):
    reading.theirs.fetched = failing(Ambiguous("http_500", "down", status=500))
    await reading.hint("x1")
    connection = await reading.out.connection()
    (claim,) = await reading.hydrator._claim(connection, MANIFEST, [])
    late = await reading.hydrator._read(reading.theirs, connection, MANIFEST, claim)
    reading.wait(LEASE.total_seconds())
    await reading.worker(reading.pool)._claim(connection, MANIFEST, [])
    taken = await reading.wish()
    await reading.hydrator._record(connection, [late])
    assert await reading.wish() == taken


@pytest.mark.covers("C16")
async def test_a_record_that_is_missing_once_and_comes_back_is_an_ordinary_update(reading):
    reading.holds(firstName="Ann")
    await reading.hint("x1")
    await reading.read()
    await reading.apply()
    reading.wait(60)
    reading.theirs.fetched = lambda _: None
    await reading.hint("x1")
    await reading.read()
    assert reading.topic.facts == []
    assert (await reading.wish())["missed_at"] == reading.out.now
    reading.wait(19)
    await reading.hint("x1")
    assert await reading.read() == 0, "a further hint does not make it be asked too early"
    reading.wait(1)
    reading.holds(firstName="Anna")
    assert await reading.read() == 1
    await reading.apply()
    assert await reading.names() == ["Anna"]
    assert (await reading.wish())["missed_at"] is None


@pytest.mark.covers("C16")
async def test_a_record_that_is_missing_twice_is_deleted_as_of_the_first_miss(reading):
    reading.holds(firstName="Ann")
    await reading.hint("x1")
    await reading.read()
    await reading.apply()
    reading.wait(60)
    reading.theirs.fetched = lambda _: None
    missed_at = reading.out.now
    await reading.hint("x1")
    for _ in range(2):
        await reading.read()
        reading.wait(20)
    assert [(fact.op, fact.occurred_at) for fact in reading.topic.facts] == [("delete", missed_at)]
    await reading.apply()
    (person,) = await reading.both.people()
    assert person["deleted_at"] is not None
    assert await reading.read() == 0


@pytest.mark.covers("F068", "F131")
async def test_a_read_that_fails_for_now_is_made_again_later(reading):
    reading.theirs.fetched = failing(Ambiguous("http_500", "down", status=500))
    await reading.hint("x1")
    assert await reading.read() == 1
    assert await reading.read() == 0
    wish = await reading.wish()
    assert (wish["attempt"], wish["error_code"], wish["done_seq"]) == (1, "http_500", 0)
    reading.wait(1)
    reading.holds(firstName="Ann")
    assert await reading.read() == 1
    wish = await reading.wish()
    assert (wish["attempt"], wish["error_code"], wish["first_failed_at"]) == (0, None, None)


async def test_a_system_that_is_down_is_not_asked_for_every_record(reading):
    asked = []

    def fetch(their_id):
        asked.append(their_id)
        raise Ambiguous("http_500", "down", status=500)

    reading.theirs.fetched = fetch
    await reading.hint(*(f"x{n}" for n in range(40)))
    while await reading.read():
        pass
    assert len(asked) < 3 * MANIFEST.concurrency
    reading.wait(60)
    reading.holds(firstName="Ann")
    while await reading.read():
        reading.wait(60)
    assert len(reading.topic.facts) == 40


async def test_a_refused_credential_pauses_the_connection_and_loses_nothing(reading):
    reading.theirs.fetched = failing(Unauthorized("http_401", "no", status=401))
    await reading.hint("x1")
    await reading.read()
    connection = await reading.out.connection()
    assert (connection.state, connection.state_reason) == ("paused", "http_401: no")
    assert (await reading.wish())["done_seq"] == 0
    await reading.out.sql("update sync.connection set state = 'active' where org_id = %s", reading.out.org)
    reading.holds(firstName="Ann")
    assert await reading.read() == 1


@pytest.mark.covers("C11")
@pytest.mark.parametrize("error", [Rejected("http_422", "no", status=422), KeyError("a bug")])
async def test_a_record_that_they_refuse_to_give_is_a_dead_letter_that_can_be_redriven(reading, error):
    reading.theirs.fetched = failing(error)
    await reading.hint("x1")
    await reading.read()
    (letter,) = await reading.both.rows("select * from sync.dead_letter where org_id = %s", reading.out.org)
    assert letter["code"] == getattr(error, "code", "fetch_failed")
    assert letter["headers"]["external_id"] == "x1"
    assert await reading.read() == 0
    from schemas.codec import Codec
    from tests.integration.both_ways import OneSchema

    codec = Codec(OneSchema())
    await codec.learn([letter["value"]])
    await reading.both.hear(replace(events.decode(codec, letter["value"]), source="redrive"))
    reading.holds(firstName="Ann")
    assert await reading.read() == 1
    await reading.apply()
    assert await reading.names() == ["Ann"]


@pytest.mark.covers("F131", "C16")
async def test_a_burst_of_hints_is_left_to_one_poll_and_what_it_does_not_bring_is_read(reading):
    reading.theirs.fetched = lambda _: None
    ids = [f"x{n}" for n in range(BURST + 1)]
    await reading.hint(*ids)
    assert await reading.read() == 0
    assert reading.hurried == [reading.both.kind]
    reading.wait(1)
    scope = (reading.out.org, reading.out.name, reading.both.kind, reading.out.now)
    await reading.out.sql(
        "insert into sync.checkpoint (org_id, connection, external_type, polled_at) values (%s, %s, %s, %s)", *scope
    )
    from streams.store import fetches

    async with reading.pool.connection() as conn:
        await fetches.brought(conn, await reading.out.connection(), reading.both.kind, ids[2:], reading.out.now)
    assert await reading.read() == 2
    assert {(await reading.wish(each))["missed_at"] for each in ids[:2]} == {reading.out.now}
    assert reading.hurried == [reading.both.kind]


async def test_a_burst_is_read_singly_where_there_is_no_poll(reading):
    await reading.out.sql("update sync.connection set mode = 'realtime' where org_id = %s", reading.out.org)
    reading.holds(firstName="Ann")
    await reading.hint(*(f"x{n}" for n in range(BURST + 1)))
    assert await reading.read() == BURST + 1
    assert reading.hurried == []


@pytest.mark.covers("C16")
async def test_a_delete_that_was_found_out_is_told_by_their_clock(reading):
    reading.theirs.fetched = lambda _: None
    async with reading.pool.connection() as conn:
        ahead = Measured(timedelta(minutes=-30), timedelta(minutes=31))
        await clock_errors.save(conn, reading.out.org, reading.out.name, ahead, now=reading.out.now)
    missed_at = reading.out.now
    await reading.hint("x1")
    await reading.read()
    reading.wait(20)
    await reading.read()
    (fact,) = reading.topic.facts
    assert fact.occurred_at == missed_at - timedelta(minutes=30)


@pytest.mark.covers("F145")
@pytest.mark.parametrize("known_s", [-10, 0, 30])
async def test_a_delete_that_was_found_out_is_later_than_all_we_know_of_the_record(reading, known_s):
    """Also where their clock is ahead of ours and nobody has measured it."""
    known_at = reading.out.now + timedelta(seconds=known_s)
    await reading.both.hear(reading.both.event("x1", {"firstName": "Ann"}, known_at, external_version="7"))
    assert await reading.names() == ["Ann"]
    await reading.hint("x1")
    await reading.read()
    reading.wait(20)
    await reading.read()
    (gone,) = reading.topic.facts
    assert gone.occurred_at > known_at
    await reading.apply()
    assert await reading.names() == []


@pytest.mark.covers("C13", "F053", "F131")
async def test_what_a_poll_brought_in_part_holds_applied_through_until_it_is_read_and_applied(reading):
    at = reading.out.now
    scope = (reading.out.org, reading.out.name, reading.both.kind)
    await reading.both.rows(
        "insert into sync.checkpoint (org_id, connection, external_type, fetched_through) values (%s, %s, %s, %s)",
        *scope, at,
    )  # fmt: skip

    async def through():
        async with reading.pool.connection() as conn:
            await polls.settle(conn, *scope[:2])
        (row,) = await reading.both.rows("select applied_through from sync.checkpoint where org_id = %s", scope[0])
        return row["applied_through"]

    part = reading.both.event("x1", {"firstName": "A"}, at - timedelta(minutes=2), source="poll", complete=False)
    await reading.both.hear(part)
    assert await through() == at - timedelta(minutes=2, microseconds=1)
    reading.holds(firstName="Ann")
    await reading.read()
    assert await through() < at, "it is read, and on its way to the applier"
    await reading.both.rows(
        "insert into sync.progress (consumer, topic, partition, next_offset) values (%s, %s, 0, 1)",
        polls.APPLIER, topics.INBOUND,
    )  # fmt: skip
    assert await through() == at
