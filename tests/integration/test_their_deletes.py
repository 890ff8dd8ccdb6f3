"""A mass delete of theirs waits for a person; what else they say flows on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from psycopg_pool import AsyncConnectionPool

from schemas import events
from schemas.codec import Codec
from streams import queues
from streams.inbound.incoming import Incoming
from streams.inbound.their_deletes import Decided
from streams.queues import By
from streams.store import operations
from tests.integration import test_applier as applier
from tests.integration.test_applier import Inbound, OneSchema, at

pytestmark = [pytest.mark.integration, pytest.mark.covers("R12")]
connections_to = applier.connections_to


class Deleting(Inbound):
    """A connection whose deletes count here, with some people."""

    decided: Decided

    def incoming(self, event: events.InboundEvent) -> Incoming:
        self.offset += 1
        return Incoming(event, position=f"inbound.events/{self.org}/{self.offset}", raw=events.encode(event, 7))

    async def populate(self, count: int) -> None:
        await self.apply(*(self.event(f"x{n}", {"firstName": f"P{n}"}, 1) for n in range(count)))

    async def delete(self, numbers, minutes=5.0):
        return await self.apply(*(self.event(f"x{n}", None, minutes) for n in numbers))

    async def living(self) -> int:
        return len([person for person in await self.people() if person["deleted_at"] is None])

    async def hold(self) -> dict:
        (found,) = await operations.holds(self.conn, self.org, closed=True)
        return found

    async def decide(self, decision) -> dict:
        hold = await self.hold()
        return await queues.decide_hold(self.conn, By(self.org, "test", at(61)), hold["id"], decision)

    async def decisions(self, **wanted) -> int:
        found = await self.rows("select decision, reason from sync.applied_event where org_id = %s", self.org)
        return len([row for row in found if all(row[name] == value for name, value in wanted.items())])


@pytest.fixture
async def deleting(connections_to, database) -> AsyncIterator[Deleting]:
    found = Deleting(*connections_to, f"deletes{next(applier._number)}")
    await found.connect(delete_policy="delete")
    async with AsyncConnectionPool(database.dsn("applier"), open=False, kwargs={"autocommit": True}) as pool:
        found.decided = Decided(pool, Codec(OneSchema()), found.applier.apply, now=lambda: at(60))
        yield found


async def test_as_many_as_the_bound_go_and_one_more_holds_all(deleting):
    await deleting.populate(50)
    await deleting.delete(range(19))
    await deleting.delete([19])
    assert await deleting.living() == 30
    told = await deleting.delete(range(20, 23))
    assert told.decisions == {("parish", "waiting"): 3}
    assert await deleting.living() == 30
    hold = await deleting.hold()
    assert (hold["kind"], hold["entity_type"], hold["records"], hold["bound"]) == ("their_deletes", "person", 3, 20)
    # and everything that comes later, be it one
    await deleting.delete([40])
    await deleting.apply(deleting.event("x41", {"firstName": "New"}, 6), deleting.event("y", {"firstName": "Y"}, 6))
    assert ((await deleting.hold())["records"], await deleting.living()) == (4, 31)
    assert "New" in {person["first_name"] for person in await deleting.people()}


async def test_what_comes_again_while_it_is_held_is_held_once(deleting):
    await deleting.populate(25)
    facts = [deleting.event(f"x{n}", None, 5) for n in range(25)]
    for _ in range(2):
        await deleting.apply(*facts)
    assert ((await deleting.hold())["records"], await deleting.living()) == (25, 25)


async def test_the_bound_is_a_part_of_what_is_linked(deleting):
    await deleting.admin.execute(
        "insert into sync.external_link (org_id, connection, external_type, external_id, entity_type, entity_id,"
        " sync_key, made_by) select %s, 'parish', 'individual', 'z' || n, 'person', 'person_' || n, 'k' || n, 'push'"
        " from generate_series(1, 1175) n",
        (deleting.org,),
    )
    await deleting.populate(25)
    await deleting.delete(range(24))
    assert await deleting.living() == 1
    await deleting.delete([24])
    assert (await deleting.living(), (await deleting.hold())["bound"]) == (1, 23)  # of what is left


@pytest.mark.parametrize("policy", ["ignore", "delete"])
async def test_deletes_that_take_nothing_away_are_not_counted(deleting, policy):
    await deleting.admin.execute(
        "update sync.connection set delete_policy = %s where org_id = %s", (policy, deleting.org)
    )
    if policy == "ignore":
        await deleting.populate(30)
    await deleting.delete(range(30))
    assert await operations.holds(deleting.conn, deleting.org) == []


async def test_a_connection_may_have_a_bound_of_its_own_or_none(deleting):
    for guard in ('{"their_deletes": 1}', '{"their_deletes": null}'):
        await deleting.admin.execute("update sync.connection set guard = %s where org_id = %s", (guard, deleting.org))
        await deleting.populate(30)
        await deleting.delete(range(2))
        if "null" not in guard:
            assert ((await deleting.hold())["bound"], await deleting.living()) == (1, 30)
            await deleting.decide("approved")
            await deleting.decided.release()
    await deleting.delete(range(2, 30))
    assert await deleting.living() == 0


async def test_approved_deletes_are_applied_and_not_counted_again(deleting):
    await deleting.populate(30)
    await deleting.delete(range(30))
    assert (await deleting.decided.release(), await deleting.living()) == (0, 30)
    told = await deleting.decide("approved")
    assert told == {"connection": "parish", "entity_type": "person", "kind": "their_deletes", "records": 30}
    assert (await deleting.decided.release(), await deleting.living()) == (30, 0)
    assert await deleting.decided.release() == 0
    assert await deleting.decisions(decision="applied", reason="deleted_there") == 30
    await deleting.delete(range(30))
    assert await operations.holds(deleting.conn, deleting.org) == [], "what is delivered again is no new question"


async def test_dropped_deletes_leave_our_rows_and_are_told_in_the_ledger(deleting):
    await deleting.populate(30)
    await deleting.delete(range(30))
    await deleting.decide("dropped")
    assert (await deleting.decided.release(), await deleting.living()) == (30, 30)
    assert await deleting.decisions(decision="ignored", reason="mass_delete_dropped") == 30
    assert await deleting.rows("select * from sync.held_event where org_id = %s", deleting.org) == []


async def test_a_record_of_which_they_say_more_is_no_question_any_more(deleting):
    await deleting.populate(30)
    await deleting.delete(range(30))
    await deleting.apply(
        deleting.event("x1", {"firstName": "Back"}, 9), deleting.event("x2", {"firstName": "before it"}, 4)
    )
    assert (await deleting.hold())["records"] == 29
    assert await deleting.decided.release() == 1
    assert await deleting.decisions(decision="stale") == 1
    await deleting.decide("approved")
    await deleting.decided.release()
    (back,) = [person for person in await deleting.people() if person["deleted_at"] is None]
    assert back["first_name"] == "Back"


async def test_a_batch_that_deletes_and_restores_asks_nobody(deleting):
    await deleting.populate(30)
    gone = [deleting.event(f"x{n}", None, 5) for n in range(30)]
    back = [deleting.event(f"x{n}", {"firstName": "Back"}, 6) for n in range(30)]
    await deleting.apply(*gone, *back)
    assert (await deleting.living(), await operations.holds(deleting.conn, deleting.org)) == (30, [])


async def test_a_crash_between_decision_and_commit_loses_nothing(deleting):
    await deleting.populate(30)
    await deleting.delete(range(30))
    await deleting.decide("approved")
    real = deleting.decided._apply

    async def fail(conn, incoming):
        await real(conn, incoming)
        raise ConnectionError

    deleting.decided._apply = fail
    with pytest.raises(ConnectionError):
        await deleting.decided.release()
    assert await deleting.living() == 30
    deleting.decided._apply = real
    assert (await deleting.decided.release(), await deleting.living()) == (30, 0)
