"""A person says who a record is that was matched in doubt, and so it is: once, for all that they say of it after."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from psycopg_pool import AsyncConnectionPool

from schemas import events
from schemas.codec import Codec
from schemas.problems import Problem
from streams import reviews
from streams.inbound.answers import Answered
from streams.inbound.incoming import Incoming
from streams.queues import By
from tests.integration import test_applier as applier
from tests.integration.test_applier import Inbound, OneSchema, at
from tests.integration.test_matching import ANN, links, make

pytestmark = [pytest.mark.integration, pytest.mark.covers("R26", "F113")]
connections_to = applier.connections_to


class Asking(Inbound):
    """A connection with people of ours, and whom a person takes their records for."""

    answered: Answered

    def incoming(self, event: events.InboundEvent) -> Incoming:
        self.offset += 1
        return Incoming(event, position=f"inbound.events/{self.org}/{self.offset}", raw=events.encode(event, 7))

    async def open(self) -> list[dict]:
        return await reviews.listed(self.conn, self.org, reviews.Which(), now=at(61))

    async def decide(self, entity_id=None, *, release=True) -> int:
        [item] = await self.open()
        await reviews.decide(self.conn, By(self.org, "ann", at(61)), item["id"], entity_id)
        return await self.answered.release() if release else item["id"]

    async def refused(self, entity_id=None) -> str:
        with pytest.raises(Problem) as refused:
            await self.decide(entity_id)
        return refused.value.code


@pytest.fixture
async def asking(connections_to, database) -> AsyncIterator[Asking]:
    found = Asking(*connections_to, f"answers{next(applier._number)}")
    await found.connect()
    async with AsyncConnectionPool(database.dsn("applier"), open=False, kwargs={"autocommit": True}) as pool:
        found.answered = Answered(pool, Codec(OneSchema()), found.applier.apply, now=lambda: at(62))
        yield found


async def test_it_is_one_of_ours(asking):
    entity = await make(asking, address="ann@example.org", first_name="Bob")
    await asking.apply(asking.event("x1", {**ANN, "gender": "f"}, 10**7))
    assert await asking.answered.release() == 0
    assert await asking.decide(entity) == 1
    assert await links(asking) == {"x1": (entity, "person")}
    person = await asking.person()
    assert (person["first_name"], person["gender"]) == ("Ann", "f")
    assert [decision for decision, _ in await asking.ledger()] == ["applied"]
    assert (await asking.open(), await asking.answered.release()) == ([], 0)
    [closed] = await reviews.listed(asking.conn, asking.org, reviews.Which(closed=True), now=at(61))
    assert (closed["decision"], closed["entity_id"], closed["decided_by"], closed["closed_by"]) == (
        "link", entity, "ann", "ann",
    )  # fmt: skip
    [audit] = await asking.rows("select actor, action, detail from sync.audit where org_id = %s", asking.org)
    told = {"connection": "parish", "decision": "link", "entity_id": entity}
    assert (audit["actor"], audit["action"], audit["detail"]) == ("ann", "review.decide", told)


async def test_it_is_somebody_new_and_nobody_is_asked_again(asking):
    entity = await make(asking, address="ann@example.org", first_name="Bob")
    event = asking.event("x1", ANN, 3)
    await asking.apply(event)
    await asking.decide()
    ((made, made_by),) = (await links(asking)).values()
    assert (made != entity, made_by, len(await asking.people())) == (True, "inbound", 2)
    await asking.apply(event, asking.event("x1", {**ANN, "gender": "f"}, 4))
    assert (await asking.open(), len(await asking.people())) == ([], 2)
    assert await asking.emails() == ["ann@example.org"] * 2


async def test_what_comes_before_it_is_applied_follows_the_decision_too(asking):
    await make(asking, address="ann@example.org", first_name="Bob")
    await asking.apply(asking.event("x1", ANN, 3))
    await asking.decide(release=False)
    # The later state has no key any more.
    await asking.apply(asking.event("x1", {"firstName": "Later"}, 4))
    assert (len(await asking.people()), await asking.answered.release()) == (2, 0)
    assert "Later" in {person["first_name"] for person in await asking.people()}


async def test_a_decision_waits_for_a_connection_that_takes_events(asking):
    entity = await make(asking, address="ann@example.org", first_name="Bob")
    await asking.apply(asking.event("x1", ANN, 3))
    for state, count in (("disconnected", 0), ("active", 1)):
        await asking.admin.execute("update sync.connection set state = %s where org_id = %s", (state, asking.org))
        if state == "disconnected":
            await asking.decide(entity)
        else:
            assert await asking.answered.release() == count
        assert len(await links(asking)) == count


async def test_who_is_gone_or_taken_meanwhile_is_asked_about_again(asking):
    entity = await make(asking, address="ann@example.org", first_name="Bob")
    await asking.apply(asking.event("x1", ANN, 3))
    await asking.decide(entity, release=False)
    await asking.admin.execute("update canon.person set deleted_at = now() where id = %s", (entity,))
    assert await asking.answered.release() == 1
    [item] = await asking.open()
    assert (item["detail"]["reason"], await links(asking)) == ("decided_gone", {})
    assert await asking.decide() == 1
    assert (len(await links(asking)), await asking.open()) == (1, [])


async def test_what_cannot_be_is_refused(asking):
    entity = await make(asking, address="ann@example.org", first_name="Bob")
    taken = await make(asking, address="eve@example.org", first_name="Eve")
    await asking.apply(asking.event("y1", {"firstName": "Eve", "emails": [{"address": "eve@example.org"}]}, 1))
    await asking.apply(asking.event("x1", ANN, 3))
    assert await asking.refused(taken) == "link_taken"
    elsewhere = await make(asking, org="orgelse", address="ann@example.org")
    assert await asking.refused(elsewhere) == "id_unknown"
    await asking.admin.execute("update sync.connection set option = 2 where org_id = %s", (asking.org,))
    assert await asking.refused() == "decision_invalid"
    number = await asking.decide(entity, release=False)
    with pytest.raises(Problem, match="was decided by ann"):
        await reviews.decide(asking.conn, By(asking.org, "bob", at(61)), number, None)
    await asking.answered.release()
    with pytest.raises(Problem, match="was closed by ann"):
        await reviews.decide(asking.conn, By(asking.org, "bob", at(61)), number, entity)


async def test_what_a_rule_of_ours_refuses_then_is_a_question_of_its_own(asking):
    entity = await make(asking, address="ann@example.org", first_name="Bob")
    await asking.apply(asking.event("x1", {**ANN, "gender": "f"}, 10**7))
    await asking.admin.execute(
        f"alter table canon.person add constraint nobody check (org_id <> '{asking.org}' or gender is null) not valid"
    )
    try:
        assert await asking.decide(entity) == 1
    finally:
        await asking.admin.execute("alter table canon.person drop constraint nobody")
    [item] = await asking.open()
    assert (item["kind"], item["detail"]["constraint"], await links(asking)) == ("constraint", "nobody", {})


async def test_a_record_that_was_unlinked_since_is_a_new_question(asking):
    entity = await make(asking, address="ann@example.org", first_name="Bob")
    await asking.apply(asking.event("x1", ANN, 3))
    await asking.decide(entity)
    await asking.admin.execute("update sync.external_link set deleted_at = %s where org_id = %s", (at(4), asking.org))
    await asking.admin.execute("update canon.person set first_name = 'Bob' where id = %s", (entity,))
    await asking.apply(asking.event("x1", ANN, 5))
    assert [item["detail"]["reason"] for item in await asking.open()] == ["contradiction"]
