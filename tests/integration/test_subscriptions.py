"""Webhook subscriptions at an emulated system: made, healed, handed a new secret, removed, also when it was away."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import orjson
import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from connectors import config, emulators, http, registry
from streams import connections, vault
from streams.choices import Choices
from streams.doctor import subscriptions as doctor
from streams.inbound import subscriptions as inbound
from streams.inbound.subscriptions import Subscriptions
from streams.store import credentials, operations
from streams.store import subscriptions as store

pytestmark = pytest.mark.integration
ORG, NAME = "org_main", "clinic"
PUBLIC = "https://sync.example.org"
KEY = vault.parse_key(base64.b64encode(bytes(32)), "test")


class World:
    """One connection to an emulated sim, the service of the jobs, and a clock that is turned by hand."""

    def __init__(self, pool, running) -> None:
        self.pool, self.running = pool, running
        self.time = datetime.now(UTC)
        self.service = connections.Service(KEY, PUBLIC, "ann", self._nothing, now=lambda: self.time)
        self.jobs = self.worker(PUBLIC + "/")

    def worker(self, public_url):
        return Subscriptions(
            self.pool, KEY, public_url, lambda system: registry.find(system).manifest, self._open,
            now=lambda: self.time, spread=lambda: 0.5,
        )  # fmt: skip

    @staticmethod
    async def _nothing(*_):
        return 0

    @asynccontextmanager
    async def _open(self, connection):
        place = vault.Place(connection.org_id, connection.system, connection.name, "")
        async with self.pool.connection() as conn:
            secrets = await credentials.adapter_secrets(conn, KEY, place)
        async with http.client(allow_http=True, allow_private=True) as web:
            yield connections.open_client(connection, secrets, web)

    async def connect(self, **choices):
        given = config.load(self.running.emulator.system.connection(self.running.url))
        async with self.pool.connection() as conn:
            made = await self.service.connect(
                conn, ORG, NAME, given, Choices(**choices), update=choices.pop("update", False)
            )
        return made.webhook.url.get_secret_value()

    async def act(self, name, *arguments):
        async with self.pool.connection() as conn:
            return await getattr(self.service, name)(conn, ORG, NAME, *arguments)

    async def tend(self, *, after=timedelta(), jobs=None):
        self.time += after
        await (jobs or self.jobs).tend()

    @property
    def theirs(self):
        return list(self.running.emulator.outbox.subscribers())

    async def shown(self):
        async with self.pool.connection() as conn:
            return (await store.shown(conn, ORG)).get(NAME)

    async def secrets(self):
        async with self.pool.connection() as conn:
            return {each.name for each in await credentials.list_names(conn, ORG, NAME)}

    async def faults(self, *rules):
        async with httpx.AsyncClient() as web:
            told = await web.post(f"{self.running.url}/_emulator/faults", content=orjson.dumps(rules))
        assert told.status_code == 200


@pytest.fixture
async def world(database):
    async with (
        AsyncConnectionPool(
            database.dsn("app"), min_size=1, max_size=8, open=False, kwargs={"autocommit": True}
        ) as pool,
        emulators.serve("sim-keyed") as running,
    ):
        async with pool.connection() as conn:
            await conn.execute("delete from sync.connection; delete from sync.audit")
        yield World(pool, running)


AWAY = {"kind": "5xx-before", "path": "/v1/webhooks"}


async def test_a_connection_is_subscribed_with_its_address_its_secret_and_its_types(world):
    url = await world.connect(entity_types=["person", "campus"])
    await world.tend()
    (made,) = world.theirs
    hook = await world.act("reveal_webhook")
    assert (made.url, made.secret) == (url, hook.secret.get_secret_value())
    assert made.types == {"people", "campuses"}
    shown = await world.shown()
    assert (shown["state"], shown["activations"]) == ("active", 1)
    for _ in range(3):
        await world.tend(after=timedelta(minutes=10))
    assert world.theirs == [made]


async def test_several_workers_make_one(world):
    await world.connect()
    await asyncio.gather(*(world.tend(jobs=world.worker(PUBLIC)) for _ in range(3)))
    assert len(world.theirs) == 1


async def test_one_that_they_deactivated_or_lost_is_made_again(world):
    await world.connect()
    await world.tend()
    (first,) = world.theirs
    first.active = False
    await world.tend(after=timedelta(minutes=10))
    (second,) = world.theirs
    assert second.active
    assert second.id != first.id
    world.running.emulator.outbox.unsubscribe_all()
    await world.tend(after=timedelta(minutes=10))
    (third,) = world.theirs
    assert (await world.shown())["activations"] == 3
    assert third.url == first.url


async def test_one_whose_id_we_never_learned_is_replaced(world):
    await world.connect()
    await world.tend()
    (made,) = world.theirs
    async with world.pool.connection() as conn:
        await conn.execute(
            "update sync.subscription set external_id = null, secret_name = null, due_at = %s", (world.time,)
        )
    await world.tend()
    (known,) = world.theirs
    assert known.id != made.id


async def test_a_rotated_secret_and_other_types_reach_them_at_once(world):
    await world.connect(entity_types=["person"])
    await world.tend()
    hook = await world.act("rotate_webhook", timedelta(hours=1))
    await world.tend(after=timedelta(seconds=1))
    (made,) = world.theirs
    assert made.secret == hook.secret.get_secret_value()
    await world.act("change", {"gates": {"campus": "live"}})
    await world.tend(after=timedelta(seconds=1))
    (wider,) = world.theirs
    assert wider.types == {"people", "campuses"}


async def test_a_connection_that_is_only_polled_has_none(world):
    await world.connect()
    await world.tend()
    await world.act("change", {"mode": "scheduled"})
    await world.tend(after=timedelta(seconds=1))
    assert world.theirs == []
    await world.act("change", {"mode": "realtime"})
    await world.tend(after=timedelta(seconds=1))
    assert len(world.theirs) == 1


async def test_without_a_public_url_nothing_is_made_and_that_is_told(world, database):
    await world.connect()
    await world.tend(jobs=world.worker(""))
    assert world.theirs == []
    assert (await world.shown())["state"] == "no_public_url"
    with psycopg.connect(database.dsn("app"), autocommit=True) as conn:
        (check,) = [step() for step in doctor.checks(conn)]
    assert (check.state, "SYNCLINE_PUBLIC_URL" in check.next_step) == ("warn", True)
    async with world.pool.connection() as conn:
        (row,) = await operations.overview(conn, ORG, world.time)
    assert row["subscription"]["state"] == "no_public_url"
    await world.act("disconnect")
    assert (await world.shown(), await world.secrets()) == (None, set())


async def test_while_they_are_away_it_is_tried_again_ever_later(world, database):
    await world.connect()
    await world.faults(AWAY)
    await world.tend()
    shown = await world.shown()
    assert (shown["state"], shown["cause"]) == ("failing", "http_500")
    with psycopg.connect(database.dsn("app"), autocommit=True) as conn:
        (check,) = [step() for step in doctor.checks(conn)]
    assert (check.state, NAME in check.detail) == ("warn", True)
    await world.faults()
    await world.tend(after=timedelta(seconds=10))
    assert world.theirs == []
    await world.tend(after=timedelta(seconds=30))
    assert len(world.theirs) == 1
    with psycopg.connect(database.dsn("app"), autocommit=True) as conn:
        (check,) = [step() for step in doctor.checks(conn)]
    assert check.state == "ok"


async def test_on_disconnect_it_is_removed_and_then_the_credentials_are_gone(world):
    await world.connect()
    await world.tend()
    world.running.emulator.outbox.subscribe(type(world.theirs[0])("other", "https://other.example.org", "s"))
    await world.act("disconnect")
    assert not any(name.startswith(credentials.WEBHOOK_SECRET) for name in await world.secrets())
    await world.tend()
    assert [each.id for each in world.theirs] == ["other"]
    assert (await world.shown(), await world.secrets()) == (None, set())
    async with world.pool.connection() as conn:
        cursor = await conn.execute("select count(*) from sync.audit where action = 'subscription.removed'")
        assert await cursor.fetchone() == (1,)


async def test_a_system_that_was_away_when_we_disconnected_is_left_later(world):
    await world.connect()
    await world.tend()
    await world.faults(AWAY)
    await world.act("disconnect")
    await world.tend()
    assert (await world.shown())["state"] == "leaving"
    assert await world.secrets() >= {credentials.WEBHOOK_TOKEN}
    await world.faults()
    await world.tend(after=timedelta(minutes=1))
    assert world.theirs == []
    assert (await world.shown(), await world.secrets()) == (None, set())


async def test_a_system_that_stays_away_is_given_up_after_a_week(world):
    await world.connect()
    await world.tend()
    await world.faults(AWAY)
    await world.act("disconnect")
    for _ in range(3):
        await world.tend(after=timedelta(days=3))
    assert (await world.shown(), await world.secrets()) == (None, set())


async def test_who_comes_back_before_it_is_removed_has_one_with_the_new_address(world):
    old = await world.connect()
    await world.tend()
    await world.faults(AWAY)
    await world.act("disconnect")
    await world.tend()
    await world.faults()
    new = await world.connect()
    assert new != old
    await world.tend()
    assert [each.url for each in world.theirs] == [new]
    assert (await world.shown())["state"] == "active"


async def test_a_paused_connection_is_left_alone(world):
    await world.connect()
    await world.act("pause")
    await world.tend()
    assert world.theirs == []
    await world.act("resume")
    await world.tend()
    assert len(world.theirs) == 1


async def test_systems_that_make_no_subscriptions_are_not_asked():
    systems = inbound.subscribing(lambda system: registry.find(system).manifest)
    assert "mock-sync-server" not in systems
    assert "sim-keyed" in systems
