"""What doctor says of a database in trouble, with Kafka and Connect away."""

import time

import psycopg
import pytest

from streams import doctor

pytestmark = pytest.mark.integration


@pytest.fixture
def lonely(fresh_database):
    """A database of its own; everything else is configured and not there."""
    away = {"kafka_bootstrap": "127.0.0.1:9", "connect_url": "http://127.0.0.1:9", "registry_url": "http://127.0.0.1:9"}
    return fresh_database.model_copy(update={**away, "gateway_port": 9})


async def findings(settings):
    found = await doctor.check(settings)
    assert all(check.next_step for check in found if check.state != "ok")
    return {check.name: check for check in found}


async def test_an_empty_database_says_migrate(lonely):
    # the roles are there once any test has migrated; the app's role is what doctor looks through
    from streams.store import roles

    with psycopg.connect(lonely.dsn("owner"), autocommit=True) as owner:
        roles.ensure(owner, lonely)
    found = await findings(lonely)
    assert found["migrations"].state == "red"
    assert "syncline migrate" in found["migrations"].next_step


async def test_everything_away_is_red_with_what_to_do(lonely):
    from streams.store.migrate import migrate

    migrate(lonely)
    found = await findings(lonely)
    assert {name for name, check in found.items() if check.state == "red"} == {
        "replication slot", "heartbeat", "kafka", "connect", "registry", "key file",
    }  # fmt: skip
    nowhere = lonely.model_copy(update={"postgres_app_dsn": None})
    assert (await findings(nowhere))["postgres"].state == "red"


async def test_damage_is_named(lonely):
    from streams.store.migrate import migrate

    migrate(lonely)
    with psycopg.connect(lonely.dsn("owner"), autocommit=True) as owner:
        owner.execute("alter table canon.email disable trigger zzz_tombstone")
        owner.execute("alter publication syncline add table sync.audit")
    found = await findings(lonely)
    assert "zzz_tombstone" in found["migrations"].detail
    migrate(lonely)
    with psycopg.connect(lonely.dsn("owner"), autocommit=True) as owner:
        owner.execute("alter publication syncline add table sync.audit")
    assert "sync.audit is published and must not be" in (await findings(lonely))["publication"].detail


@pytest.mark.covers("C22")
async def test_a_slot_that_postgres_gave_up_is_red(lonely):
    from streams.store.migrate import migrate

    migrate(lonely)
    deadline = time.monotonic() + 60
    with psycopg.connect(lonely.dsn("admin"), autocommit=True) as admin:
        admin.execute("create table public.noise (x text)")
        lost = "select wal_status = 'lost' from pg_replication_slots where slot_name = 'syncline'"
        while not admin.execute(lost).fetchone()[0]:
            assert time.monotonic() < deadline
            admin.execute("insert into public.noise select repeat(md5(n::text), 60) from generate_series(1, 20000) n")
            admin.execute("select pg_switch_wal()")
            admin.execute("checkpoint")
    check = (await findings(lonely))["replication slot"]
    assert check.state == "red"
    assert "is lost" in check.detail
    assert "--new-slot" in check.next_step
