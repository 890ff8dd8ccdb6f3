"""Records without a link find the entity that they are, on a real Postgres: once, or a person is asked."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from psycopg.rows import dict_row

from streams.inbound.applier import Applier
from tests.integration.test_applier import (  # noqa: F401
    MODEL,
    Inbound,
    _number,
    at,
    connections_to,
    inbound,
    manifest,
)

pytestmark = pytest.mark.integration

ANN = {"firstName": "Ann", "lastName": "Lee", "emails": [{"address": "ann@example.org"}]}
SHARED = {"address": "ann@example.org"}


async def make(inbound, org=None, **columns) -> str:  # noqa: F811
    """A person of ours with one e-mail address."""
    address = columns.pop("address", None)
    given = {"org_id": org or inbound.org, "first_name": "Ann", "last_name": "Lee"} | columns
    names, marks = ", ".join(given), ", ".join("%s" for _ in given)
    row = await inbound.one(f"insert into canon.person ({names}) values ({marks}) returning id", *given.values())
    if address:
        await inbound.admin.execute(
            "insert into canon.email (org_id, person_id, address) values (%s, %s, %s)",
            (given["org_id"], row["id"], address),
        )
    return row["id"]


async def reviews(inbound) -> list[dict]:  # noqa: F811
    return await inbound.rows(
        "select * from sync.review where org_id = %s and kind = 'match' and closed_at is null order by subject",
        inbound.org,
    )


async def links(inbound) -> dict[str, tuple[str, str]]:  # noqa: F811
    found = await inbound.rows(
        "select external_id, entity_id, made_by from sync.external_link where org_id = %s and deleted_at is null",
        inbound.org,
    )
    return {row["external_id"]: (row["entity_id"], row["made_by"]) for row in found}


@pytest.mark.covers("F113", "F129")
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"address": "ann@example.org"}, ANN),
        ({"address": " ANN@Example.org "}, ANN),
        ({"address": "ann@example.org", "birth_date": "1990-04-01"}, {**ANN, "firstName": "ann "}),
        ({"national_id": "ab-12 34"}, {"firstName": "Anna", "nationalId": "AB1234"}),
        ({"national_id": "AB1234", "address": "old@example.org"}, {**ANN, "nationalId": "AB1234"}),
    ],
)
async def test_a_unique_key_links_the_record_with_the_entity(inbound, ours, theirs):  # noqa: F811
    entity = await make(inbound, **ours)
    await make(inbound, first_name="Bob", address="bob@example.org", national_id="ZZ9999")
    await inbound.apply(inbound.event("x1", {**theirs, "gender": "f"}, 3))
    assert await links(inbound) == {"x1": (entity, "match")}
    assert (await inbound.one("select gender from canon.person where id = %s", entity))["gender"] == "f"
    assert (len(await inbound.people()), await reviews(inbound)) == (2, [])


@pytest.mark.covers("F129", "F055")
async def test_after_a_match_the_newer_side_wins_and_what_lost_is_kept(inbound):  # noqa: F811
    await make(inbound, address="ann@example.org", last_name="Lee", gender="f")
    await inbound.apply(inbound.event("x1", {**ANN, "lastName": "Older"}, -9000))
    person = await inbound.person()
    assert (person["last_name"], person["gender"]) == ("Lee", "f")
    (lost,) = await inbound.rows(
        "select theirs, winner from sync.conflict_log where org_id = %s and field = 'last_name'", inbound.org
    )
    assert (lost["theirs"], lost["winner"]) == ("Older", "ours")
    assert [each["reason"] for each in await inbound.intents()] == ["correct_remote"]
    await inbound.apply(inbound.event("x1", {**ANN, "lastName": "Newer"}, 10**7))
    assert (await inbound.person())["last_name"] == "Newer"


@pytest.mark.covers("F113", "F129")
@pytest.mark.parametrize(("minutes", "wins"), [(-9000, "ann@example.org"), (10**7, "Ann@Example.ORG")])
async def test_a_key_that_is_spelled_differently_is_one_part_and_the_newer_spelling_wins(inbound, minutes, wins):  # noqa: F811
    entity = await make(inbound, address="ann@example.org")
    theirs = {**ANN, "emails": [{"address": "Ann@Example.ORG"}, {"address": "second@example.org"}]}
    await inbound.apply(inbound.event("x1", theirs, minutes))
    assert await links(inbound) == {"x1": (entity, "match")}
    assert [each for each in await inbound.emails() if each.lower() == "ann@example.org"] == [wins]
    # From then on we know what they hold.
    await inbound.apply(inbound.event("x1", {**ANN, "emails": [*theirs["emails"], {"address": wins.upper()}]}, 10**8))
    assert len(await inbound.emails()) == 3


@pytest.mark.covers("F113")
@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ([SHARED, {"address": "ann@example.org"}], ANN, "several_candidates"),
        ([SHARED, {"national_id": "AB1234"}], {**ANN, "nationalId": "AB1234"}, "several_candidates"),
        ([{**SHARED, "first_name": "Bob"}], ANN, "contradiction"),
        ([{**SHARED, "birth_date": "1960-01-01"}], {**ANN, "birthDate": "1990-04-01"}, "contradiction"),
        ([{**SHARED, "national_id": "AB1234"}], {**ANN, "nationalId": "XY9876"}, "contradiction"),
    ],
)
async def test_doubt_about_a_person_makes_a_review_item_and_nobody(inbound, ours, theirs, reason):  # noqa: F811
    entities = sorted([await make(inbound, **each) for each in ours])
    event = inbound.event("x1", theirs, 3)
    later = inbound.event("x1", {**theirs, "gender": "f"}, 4)
    await inbound.apply(later, event)
    (item,) = await reviews(inbound)
    assert (item["subject"], item["entity_type"], item["detail"]["reason"]) == ("x1", "person", reason)
    assert [each["entity_id"] for each in item["detail"]["candidates"]] == entities
    assert (item["detail"]["payload"], item["value"]) == ({**theirs, "gender": "f"}, b"avro")
    assert await inbound.ledger() == [("parked", f"match {reason}")] * 2
    assert (len(await inbound.people()), await links(inbound)) == (len(ours), {})
    assert "ann@example.org" not in str(item["detail"]["candidates"])


@pytest.mark.covers("F113")
async def test_an_entity_that_is_another_record_of_theirs_is_not_taken(inbound):  # noqa: F811
    await inbound.apply(inbound.event("x1", ANN, 1))
    await inbound.apply(inbound.event("x2", ANN, 2))
    (item,) = await reviews(inbound)
    (candidate,) = item["detail"]["candidates"]
    assert (item["subject"], item["detail"]["reason"], candidate["linked_to"]) == ("x2", "candidate_linked", "x1")
    assert (len(await inbound.people()), list(await links(inbound))) == (1, ["x1"])


async def test_a_review_item_closes_when_the_doubt_has_gone(inbound):  # noqa: F811
    await make(inbound, address="ann@example.org", first_name="Bob")
    event = inbound.event("x1", ANN, 3)
    await inbound.apply(event)
    assert len(await reviews(inbound)) == 1
    await inbound.admin.execute("update canon.person set first_name = 'Ann' where org_id = %s", (inbound.org,))
    await inbound.apply(event)
    assert await links(inbound) == {}
    await inbound.apply(inbound.event("x1", ANN, 3, source="redrive"))
    assert (len(await links(inbound)), await reviews(inbound), len(await inbound.people())) == (1, [], 1)


@pytest.mark.covers("F113")
@pytest.mark.parametrize("shared", ["emails", "nationalId"])
async def test_of_two_new_records_with_one_key_in_a_batch_the_second_is_asked_about(inbound, shared):  # noqa: F811
    one = {**ANN, "nationalId": "AB1234"}
    other = {"firstName": "Ann", shared: one[shared]}
    await inbound.apply(inbound.event("x1", one, 1), inbound.event("x2", other, 2), inbound.event("x3", {}, 3))
    assert sorted(await links(inbound)) == ["x1", "x3"]
    (item,) = await reviews(inbound)
    assert (item["subject"], item["detail"]["reason"]) == ("x2", "same_key_as")
    assert item["detail"]["candidates"] == [{"external_id": "x1"}]


async def test_two_records_that_different_keys_lead_to_one_entity_do_not_share_it(inbound):  # noqa: F811
    entity = await make(inbound, address="ann@example.org", national_id="AB1234")
    await inbound.apply(inbound.event("x1", ANN, 1), inbound.event("x2", {"nationalId": "AB1234"}, 2))
    assert await links(inbound) == {"x1": (entity, "match")}
    assert [item["subject"] for item in await reviews(inbound)] == ["x2"]


@pytest.mark.covers("F098")
async def test_where_we_are_the_source_of_truth_a_match_links_and_nothing_is_made(inbound):  # noqa: F811
    await inbound.admin.execute("update sync.connection set option = 2 where org_id = %s", (inbound.org,))
    entity = await make(inbound, address="ann@example.org")
    stranger = {**ANN, "emails": [{"address": "else@example.org"}]}
    await inbound.apply(inbound.event("x1", ANN, 1), inbound.event("x2", stranger, 2), inbound.event("x3", stranger, 3))
    assert await links(inbound) == {"x1": (entity, "match")}
    assert [each for each in await inbound.ledger() if each[0] != "applied"][-2:] == [("ignored", "option_2")] * 2
    assert (len(await inbound.people()), await reviews(inbound)) == (1, [])


@pytest.mark.covers("C15")
async def test_entities_of_others_and_deleted_ones_are_no_candidates(inbound):  # noqa: F811
    await make(inbound, org="orgelse", address="ann@example.org")
    await make(inbound, address="ann@example.org", deleted_at=at(0))
    await inbound.apply(inbound.event("x1", ANN, 1))
    ((_, made_by),) = (await links(inbound)).values()
    assert made_by == "inbound"


@pytest.mark.parametrize("junk", ["n/a", "none@", "0000-0000", "-", "", None, 7, "@", "\x00"])
async def test_what_people_type_into_a_mandatory_field_matches_nobody(inbound, junk):  # noqa: F811
    payload = {"firstName": "Ann", "emails": [{"address": junk}]}
    if junk != 7:
        payload["nationalId"] = junk
    await inbound.apply(inbound.event("x1", payload, 1))
    await inbound.apply(inbound.event("x2", payload, 2))
    assert await reviews(inbound) == []


@pytest.mark.covers("F113", "F130")
async def test_two_systems_that_send_the_same_new_person_at_once_make_one(inbound, database):  # noqa: F811
    await inbound.connect("clinic")
    async with await psycopg.AsyncConnection.connect(database.dsn("applier"), autocommit=True) as conn:
        other = Applier(MODEL, manifest, lambda: at(60))

        async def second() -> None:
            async with conn.transaction():
                await other.apply(conn, [inbound.incoming(inbound.event("c1", ANN, 2, connection="clinic"))])

        async with inbound.conn.transaction():
            await inbound.applier.apply(inbound.conn, [inbound.incoming(inbound.event("x1", ANN, 1))])
            task = asyncio.create_task(second())
            await waits_for_a_lock(inbound, conn.info.backend_pid)
        await task
    (person,) = await inbound.people()
    assert await links(inbound) == {"x1": (person["id"], "inbound"), "c1": (person["id"], "match")}


async def waits_for_a_lock(inbound, pid: int) -> None:  # noqa: F811
    """Until that backend waits for an advisory lock: it has come as far as it can."""
    async with asyncio.timeout(10), inbound.admin.cursor(row_factory=dict_row) as cursor:
        while True:
            await cursor.execute(
                "select 1 from pg_locks where pid = %s and locktype = 'advisory' and not granted", (pid,)
            )
            if await cursor.fetchone():
                return
            await asyncio.sleep(0.005)
