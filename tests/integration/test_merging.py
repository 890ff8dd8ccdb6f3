"""Records that they merge: links follow, old ids go on resolving, and nobody is lost or made twice."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations

import pytest

from connectors.contract import Op
from streams.settings import Settings
from tests.integration.both_ways import both_ways
from tests.integration.scripted import NOW
from tests.integration.test_applier import (  # noqa: F401
    Inbound,
    _number,
    at,
    connections_to,
    inbound,
)

pytestmark = pytest.mark.integration
ANN, ANNA = {"firstName": "Ann", "lastName": "Lee"}, {"firstName": "Anna", "lastName": "Lee"}


def merge(inbound, old, left, minutes, **more):  # noqa: F811
    return inbound.event(old, {"into": left}, minutes, op=Op.MERGE, **more)


async def links(inbound) -> dict[str, str]:  # noqa: F811
    found = await inbound.rows(
        """select l.external_id, p.first_name from sync.external_link l join canon.person p on p.id = l.entity_id
           where l.org_id = %s and l.deleted_at is null""",
        inbound.org,
    )
    return {row["external_id"]: row["first_name"] for row in found}


async def last_entry(inbound) -> tuple[str, str]:  # noqa: F811
    return (await inbound.ledger())[-1]


async def reviews(inbound) -> list[dict]:  # noqa: F811
    return await inbound.rows("select * from sync.review where org_id = %s and closed_at is null", inbound.org)


@pytest.mark.covers("C12", "F128")
async def test_the_link_follows_into_the_record_that_is_left(inbound):  # noqa: F811
    await inbound.apply(inbound.event("x1", ANN, 1, external_version="7"))
    await inbound.apply(merge(inbound, "x1", "x2", 5))
    assert await links(inbound) == {"x2": "Ann"}
    assert await last_entry(inbound) == ("applied", "relinked")
    (wish,) = await inbound.rows("select external_id from sync.fetch_intent where org_id = %s", inbound.org)
    assert wish["external_id"] == "x2"
    # the state of the record that is left may be older than the one we had of the other
    await inbound.apply(inbound.event("x2", {**ANN, "gender": "f"}, -5))
    assert (await inbound.person())["gender"] == "f"
    assert (await inbound.intents(), await reviews(inbound)) == ([], [])


@pytest.mark.covers("F128")
async def test_the_old_id_resolves_in_later_events_and_in_references(inbound):  # noqa: F811
    await inbound.apply(inbound.event("h1", {"name": "Lee"}, 1, kind="household"))
    await inbound.apply(merge(inbound, "h1", "h2", 2, kind="household"))
    await inbound.apply(
        inbound.event("h1", {"name": "The Lees"}, 3, kind="household"),
        inbound.event("x1", {**ANN, "householdId": "h1"}, 4),
    )
    (household,) = await inbound.rows("select id, name from canon.household where org_id = %s", inbound.org)
    assert (household["name"], (await inbound.person())["household_id"]) == ("The Lees", household["id"])


async def test_what_happened_to_the_old_record_before_or_its_delete_is_no_news(inbound):  # noqa: F811
    await inbound.apply(inbound.event("x1", ANN, 1))
    await inbound.apply(merge(inbound, "x1", "x2", 5))
    await inbound.apply(inbound.event("x1", ANNA, 4), inbound.event("x1", None, 6))
    assert await links(inbound) == {"x2": "Ann"}
    assert (await inbound.person())["deleted_at"] is None
    assert (await inbound.ledger()).count(("ignored", "merged_since")) == 2


async def test_when_both_are_somebody_a_person_is_asked_and_the_old_link_ends(inbound):  # noqa: F811
    await inbound.apply(inbound.event("x1", ANN, 1), inbound.event("x2", ANNA, 1))
    people = {row["first_name"]: row["id"] for row in await inbound.people()}
    await inbound.apply(merge(inbound, "x1", "x2", 5))
    assert await links(inbound) == {"x2": "Anna"}
    (item,) = await reviews(inbound)
    assert (item["kind"], item["subject"], item["detail"]["into"], item["value"]) == ("merge", "x1", "x2", None)
    assert item["detail"]["candidates"] == [{"entity_id": people["Ann"]}, {"entity_id": people["Anna"]}]
    alias = await inbound.one("select * from sync.link_alias where org_id = %s", inbound.org)
    assert (alias["into_id"], alias["entity_id"]) == ("x2", people["Ann"])
    await inbound.apply(inbound.event("x1", {**ANNA, "gender": "f"}, 6))
    assert [row["gender"] for row in await inbound.people() if row["id"] == people["Anna"]] == ["f"]
    assert len(await inbound.people()) == 2


async def test_a_merge_of_records_that_nobody_knows_is_kept_for_when_they_are(inbound):  # noqa: F811
    await inbound.apply(merge(inbound, "x1", "x2", 5))
    assert await last_entry(inbound) == ("applied", "merged_unlinked")
    await inbound.apply(inbound.event("x1", ANN, 1))
    assert await inbound.people() == []
    await inbound.apply(inbound.event("x2", ANN, 2))
    await inbound.apply(inbound.event("x1", {**ANN, "gender": "f"}, 7))
    assert (await links(inbound), (await inbound.person())["gender"]) == ({"x2": "Ann"}, "f")


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("together", [True, False])
async def test_chains_and_repeats_end_at_the_last_whatever_their_order(inbound, order, together):  # noqa: F811
    await inbound.apply(inbound.event("x1", ANN, 1))
    merges = [merge(inbound, f"x{n}", f"x{n + 1}", 4 + n) for n in (1, 2, 3)]
    told = [merges[number] for number in order]
    for facts in [told] if together else [[each] for each in told]:
        await inbound.apply(*facts)
    await inbound.apply(*told, merge(inbound, "x1", "x2", 30), merge(inbound, "x4", "x1", 31))
    assert await links(inbound) == {"x4": "Ann"}
    found = await inbound.rows("select external_id, into_id from sync.link_alias where org_id = %s", inbound.org)
    assert {row["external_id"]: row["into_id"] for row in found} == {"x1": "x4", "x2": "x4", "x3": "x4"}
    assert (await inbound.ledger())[-2:] == [("ignored", "merged_already"), ("ignored", "merge_circular")]
    assert await reviews(inbound) == []


async def test_a_doubt_about_the_old_record_ends_with_it(inbound):  # noqa: F811
    ann = {**ANN, "emails": [{"address": "ann@example.org"}]}
    await inbound.apply(inbound.event("x1", ann, 1))
    await inbound.apply(inbound.event("x2", ann, 2))
    assert [item["kind"] for item in await reviews(inbound)] == ["match"]
    await inbound.apply(merge(inbound, "x2", "x1", 3))
    assert (await links(inbound), await reviews(inbound)) == ({"x1": "Ann"}, [])


@pytest.mark.parametrize("payload", [{}, {"into": None}, {"into": ""}, {"into": "x\x00"}, {"into": 7}])
async def test_a_merge_into_nothing_is_kept_as_a_dead_letter(inbound, payload):  # noqa: F811
    await inbound.apply(inbound.event("x1", payload, 5, op=Op.MERGE))
    assert [letter["code"] for letter in await inbound.letters()] == ["merge_unreadable"]


async def test_merges_are_heard_before_the_type_is_live(inbound):  # noqa: F811
    await inbound.admin.execute(
        """update sync.connection set gates = '{"person": "staging"}' where org_id = %s""", (inbound.org,)
    )
    await inbound.apply(merge(inbound, "x1", "x2", 5), inbound.event("x1", ANN, 1))
    assert set(await inbound.ledger()) == {("applied", "merged_unlinked"), ("staged", "gate_staging")}


async def test_what_they_merged_away_is_not_made_anew_by_a_change_of_ours(database: Settings) -> None:
    async with both_ways(database, "org_mergeout") as both:
        await both.hear(both.event("x1", ANN, NOW), both.event("x2", ANNA, NOW))
        into = both.event("x1", {"into": "x2"}, NOW + timedelta(minutes=1), op=Op.MERGE)
        await both.hear(into)
        ann, anna = [row["id"] for row in await both.people()]
        await both.rows("update canon.person set gender = 'f' where org_id = %s", both.out.org)
        await both.out.plan(ann, anna)
        assert [claim.entity_id for claim in await both.out.take()] == [anna]
        intent = await both.rows("select state, error_code from sync.push_intent where entity_id = %s", ann)
        assert intent == [{"state": "DONE", "error_code": "merged_there"}]
