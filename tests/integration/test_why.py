"""`why` on a real Postgres: rows, parts, their ids, tombstones."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest

from connectors import registry
from schemas.problems import Problem
from streams.store.migrate import model_of
from streams.why import Asker, why

pytestmark = pytest.mark.integration

CLEAN = """
truncate sync.push_intent, sync.delivery, sync.applied_event, sync.conflict, sync.dead_letter, sync.review,
         sync.link_state, sync.external_link;
delete from sync.connection; delete from canon.person;
insert into sync.connection (org_id, name, system, url, gates)
values ('org_main', 'mock', 'mock-sync-server', 'http://localhost:1', '{"person": "live"}');
"""


@pytest.fixture
async def conn(database):
    async with await psycopg.AsyncConnection.connect(database.dsn("owner"), autocommit=True) as opened:
        await opened.execute(CLEAN)
        yield opened


@pytest.fixture
def asker(database):
    return Asker("org_main", model_of(database), lambda name: registry.find(name).manifest, datetime.now(UTC))


async def one(conn, statement, *values):
    return (await (await conn.execute(statement, values)).fetchone())[0]


@pytest.fixture
async def person(conn):
    return await one(conn, "insert into canon.person (first_name) values ('Ann') returning id")


async def test_a_row_nobody_planned(conn, asker, person):
    [report] = await why(conn, person, asker)
    assert (report.entity.id, report.entity.version, report.root) == (person, 1, person)
    [(facts, sentence)] = report.connections
    assert facts.takes_type
    assert "push --all" in sentence
    assert "Ann" not in str(report.as_json())


async def test_everything_about_a_part_is_told_by_its_root(conn, asker, person):
    email = await one(
        conn, "insert into canon.email (person_id, address) values (%s, 'a@example.org') returning id", person
    )
    key = f"org_main/{person}"
    await conn.execute(
        """insert into sync.push_intent (org_id, connection, external_type, entity_type, entity_id, sync_key, state,
             reason, attempt, error_code, error_cause, not_before)
           values ('org_main', 'mock', 'individual', 'person', %s, %s, 'RETRY', 'change', 2, 'busy', 'come back later',
             now() + '1 h')""",
        (person, key),
    )
    await conn.execute(
        """insert into sync.external_link (org_id, connection, external_type, external_id, entity_type, entity_id,
             sync_key, made_by) values ('org_main', 'mock', 'individual', 'X-7', 'person', %s, %s, 'push')""",
        (person, key),
    )
    await conn.execute(
        """insert into sync.delivery (org_id, connection, external_type, entity_type, entity_id, op, outcome, attempt,
             idem_key, seq, recorded_at)
           values ('org_main', 'mock', 'individual', 'person', %s, 'update', 'busy', 1, 'k', 1, now())""",
        (person,),
    )
    await conn.execute(
        """insert into sync.conflict (org_id, connection, entity_type, entity_id, field, event_id)
           values ('org_main', 'mock', 'person', %s, 'last_name', '\\x01')""",
        (person,),
    )
    await conn.execute(
        """insert into sync.dead_letter (org_id, connection, source, record_key, code, cause)
           values ('org_main', 'mock', 'inbound.events', 'mock/individual/X-7', 'unreadable', 'no JSON')"""
    )
    for asked in (email, "X-7"):
        [report] = await why(conn, asked, asker)
        [(facts, sentence)] = report.connections
        assert report.root == person
        assert facts.link.external_id == "X-7"
        assert facts.deliveries[0].outcome == "busy"
        assert "come back later (busy); try 3 is due in 60 min" in sentence
        assert "last_name" in sentence
        assert "no JSON (unreadable)" in sentence
    assert report.entity.entity_type == "person"


async def test_a_deleted_row_is_still_known(conn, asker, person):
    await conn.execute("delete from canon.person where id = %s", (person,))
    [report] = await why(conn, person, asker)
    assert report.entity.deleted_at is not None
    assert "deleted here" in report.connections[0][1]


async def test_a_record_of_theirs_without_a_row(conn, asker):
    await conn.execute(
        """insert into sync.applied_event (event_id, org_id, connection, external_type, external_id, source, decision,
             reason, occurred_at, received_at)
           values ('\\x02', 'org_main', 'mock', 'individual', 'X-9', 'poll', 'ignored', 'option_2', now(), now())"""
    )
    [report] = await why(conn, "X-9", asker)
    assert report.entity is None
    assert "was ignored (option_2)" in report.connections[0][1]


@pytest.mark.parametrize("asked", ["person_00000000000000000000000000", "nothing_01h", "", "x' or 1=1 --"])
async def test_what_nobody_has(conn, asker, asked):
    with pytest.raises(Problem) as caught:
        await why(conn, asked, asker)
    assert caught.value.code == "id_unknown"


async def test_a_record_that_waits_names_whom_it_waits_for(conn, asker, person):
    home = await one(conn, "insert into canon.household (name) values ('Lee') returning id")
    for entity, state, code in ((person, "WAITING", "waiting"), (home, "PARKED", "outcome_unknown")):
        await conn.execute(
            """insert into sync.push_intent (org_id, connection, external_type, entity_type, entity_id, sync_key, state,
                 reason, error_code) values ('org_main', 'mock', 'x', 'x', %s, 'k', %s, 'change', %s)""",
            (entity, state, code),
        )
    await conn.execute(
        """insert into sync.push_wait (waits_for, entity_id, connection, external_type, org_id, field, required, reason)
           values (%s, %s, 'mock', 'x', 'org_main', 'household_id', true, 'waiting')""",
        (home, person),
    )
    [report] = await why(conn, person, asker)
    assert f"It waits for {home} (PARKED: outcome_unknown)" in report.connections[0][1]
    assert f"syncline why {home}" in report.connections[0][1]


async def test_a_record_on_hold_names_the_command(conn, asker, person):
    hold = await one(
        conn,
        """insert into sync.mass_hold (org_id, connection, entity_type, kind, bound, opened_at)
           values ('org_main', 'mock', 'person', 'deletes', 20, now()) returning id""",
    )
    await conn.execute(
        """insert into sync.push_intent (org_id, connection, external_type, entity_type, entity_id, sync_key, state,
             reason, hold_id) values ('org_main', 'mock', 'individual', 'person', %s, 'k', 'HELD', 'change', %s)""",
        (person, hold),
    )
    sentence = (await why(conn, person, asker))[0].connections[0][1]
    assert f"more deletes than mock may get in ten minutes. `syncline holds approve {hold}`" in sentence
    await conn.execute("update sync.push_intent set state = 'PENDING' where entity_id = %s", (person,))
    assert "waits for its turn" in (await why(conn, person, asker))[0].connections[0][1]


@pytest.mark.covers("F131")
async def test_a_record_that_is_about_to_be_read_is_told_by_either_id(conn, asker, person):
    await conn.execute(
        """insert into sync.external_link (org_id, connection, external_type, external_id, entity_type, entity_id,
             sync_key, made_by) values ('org_main', 'mock', 'individual', 'x1', 'person', %s, 'k', 'match')""",
        (person,),
    )
    for external_id in ("x1", "x2"):
        await conn.execute(
            """insert into sync.fetch_intent (external_id, external_type, connection, org_id, reason, wanted_at,
                 not_before)
               values (%s, 'individual', 'mock', 'org_main', 'hint', now(), now())""",
            (external_id,),
        )
    told = "mock has a change of it that is read in full first (hint)."
    for asked in (person, "x1", "x2"):
        assert told in (await why(conn, asked, asker))[0].connections[0][1]
    await conn.execute("update sync.fetch_intent set done_seq = wanted_seq")
    assert told not in (await why(conn, person, asker))[0].connections[0][1]
