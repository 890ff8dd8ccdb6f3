"""Polls against an emulated system, through the real Kafka, applied on a real Postgres of the test's own."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx
import orjson
import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition
from psycopg.rows import dict_row

from connectors import emulators, registry
from connectors.contract import ExternalRecord, Op, Page
from streams import clock, resources, topics
from streams.chunks import Chunk
from streams.inbound import fetching, late_references, polls, publish, schedule
from streams.inbound.agents import ApplyAgent
from streams.inbound.applier import Applier
from streams.inbound.hydration import Hydrator
from streams.inbound.polls import Poller
from streams.inbound.schedule import Schedule
from streams.store import connections, operations
from streams.vault import key_path

pytestmark = pytest.mark.integration
_number = itertools.count(time.time_ns())


def manifest(system: str):
    return registry.find(system).manifest


@pytest.fixture(scope="module")
def settings(stack, database):
    """A database of this module's own, the stack's Kafka and registry."""
    theirs = stack.info()
    topics.ensure(theirs.kafka_bootstrap, partitions=theirs.kafka_partitions)
    found = database.model_copy(
        update={name: getattr(theirs, name) for name in ("kafka_bootstrap", "kafka_partitions", "registry_url")}
    )
    key_path(found).write_text("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
    return found


class Tail:
    """The topic from where it ended when the module began, handed to the agent chunk by chunk, as the runner does."""

    def __init__(self, settings) -> None:
        how = {"bootstrap.servers": settings.kafka_bootstrap, "group.id": "test", "enable.auto.commit": False}
        # Two: a question behind a waiting fetch waits with it.
        self.consumer, self.asking = Consumer(how), Consumer(how)
        self.positions = {}
        for partition in range(settings.kafka_partitions):
            self.positions[partition] = self._end(partition)
        self.consumer.assign([TopicPartition(topics.INBOUND, p, n) for p, n in self.positions.items()])

    def _end(self, partition: int) -> int:
        return self.asking.get_watermark_offsets(TopicPartition(topics.INBOUND, partition), timeout=10)[1]

    async def drain(self, agent: ApplyAgent, *, only: int | None = None) -> None:
        """Apply everything that is in the topic now, or in one of its partitions."""
        ends = {partition: self._end(partition) for partition in self.positions}
        records = {partition: [] for partition in ends}
        while any(self.positions[p] + len(records[p]) < end for p, end in ends.items()):
            message = await asyncio.to_thread(self.consumer.poll, 1.0)
            assert message is not None
            assert message.error() is None
            records[message.partition()].append(Record(message))
        for partition, found in records.items():
            if found and only not in (None, partition):
                self.consumer.seek(TopicPartition(topics.INBOUND, partition, self.positions[partition]))
            elif found:
                first, end = self.positions[partition], found[-1].offset + 1
                await agent([Chunk(topics.INBOUND, partition, first, end, found)])
                self.positions[partition] = end


class Record:
    def __init__(self, message) -> None:
        self.offset, self.key, self.value = message.offset(), message.key(), message.value()
        self.timestamp, self.headers = message.timestamp()[1], ()


@pytest.fixture(scope="module")
def tail(settings):
    found = Tail(settings)
    yield found
    found.consumer.close()
    found.asking.close()


class Parish:
    """One organisation connected to an emulated system."""

    def __init__(self, org, emulated, opened, publisher, agent, tail, admin) -> None:
        self.org, self.url, self.opened, self.publisher = org, emulated.url, opened, publisher
        self.agent, self.tail, self.admin = agent, tail, admin
        self.poller = Poller(opened.app, publisher, manifest, opened.client, now=clock.now)

    async def theirs(self, method, path, body=None):
        async with httpx.AsyncClient(base_url=f"{self.url}/_emulator") as client:
            answer = await client.request(method, path, json=body)
            assert answer.status_code < 300, answer.text
            return answer.json() if answer.content else None

    async def put(self, record_id="x1", kind="individual", **fields):
        return await self.theirs("PUT", f"/records/{kind}/{record_id}", fields)

    async def connection(self):
        async with self.opened.app.connection() as conn:
            return await connections.load_connection(conn, self.org, "parish")

    async def poll(self, kind="individual", poller=None):
        return await (poller or self.poller).poll(await self.connection(), kind)

    async def apply(self, **how):
        await self.tail.drain(self.agent, **how)
        async with self.opened.app.connection() as conn:
            await polls.settle(conn, self.org, "parish")

    async def rows(self, statement, *values):
        async with self.admin.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement, values)
            return await cursor.fetchall() if cursor.description else []

    async def checkpoint(self, kind="individual"):
        (row,) = await self.rows(
            "select * from sync.checkpoint where org_id = %s and external_type = %s", self.org, kind
        )
        return row

    def wish_of(self, their_id, kind="individual"):
        names = {"external_id": their_id, "external_type": kind, "connection": "parish", "org_id": self.org}
        return names | {"reason": "hint"}

    async def wish(self, *ids):
        async with self.opened.applier.connection() as conn:
            await fetching.want(conn, [self.wish_of(each) for each in ids], clock.now())

    async def living(self):
        found = await self.rows(
            "select first_name from canon.person where org_id = %s and deleted_at is null order by 1", self.org
        )
        return [row["first_name"] for row in found]

    async def names(self):
        found = await self.rows("select first_name from canon.person where org_id = %s order by 1", self.org)
        return [row["first_name"] for row in found]


@pytest.fixture
async def parish(settings, tail):
    org = f"org{next(_number)}"
    gates = orjson.dumps(dict.fromkeys(("campus", "household", "person"), "live")).decode()
    async with (
        emulators.serve("mock-sync-server") as emulated,
        resources.opened(settings) as opened,
        publish.opened(settings.kafka_bootstrap, opened.schemas) as publisher,
        await psycopg.AsyncConnection.connect(settings.dsn("admin"), autocommit=True) as admin,
    ):
        await admin.execute(
            "insert into sync.connection (org_id, name, system, url, gates, poll_interval_s)"
            " values (%s, 'parish', 'mock-sync-server', %s, %s, 0.3)",
            (org, f"{emulated.url}/mock-sync", gates),
        )
        applier = Applier(opened.model, manifest, clock.now)
        agent = ApplyAgent(opened.applier, opened.codec, applier, now=clock.now, wake=lambda: None)
        yield Parish(org, emulated, opened, publisher, agent, tail, admin)
        await admin.execute("update sync.connection set state = 'disconnected' where org_id = %s", (org,))


@pytest.mark.covers("F124", "F125", "F126", "F133")
async def test_the_first_poll_reads_all_and_later_ones_what_changed(parish):
    await parish.theirs("POST", "/clock", {"skew_s": -2})
    for n in range(3):
        await parish.put(f"x{n}", firstName=f"P{n}")
    polled = await parish.poll()
    assert (polled.read, polled.published, polled.error) == (3, 3, "")
    before = await parish.checkpoint()
    assert before["fetched_through"] is not None
    await parish.apply()
    assert await parish.names() == ["P0", "P1", "P2"]
    after = await parish.checkpoint()
    assert after["applied_through"] == after["fetched_through"] == before["fetched_through"]
    again = await parish.poll()
    assert (again.read, again.published) == (3, 0), "the overlap is read, and nothing of it is sent twice"
    await parish.theirs("POST", "/clock", {"skew_s": 0})
    await parish.put("x1", firstName="changed")
    assert (await parish.poll()).published == 1
    await parish.apply()
    assert await parish.names() == ["P0", "P2", "changed"]
    assert (await parish.checkpoint())["fetched_through"] > before["fetched_through"]


@pytest.mark.covers("F053", "C13")
async def test_applied_through_follows_the_applier_and_never_overtakes_it(parish):
    await parish.theirs("POST", "/clock", {"skew_s": -2})
    for n in range(30):
        await parish.put(f"x{n}", firstName=f"P{n}")
    polled = await parish.poll()
    reached = sorted(polled.positions)
    assert len(reached) > 1
    await parish.apply(only=reached[0])
    assert (await parish.checkpoint())["applied_through"] is None
    first = (await parish.checkpoint())["fetched_through"]
    await parish.theirs("POST", "/clock", {"skew_s": 0})
    await parish.put("x0", firstName="later")
    await parish.poll()
    await parish.apply()
    checkpoint = await parish.checkpoint()
    assert checkpoint["applied_through"] == checkpoint["fetched_through"] > first
    assert await parish.rows("select * from sync.poll_mark where org_id = %s", parish.org) == []


@pytest.mark.covers("C13", "C11")
async def test_applied_through_stops_before_an_event_that_waits_for_a_person(parish):
    await parish.theirs("POST", "/clock", {"skew_s": -2})
    await parish.put("good", firstName="Good")
    good = (await parish.theirs("GET", "/state"))["records"]["individual"]["good"]["timestamp"]
    await parish.put("bad", birthDate="yesterday")
    await parish.put("later", firstName="Later")
    await parish.theirs("POST", "/clock", {"skew_s": 0})
    await parish.poll()
    await parish.apply()
    assert await parish.names() == ["Good", "Later"]
    checkpoint = await parish.checkpoint()
    assert datetime.fromisoformat(good) <= checkpoint["applied_through"] < checkpoint["fetched_through"]
    assert (await parish.poll()).published == 0, "it is kept, not asked for again and again"
    await parish.rows("update sync.dead_letter set state = 'dropped' where org_id = %s", parish.org)
    await parish.apply()
    checkpoint = await parish.checkpoint()
    assert checkpoint["applied_through"] == checkpoint["fetched_through"]


@pytest.mark.covers("F133", "F068")
async def test_a_failed_poll_leaves_the_checkpoint_and_recovers_by_itself(parish):
    await parish.put(firstName="Ann")
    await parish.theirs("POST", "/faults", [{"kind": "5xx-before", "next": 2}])
    for count in (1, 2):
        failed = await parish.poll()
        assert failed.error
        assert failed.failures == count
    checkpoint = await parish.checkpoint()
    assert (checkpoint["fetched_through"], checkpoint["failures"]) == (None, 2)
    assert checkpoint["last_error"] == failed.error
    assert (await parish.poll()).error == ""
    checkpoint = await parish.checkpoint()
    assert (checkpoint["failures"], checkpoint["last_error"]) == (0, None)


async def test_when_kafka_is_down_the_checkpoint_stays(parish):
    await parish.put(firstName="Ann")
    async with publish.opened("127.0.0.1:9", parish.opened.schemas, timeout_s=0.5) as nowhere:
        poller = Poller(parish.opened.app, nowhere, manifest, parish.opened.client, now=clock.now)
        assert (await parish.poll(poller=poller)).error == "kafka_unavailable"
    assert (await parish.checkpoint())["fetched_through"] is None
    await parish.poll()
    await parish.apply()
    assert await parish.names() == ["Ann"]


@pytest.mark.covers("C3")
async def test_records_of_one_instant_all_arrive(parish):
    await parish.theirs("POST", "/clock", {"now": datetime.now(UTC).isoformat()})
    for n in range(20):
        await parish.put(f"x{n}", firstName=f"P{n:02}")
    await parish.poll()
    await parish.put("x20", firstName="P20")
    await parish.poll()
    await parish.apply()
    assert await parish.names() == [f"P{n:02}" for n in range(21)]


async def test_a_time_in_the_future_does_not_hide_what_happens_until_then(parish):
    await parish.theirs("POST", "/clock", {"skew_s": 7200})
    await parish.put("x1", firstName="Future")
    await parish.poll()
    assert (await parish.checkpoint())["fetched_through"] <= datetime.now(UTC)
    await parish.theirs("POST", "/clock", {"skew_s": 0})
    await parish.put("x2", firstName="Now")
    await parish.poll()
    await parish.apply()
    assert await parish.names() == ["Future", "Now"]
    (future,) = await parish.rows(
        "select modified_at from canon.person where org_id = %s and first_name = 'Future'", parish.org
    )
    assert future["modified_at"] <= datetime.now(UTC) + timedelta(minutes=6), "a fast clock does not win for ever"


@pytest.mark.covers("R20")
async def test_a_poll_begins_where_the_one_before_began_by_their_clock(parish):
    """Also where nothing has happened there for long, or ever, or while it went on."""
    behind = timedelta(hours=1)
    await parish.theirs("POST", "/clock", {"skew_s": -behind.total_seconds()})
    began = datetime.now(UTC) - behind - timedelta(seconds=1)
    await parish.poll("campus")
    first = (await parish.checkpoint("campus"))["fetched_through"]
    assert began <= first <= datetime.now(UTC) - behind
    asked = []

    class Slow:
        async def pages(self, external_type, since):
            asked.append(since)
            for n in (0, 1):
                at = first + timedelta(seconds=10 * n)
                fact = ExternalRecord(external_type, f"c{n}", Op.UPDATE, at, {"name": f"C{n}"}, at.isoformat())
                yield Page([fact], at, date=at)

    @asynccontextmanager
    async def slow(_):
        yield Slow()

    poller = Poller(parish.opened.app, parish.publisher, manifest, slow, now=clock.now)
    (clock_error,) = await parish.rows("select error_s from sync.clock_error where org_id = %s", parish.org)
    assert clock_error["error_s"] > 3500
    assert (await parish.poll("campus", poller)).newest == first + timedelta(seconds=10)
    assert (await parish.checkpoint("campus"))["fetched_through"] == first
    reaching_back = 2 * timedelta(seconds=clock_error["error_s"])
    assert asked == [first - reaching_back], "twice the error, whatever the manifest says"


async def test_a_lost_webhook_is_made_good_and_counted(parish):
    await parish.put("x1", firstName="Ann")
    await parish.poll()
    await parish.apply()
    await parish.rows(
        "insert into sync.webhook_endpoint (token_hash, org_id, connection) values (%s, %s, 'parish')",
        parish.org.encode(), parish.org,
    )  # fmt: skip
    await asyncio.sleep(0.01)
    await parish.put("x1", firstName="Anna")
    await parish.poll()
    await parish.apply()
    assert await parish.names() == ["Anna"]
    assert (await parish.checkpoint())["recovered"] == 1


async def test_what_is_no_record_is_kept_once_and_stops_nothing(parish):
    await parish.put("c1", kind="campus", name="North")
    await parish.put("c2", kind="campus", name="South")
    for _ in range(2):
        await parish.theirs("POST", "/faults", [{"kind": "no-id", "next": 1}])
        await parish.poll("campus")
    await parish.apply()
    letters = await parish.rows("select * from sync.dead_letter where org_id = %s", parish.org)
    assert [(letter["source"], letter["code"]) for letter in letters] == [("poll", "item_without_id")]
    assert len(await parish.rows("select 1 from canon.campus where org_id = %s", parish.org)) == 1


async def test_a_record_nobody_can_decode_is_kept_and_passed(parish):
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": parish.opened.settings.kafka_bootstrap})
    for value in (b"poison", None, b"\x00\x00\x00\x00\x7fxx"):
        producer.produce(topics.INBOUND, value, f"parish/individual/{parish.org}".encode())
    producer.flush(10)
    await parish.put("x1", firstName="Ann")
    await parish.poll()
    await parish.apply()
    assert await parish.names() == ["Ann"]
    letters = await parish.rows(
        "select code, value from sync.dead_letter where record_key = %s order by id", f"parish/individual/{parish.org}"
    )
    assert [(letter["code"], letter["value"]) for letter in letters] == [
        ("not_avro", b"poison"),
        ("not_avro", b""),
        ("schema_unknown", b"\x00\x00\x00\x00\x7fxx"),
    ]


async def test_a_reference_that_came_too_early_is_filled_in_later(parish):
    await parish.put("x1", firstName="Ann", householdId="h1")
    await parish.put("h1", kind="household", name="The Lees")
    await parish.poll("individual")
    await parish.apply()
    assert await parish.names() == ["Ann"]
    await parish.poll("household")
    await parish.apply()
    async with parish.opened.applier.connection() as conn:
        assert await late_references.resolve(conn, clock.now()) == 1
        assert await late_references.resolve(conn, clock.now()) == 0
    (row,) = await parish.rows(
        """select p.household_id = h.id as filled, p.origin, s.base ->> 'household_id' = h.id as held, l.link_metadata
           from canon.person p join canon.household h using (org_id)
           join sync.external_link l on l.org_id = p.org_id and l.entity_id = p.id
           join sync.link_state s on (s.org_id, s.link_id) = (l.org_id, l.id) where p.org_id = %s""", parish.org
    )  # fmt: skip
    assert row == {"filled": True, "origin": "parish", "held": True, "link_metadata": {}}
    assert await parish.rows("select * from sync.push_intent where org_id = %s", parish.org) == []


# the schedule -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "failures", "least", "most"),
    [(900, 0, 810, 990), (900, 1, 1620, 1980), (900, 40, 3240, 3960), (2, 3, 14.4, 17.6), (7200, 9, 6480, 7920)],
)
@pytest.mark.covers("F068")
def test_the_interval_grows_with_failures(interval, failures, least, most):
    assert schedule.delay_s(interval, failures, 0.0) == pytest.approx(least)
    assert schedule.delay_s(interval, failures, 1.0) == pytest.approx(most)


@pytest.fixture
async def working(parish, settings, monkeypatch):
    monkeypatch.setattr(schedule, "TEND_EVERY_S", 0.3)
    monkeypatch.setattr(schedule, "DEAD_AFTER_S", 2.0)
    monkeypatch.setattr(schedule, "HEARTBEAT_S", 0.5)
    monkeypatch.setattr(schedule, "FETCH_EVERY_S", 0.1)
    service = Schedule(
        settings.dsn("app"), parish.opened.app, parish.opened.applier, parish.poller, manifest,
        now=clock.now, spread=lambda: 0.5,
    )  # fmt: skip
    running = asyncio.create_task(service.run())
    yield service
    await service.stop()
    await asyncio.wait_for(running, 20)


async def until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if await condition():
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.mark.covers("F124")
async def test_every_type_of_a_connection_is_polled_again_and_again(parish, working):
    async def applied(name):
        await parish.apply()
        return name in await parish.names()

    await parish.put(firstName="Ann")
    assert await until(lambda: applied("Ann"))
    await parish.put(firstName="Anna")
    assert await until(lambda: applied("Anna"))
    rows = await parish.rows("select external_type from sync.checkpoint where org_id = %s order by 1", parish.org)
    assert [row["external_type"] for row in rows] == ["campus", "household", "individual"]
    await parish.rows("update sync.connection set state = 'paused' where org_id = %s", parish.org)
    await asyncio.sleep(1)
    calls = (await parish.theirs("GET", "/counts"))["calls"]
    await asyncio.sleep(1)
    assert (await parish.theirs("GET", "/counts"))["calls"] == calls
    await parish.rows("update sync.connection set state = 'active' where org_id = %s", parish.org)
    await parish.put(firstName="Annie")
    assert await until(lambda: applied("Annie"))


@pytest.mark.parametrize("successor", [False, True])
async def test_the_poll_of_a_worker_that_died_is_taken_over(parish, working, successor):
    """With or without the next one queued already, which waits for the same lock."""
    lock = f"poll/{parish.org}/parish/individual"
    args = orjson.dumps({"org_id": parish.org, "connection": "parish", "external_type": "individual"}).decode()
    jobs = "select 1 from jobs.procrastinate_jobs where lock = %s and status in ('todo', 'doing')"

    async def idle():
        return not await parish.rows(jobs, lock)

    assert await until(lambda: _has_checkpoint(parish))
    await parish.rows("update sync.connection set state = 'paused' where org_id = %s", parish.org)
    assert await until(idle)
    await parish.rows("delete from sync.checkpoint where org_id = %s", parish.org)
    async with parish.admin.transaction():
        await parish.admin.execute("set local search_path = jobs")
        await parish.admin.execute(
            """with dead as (
                 insert into procrastinate_workers (last_heartbeat) values (now() - interval '1 hour') returning id)
               insert into procrastinate_jobs (queue_name, task_name, lock, queueing_lock, args, status, worker_id)
               select 'polls', 'poll', %s, %s, %s, 'doing', id from dead""",
            (lock, lock, args),
        )
        if successor:
            await parish.admin.execute(
                """insert into procrastinate_jobs (queue_name, task_name, lock, queueing_lock, args)
                   values ('polls', 'poll', %s, %s, %s)""",
                (lock, lock, args),
            )
        await parish.admin.execute("update sync.connection set state = 'active' where org_id = %s", (parish.org,))
    assert await until(lambda: _has_checkpoint(parish), 30)


async def _has_checkpoint(parish) -> bool:
    return bool(
        await parish.rows(
            "select 1 from sync.checkpoint where org_id = %s and external_type = 'individual'", parish.org
        )
    )


@pytest.mark.covers("F124", "F142")
async def test_each_type_is_polled_at_its_own_interval(parish, working):
    await parish.rows(
        "update sync.connection set poll_intervals = %s where org_id = %s",
        orjson.dumps({"individual": 900, "campus": 900}).decode(), parish.org,
    )  # fmt: skip
    lock = f"poll/{parish.org}/parish/individual"

    async def put_off():
        return await parish.rows(
            "select 1 from jobs.procrastinate_jobs where lock = %s and status = 'todo' and scheduled_at > %s",
            lock, clock.now() + timedelta(minutes=10),
        )  # fmt: skip

    assert await until(put_off)
    first = (await parish.checkpoint("household"))["polled_at"]
    individual = (await parish.checkpoint())["polled_at"]

    async def again():
        return (await parish.checkpoint("household"))["polled_at"] > first

    assert await until(again)
    assert (await parish.checkpoint())["polled_at"] == individual


async def test_a_shorter_interval_takes_effect_before_the_long_one_is_over(parish, working):
    await parish.rows("update sync.connection set poll_interval_s = 900 where org_id = %s", parish.org)
    assert await until(lambda: _has_checkpoint(parish))
    await asyncio.sleep(1)
    before = (await parish.checkpoint())["polled_at"]
    await parish.rows("update sync.connection set poll_interval_s = 0.3 where org_id = %s", parish.org)

    async def polled_since():
        return (await parish.checkpoint())["polled_at"] > before

    assert await until(polled_since)


# polls in place of reads --------------------------------------------------------------------------------------------


@pytest.mark.covers("F131")
async def test_a_poll_settles_the_reads_that_were_wanted_before_it_began(parish):
    await parish.put("x1", firstName="Ann")
    await parish.wish("x1", "absent")
    async with parish.opened.applier.connection() as conn:
        await parish.poll()
        await fetching.want(conn, [parish.wish_of("x2")], clock.now() + timedelta(hours=1))
    await parish.put("x2", firstName="Bob")
    await parish.poll()
    left = await parish.rows(
        "select external_id from sync.fetch_intent where org_id = %s and wanted_seq > done_seq order by 1", parish.org
    )
    assert [row["external_id"] for row in left] == ["absent", "x2"], "absence settles nothing, and x2 was wanted later"


@pytest.mark.covers("F124", "F131")
async def test_a_poll_that_is_wanted_for_many_reads_does_not_wait_for_its_interval(parish, working):
    await parish.rows("update sync.connection set poll_interval_s = 900 where org_id = %s", parish.org)
    assert await until(lambda: _has_checkpoint(parish))

    async def waiting():
        return await parish.rows(
            "select 1 from jobs.procrastinate_jobs where lock = %s and status = 'todo' and scheduled_at > now()",
            f"poll/{parish.org}/parish/individual",
        )

    assert await until(waiting)
    before = (await parish.checkpoint())["polled_at"]
    await working.hurry(await parish.connection(), "individual")
    await working.hurry(await parish.connection(), "individual")

    async def polled_since():
        return (await parish.checkpoint())["polled_at"] > before

    assert await until(polled_since)


@pytest.mark.covers("C16")
async def test_a_second_full_poll_leaves_unchanged_links_alone_and_only_doubts_what_is_missing(parish):
    for n in range(4):
        await parish.put(f"x{n}", firstName=f"P{n}")
    await parish.poll()
    await parish.apply()
    before = await parish.rows("select * from sync.external_link where org_id = %s order by id", parish.org)
    await parish.rows("delete from sync.checkpoint where org_id = %s", parish.org)
    again = await parish.poll()
    await parish.apply()
    assert (again.read, again.published) == (4, 0)
    assert await parish.rows("select * from sync.external_link where org_id = %s order by id", parish.org) == before
    assert await parish.rows("select 1 from sync.fetch_intent where org_id = %s", parish.org) == []

    await parish.rows("update sync.connection set delete_policy = 'archive' where org_id = %s", parish.org)
    await parish.rows("delete from sync.checkpoint where org_id = %s", parish.org)
    without = partial(without_record, parish.opened.client, "x2")
    await parish.poll(poller=Poller(parish.opened.app, parish.publisher, manifest, without, now=clock.now))
    doubted = await parish.rows("select external_id, reason from sync.fetch_intent where org_id = %s", parish.org)
    assert doubted == [{"external_id": "x2", "reason": "missing"}]
    moment = clock.now()
    hydrator = Hydrator(
        parish.opened.app, parish.publisher, manifest=manifest, open_client=without, hurry=None,
        now=lambda: moment, spread=lambda: 0.5,
    )  # fmt: skip
    assert await hydrator.hydrate(await parish.connection()) == 1
    await parish.apply()
    assert len(await parish.living()) == 4, "absence is no delete"
    moment += timedelta(seconds=5)
    assert await hydrator.hydrate(await parish.connection()) == 1
    await parish.apply()
    assert await parish.living() == ["P0", "P1", "P3"]


@pytest.fixture
def later(parish):
    """`later(hours)`: a poller that works then."""

    def at(hours, open_client=None):
        return Poller(
            parish.opened.app, parish.publisher, manifest, open_client or parish.opened.client,
            now=lambda: clock.now() + timedelta(hours=hours),
        )  # fmt: skip

    return at


@pytest.mark.covers("R20", "C16")
async def test_once_a_day_all_is_read_although_nothing_tells_of_a_change(parish, later):
    await parish.theirs("POST", "/clock", {"skew_s": -3600 * 48})
    for n in range(3):
        await parish.put(f"x{n}", firstName=f"P{n}")
    await parish.theirs("POST", "/clock", {"skew_s": 0})
    first = await parish.poll()
    await parish.apply()
    assert (first.full, first.read) == (True, 3)
    read_at = (await parish.checkpoint())["read_in_full_at"]
    assert read_at is not None
    await parish.rows("delete from sync.clock_error where org_id = %s", parish.org)
    soon = await parish.poll(poller=later(12))
    assert (soon.full, soon.read) == (False, 0)
    assert (await parish.checkpoint())["read_in_full_at"] == read_at

    people = "select * from canon.person where org_id = %s order by id"
    before = await parish.rows(people, parish.org)
    full = await parish.poll(poller=later(27))
    await parish.apply()
    assert (full.full, full.read, full.published) == (True, 3, 0), "what is known is no work"
    assert await parish.rows(people, parish.org) == before
    assert await parish.rows("select 1 from sync.push_intent where org_id = %s", parish.org) == []
    assert (await parish.checkpoint())["read_in_full_at"] > read_at + timedelta(hours=26)
    assert not (await parish.poll(poller=later(28))).full

    without = partial(without_record, parish.opened.client, "x1")
    assert (await parish.poll(poller=later(60, without))).full
    await parish.apply()
    assert await parish.living() == ["P0", "P1", "P2"], "absence is no delete"
    doubted = await parish.rows("select external_id, reason from sync.fetch_intent where org_id = %s", parish.org)
    assert doubted == [{"external_id": "x1", "reason": "missing"}]


@pytest.mark.covers("R20")
async def test_a_full_reading_that_fails_does_not_keep_what_changed_waiting(parish, later):
    await parish.put("x1", firstName="Ann")
    await parish.poll()
    before = await parish.checkpoint()
    await parish.theirs("POST", "/faults", [{"kind": "5xx-before", "next": 1}])
    failed = await parish.poll(poller=later(27))
    assert (failed.full, bool(failed.error)) == (True, True)
    checkpoint = await parish.checkpoint()
    assert (checkpoint["read_in_full_at"], checkpoint["fetched_through"]) == (
        before["read_in_full_at"], before["fetched_through"],
    )  # fmt: skip
    assert not (await parish.poll(poller=later(27.1))).full
    assert (await parish.poll(poller=later(27.2))).full
    await parish.rows("update sync.connection set full_read_every_s = 0 where org_id = %s", parish.org)
    assert not (await parish.poll(poller=later(1000))).full


class Without:
    """A client of a system that has lost one record, without a word."""

    def __init__(self, client, missing) -> None:
        self._client, self._missing = client, missing

    async def fetch(self, external_type, external_id):
        return None if external_id == self._missing else await self._client.fetch(external_type, external_id)

    async def pages(self, external_type, since):
        async for page in self._client.pages(external_type, since):
            yield replace(page, records=[each for each in page.records if each.external_id != self._missing])


@asynccontextmanager
async def without_record(open_client, missing, connection):
    async with open_client(connection) as client:
        yield Without(client, missing)


@pytest.mark.covers("F053", "F125", "F133")
async def test_the_timestamps_of_pulls_and_pushes_are_shown(parish):
    async def shown():
        async with parish.opened.app.connection() as conn:
            (told,) = await operations.overview(conn, parish.org, clock.now())
            return told

    assert (await shown())["lastPullExternalSyncTimestamp"] is None
    assert (await shown())["lastPushExternalSyncTimestamp"] is None
    await parish.put("x1", firstName="Ann")
    for kind in ("campus", "household", "individual"):
        await parish.poll(kind)
    told = await shown()
    assert told["lastPullExternalSyncTimestamp"] is None, "it is read, but not applied"
    await parish.apply()
    told = await shown()
    times = [poll["lastSuccessfulPollTimestamp"] for poll in told["polls"].values()]
    assert told["lastPullExternalSyncTimestamp"] == min(times)
    assert None not in [poll["read_in_full_at"] for poll in told["polls"].values()]
    assert told["clock"]["error_s"] >= 0
    await parish.wish("x9")
    assert (await shown())["reads"]["count"] == 1
    at = datetime(2026, 1, 1, tzinfo=UTC)
    rows = "insert into sync.push_intent (org_id, connection, external_type, entity_type, entity_id, sync_key, state,"
    for n, state in enumerate(("DONE", "DONE", "DEAD", "DONE")):
        await parish.rows(
            f"{rows} reason, planned_at) values (%s, 'parish', 'individual', 'person', %s, 'k', %s, 'change', %s)",
            parish.org, f"p{n}", state, at + timedelta(minutes=n),
        )  # fmt: skip
    assert (await shown())["lastPushExternalSyncTimestamp"] == at + timedelta(minutes=2, microseconds=-1)


class Busy:
    """A client of a system in which something happens before every page."""

    def __init__(self, client, number) -> None:
        self._client, self._began, self._number = client, datetime.now(UTC), number

    async def pages(self, external_type, _):
        for n in itertools.count():
            at = self._began + timedelta(seconds=n)
            fact = ExternalRecord(external_type, f"x{n}", Op.UPDATE, at, {"firstName": f"P{n:02}"}, at.isoformat())
            self._number.append(n)
            yield Page([fact], at, date=at)


@pytest.mark.covers("C3", "F126")
async def test_a_poll_of_a_system_that_is_never_at_rest_ends_and_the_next_one_goes_on(parish):
    numbers = []

    @asynccontextmanager
    async def busy(_):
        yield Busy(None, numbers)

    in_order = replace(manifest("mock-sync-server"), polls_in_order=True)
    poller = Poller(parish.opened.app, parish.publisher, lambda _: in_order, busy, now=clock.now)
    polled = await parish.poll(poller=poller)
    assert (polled.error, numbers) == ("", [0, 1, 2])
    checkpoint = await parish.checkpoint()
    assert checkpoint["fetched_through"] <= polled.date < polled.newest
