"""Their event about a record that our own create has just made comes before the answer: it must make no second row."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from connectors.contract import CreateTier, Delivered, Failed
from connectors.errors import Ambiguous
from streams import why
from streams.rules.doubts import ANY_WITHIN
from streams.settings import Settings
from tests.integration.both_ways import MODEL, BothWays, both_ways
from tests.integration.scripted import NOW, with_tier

pytestmark = pytest.mark.integration
LOST = Failed(Ambiguous("no_answer", "no answer in time"))
ANN = {"firstName": "Ann", "lastName": "Lee"}
BOB = {"firstName": "Bob", "lastName": "Poe"}
SECOND = timedelta(seconds=1)


async def sending(both: BothWays) -> tuple[str, list]:
    """Ann, whose create is on its way."""
    ann = await both.out.insert()
    await both.out.plan(ann)
    return ann, await both.out.take()


@pytest.mark.covers("F113", "C12", "R4")
async def test_an_event_before_the_answer_waits_for_it_and_is_no_second_person(database: Settings) -> None:
    async with both_ways(database, "org_race", manifest=with_tier(CreateTier.NONE)) as both:
        ann, taken = await sending(both)
        told = await both.hear(both.event("x1", ANN, NOW), both.event("x1", {**ANN, "lastName": "Low"}, NOW + SECOND))
        assert told.decisions == {("mirror", "waiting"): 2}
        assert await both.look_again() == 0

        both.out.theirs.answer = lambda _: Delivered("x1", 201, "1", NOW)
        await both.out.commit(await both.out.send(taken))

        assert await both.look_again() == 2
        (person,) = await both.people()
        assert (person["id"], person["last_name"]) == (ann, "Low")
        assert await both.ledger() == [("stale", "duplicate"), ("applied", "newer_there")]
        assert await both.rows("select * from sync.waiting_event where org_id = %s", "org_race") == []


@pytest.mark.covers("F130")
async def test_a_stranger_waits_only_until_the_create_is_settled(database: Settings) -> None:
    async with both_ways(database, "org_stranger", manifest=with_tier(CreateTier.NONE)) as both:
        _, taken = await sending(both)
        await both.hear(both.event("x2", BOB, NOW))
        both.out.theirs.answer = lambda _: Delivered("x1", 201, "1", NOW)
        await both.out.commit(await both.out.send(taken))
        await both.look_again()
        assert [row["first_name"] for row in await both.people()] == ["Ann", "Bob"]


async def test_a_create_that_was_sent_later_holds_up_nobody(database: Settings) -> None:
    async with both_ways(database, "org_later", manifest=with_tier(CreateTier.NONE)) as both:
        await sending(both)
        told = await both.hear(both.event("x2", BOB, NOW, received_at=NOW - timedelta(minutes=1)))
        assert told.decisions == {("mirror", "applied"): 1}


@pytest.mark.covers("R8", "R26")
async def test_a_parked_create_holds_up_only_the_record_that_looks_like_it(database: Settings) -> None:
    async with both_ways(database, "org_parked", manifest=with_tier(CreateTier.NONE)) as both:
        ann, taken = await sending(both)
        both.out.theirs.answer = lambda _: LOST
        await both.out.commit(await both.out.send(taken))
        assert (await both.out.state(ann))[0] == "PARKED"
        both.out.now += ANY_WITHIN

        told = await both.hear(both.event("x1", ANN, NOW), both.event("x2", BOB, NOW))
        assert told.decisions == {("mirror", "waiting"): 1, ("mirror", "applied"): 1}
        assert [row["first_name"] for row in await both.people()] == ["Ann", "Bob"]


@pytest.mark.covers("R8")
async def test_a_link_settles_the_create_that_nobody_could_tell_about(database: Settings) -> None:
    async with both_ways(database, "org_thaw", manifest=with_tier(CreateTier.CLIENT_ID)) as both:
        ann, taken = await sending(both)
        both.out.theirs.answer = lambda _: LOST
        await both.out.commit(await both.out.send(taken))
        await both.hear(both.event(ann, ANN, NOW))
        state, *_, thawed = await both.out.state(ann)
        assert (state, thawed) == ("PENDING", True)
        both.out.theirs.answer = lambda _: Delivered(ann, 200, "2", NOW + SECOND)
        await both.out.rounds()
        assert (await both.out.state(ann))[0] == "DONE"
        assert [sent["op"] for sent in both.out.theirs.sent] == ["create", "update"]


async def test_an_event_waits_once_however_often_it_comes(database: Settings) -> None:
    async with both_ways(database, "org_again", manifest=with_tier(CreateTier.NONE)) as both:
        await sending(both)
        event = both.event("x1", ANN, NOW)
        await both.hear(event)
        await both.hear(event)
        assert len(await both.rows("select * from sync.waiting_event where org_id = %s", "org_again")) == 1

        asker = why.Asker(both.out.org, MODEL, lambda _: both.out.manifest, both.out.now)
        (report,) = await why.why(both.out.conn, "x1", asker)
        (sentence,) = (sentence for _, sentence in report.connections)
        assert sentence == "It has no row of ours: the last event of mirror was waiting (create_in_doubt)."


@pytest.mark.covers("F113")
async def test_a_record_that_carries_our_marker_is_linked_at_once(database: Settings) -> None:
    manifest = with_tier(CreateTier.SEARCH)
    manifest = replace(manifest, aggregates=tuple(replace(a, marker="externalRef") for a in manifest.aggregates))
    async with both_ways(database, "org_marker", manifest=manifest) as both:
        ann, taken = await sending(both)
        await both.hear(both.event("x1", {**ANN, "externalRef": ann}, NOW))
        (link,) = await both.rows("select * from sync.external_link where org_id = %s", "org_marker")
        assert (link["external_id"], link["entity_id"]) == ("x1", ann)

        both.out.theirs.answer = lambda _: Delivered("x1", 201, "1", NOW)
        await both.out.commit(await both.out.send(taken))
        await both.out.rounds()
        assert (await both.out.state(ann))[0] == "DONE"
        assert [sent["op"] for sent in both.out.theirs.sent].count("create") == 1

        # they copy the record, marker and all: that is another person
        await both.hear(both.event("x9", {**ANN, "externalRef": ann}, NOW + SECOND))
        assert len(await both.people()) == 2
