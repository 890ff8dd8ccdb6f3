"""Their edit, our push over it, and only then their event: nothing they wrote is lost without a trace."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from connectors.contract import Delivered
from streams.settings import Settings
from tests.integration.both_ways import BothWays, both_ways
from tests.integration.scripted import NOW

pytestmark = pytest.mark.integration
ANN = {"firstName": "Ann", "lastName": "Lee", "birthDate": "1990-04-01"}


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


async def linked(both: BothWays) -> str:
    await both.hear(both.event("x1", ANN, NOW, external_version="1"))
    (person,) = await both.people()
    return str(person["id"])


async def edit_here(both: BothWays, entity: str, **columns: str) -> None:
    names = ", ".join(f"{name} = %s" for name in columns)
    await both.out.sql(f"update canon.person set {names} where id = %s", *columns.values(), entity)


async def push(both: BothWays, entity: str, version: str, at: datetime) -> None:
    """One confirmed push; they tell its version and time."""
    await both.out.plan(entity)
    both.out.theirs.answer = lambda _: Delivered("x1", 200, version, at)
    await both.out.rounds()
    assert (await both.out.state(entity))[0] == "DONE"


async def losers(both: BothWays) -> list[tuple[str, str, str, str]]:
    found = await both.rows("select * from sync.conflict_log where org_id = %s order by field", both.out.org)
    return [(row["field"], row["ours"], row["theirs"], row["winner"]) for row in found]


@pytest.mark.covers("R9", "R11", "F061")
async def test_a_field_that_only_they_edited_is_taken_and_put_right_there(database: Settings) -> None:
    async with both_ways(database, "org_over") as both:
        ann = await linked(both)
        await edit_here(both, ann, first_name="Anna")
        await push(both, ann, "3", later(2))

        await both.hear(both.event("x1", {**ANN, "lastName": "Low"}, later(1), external_version="2"))

        (person,) = await both.people()
        assert (person["first_name"], person["last_name"]) == ("Anna", "Low")
        assert (await both.out.state(ann))[0] == "PENDING"
        await push(both, ann, "4", later(3))
        payload = both.out.theirs.sent[-1]["payload"]
        assert (payload["firstName"], payload["lastName"]) == ("Anna", "Low")


@pytest.mark.covers("R11")
async def test_a_field_that_both_edited_leaves_its_loser_in_the_log(database: Settings) -> None:
    async with both_ways(database, "org_over_both") as both:
        ann = await linked(both)
        await edit_here(both, ann, first_name="Anna")
        await push(both, ann, "3", later(2))
        await both.hear(both.event("x1", {**ANN, "firstName": "Annie"}, later(1), external_version="2"))
        (person,) = await both.people()
        assert person["first_name"] == "Anna"  # written here months later
        assert await losers(both) == [("first_name", "Anna", "Annie", "ours")]


@pytest.mark.covers("R9")
async def test_our_own_pushes_coming_back_late_are_no_edits(database: Settings) -> None:
    async with both_ways(database, "org_over_echo") as both:
        ann = await linked(both)
        for number, name in enumerate(("Anna", "Anne", "Annie"), start=2):
            await edit_here(both, ann, first_name=name)
            await push(both, ann, str(number), later(number))
        for number, name in enumerate(("Anna", "Anne", "Annie"), start=2):
            await both.hear(both.event("x1", {**ANN, "firstName": name}, later(number), external_version=str(number)))
        assert [row["first_name"] for row in await both.people()] == ["Annie"]
        assert await losers(both) == []
        assert (await both.out.state(ann))[0] == "DONE"


async def test_what_was_heard_before_the_push_is_still_stale(database: Settings) -> None:
    async with both_ways(database, "org_over_stale") as both:
        ann = await linked(both)
        await both.hear(both.event("x1", {**ANN, "lastName": "Low"}, later(2), external_version="3"))
        await edit_here(both, ann, first_name="Anna")
        await push(both, ann, "4", later(3))
        await both.hear(both.event("x1", {**ANN, "lastName": "Lie"}, later(1), external_version="2"))
        assert [row["last_name"] for row in await both.people()] == ["Low"]
        assert (await both.ledger())[1] == ("stale", "stale")
        assert await losers(both) == []


async def test_hidden_edits_that_come_in_the_wrong_order_are_decided_by_their_versions(database: Settings) -> None:
    async with both_ways(database, "org_over_order") as both:
        ann = await linked(both)
        await edit_here(both, ann, first_name="Anna")
        await push(both, ann, "4", later(4))
        second = both.event("x1", {**ANN, "lastName": "Lowe"}, later(2), external_version="3")
        first = both.event("x1", {**ANN, "lastName": "Low"}, later(1), external_version="2")
        await both.hear(second)
        await both.hear(first)
        assert [row["last_name"] for row in await both.people()] == ["Lowe"]


@pytest.mark.covers("R12")
async def test_what_they_deleted_and_we_edited_since_is_made_anew_there(database: Settings) -> None:
    async with both_ways(database, "org_anew", delete_policy="delete") as both:
        ann = await linked(both)
        await edit_here(both, ann, first_name="Anna")
        delete = both.event("x1", None, later(1), external_version="2")
        await both.hear(delete, both.event("x1", {**ANN, "lastName": "Low"}, later(0.5), external_version="1.5"))
        both.out.theirs.answer = lambda _: Delivered("x2", 201, "1", later(3))
        await both.out.rounds()
        assert [sent["op"] for sent in both.out.theirs.sent] == ["create"]
        links = await both.rows("select * from sync.external_link where org_id = %s order by external_id", both.out.org)
        assert [(row["external_id"], row["deleted_at"]) for row in links] == [("x1", later(1)), ("x2", None)]
        # what happened to the old record before it was deleted makes nobody
        await both.hear(both.event("x1", {**ANN, "lastName": "Lo"}, later(0.7), external_version="1.7"))
        assert len(await both.people()) == 1


@pytest.mark.covers("R12")
async def test_a_late_webhook_of_a_record_that_we_deleted_makes_nobody(database: Settings) -> None:
    async with both_ways(database, "org_gone", delete_policy="delete") as both:
        ann = await linked(both)
        await both.out.sql("update canon.person set deleted_at = now() where id = %s", ann)
        await push(both, ann, "2", later(2))
        an_hour_ahead = both.event("x1", {**ANN, "lastName": "Low"}, later(3600), external_version="2")
        await both.hear(an_hour_ahead)
        assert len(await both.people()) == 1
        # but a poll that reads it much later tells that it was restored
        both.out.now = later(3600 * 24 * 400)
        await both.hear(both.event("x1", ANN, later(3600 * 24 * 400), source="poll"))
        assert [row["deleted_at"] is None for row in await both.people()].count(True) == 1
