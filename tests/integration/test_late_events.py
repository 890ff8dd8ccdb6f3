"""Events of one system in any order: what is kept does not depend on it."""

from __future__ import annotations

import itertools

import pytest

from tests.integration.test_applier import Inbound, at, connections_to, inbound

__all__ = ["connections_to", "inbound"]

pytestmark = pytest.mark.integration
LEE = {"firstName": "Ann", "lastName": "Lee", "gender": None}
TOLD = [
    (3, {**LEE, "firstName": "A"}),
    (5, {**LEE, "firstName": "A", "gender": "f"}),
    (7, {**LEE, "firstName": "A", "gender": "f", "lastName": "Roe"}),
]
ORDERS = list(itertools.permutations(range(len(TOLD))))


async def known(inbound: Inbound, *connections: str) -> str:
    """A person of ours that all these connections hold since minute 1."""
    await inbound.apply(inbound.event("x1", LEE, 1))
    person = (await inbound.person())["id"]
    for name in connections:
        await inbound.connect(name)
        await inbound.admin.execute(
            """with link as (
                 insert into sync.external_link
                   (org_id, connection, external_type, external_id, entity_type, entity_id, sync_key, made_by)
                 select org_id, %s, external_type, 'y1', entity_type, entity_id, sync_key, made_by
                 from sync.external_link where org_id = %s and connection = 'parish' returning org_id, id)
               insert into sync.link_state (org_id, link_id, base, external_updated_at)
               select link.org_id, link.id, s.base, s.external_updated_at
               from link join sync.link_state s on s.org_id = link.org_id""",
            (name, inbound.org),
        )
    return person


async def kept(inbound: Inbound) -> tuple:
    person = await inbound.person()
    log = await inbound.rows(
        "select field, ours, theirs, winner, ours_at, theirs_at from sync.conflict_log where org_id = %s", inbound.org
    )
    values = {
        (row["theirs"], row["theirs_at"]) if row["winner"] == "ours" else (row["ours"], row["ours_at"]) for row in log
    }
    return person["first_name"], person["last_name"], person["gender"], person["field_times"]["first_name"], values


@pytest.mark.covers("F058", "F061", "R11")
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one batch"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("minute", "first_name"), [(2, "A"), (4, "ours"), (6, "ours"), (8, "ours")])
async def test_an_edit_of_ours_among_theirs_wins_or_loses_by_its_true_time(
    inbound, order, together, minute, first_name
):
    await known(inbound)
    await inbound.edit(first_name="ours", modified_at=at(minute))
    events = [inbound.event("x1", TOLD[n][1], TOLD[n][0], received_at=at(20)) for n in order]
    for batch in [events] if together else [[event] for event in events]:
        await inbound.apply(*batch)
    person = await inbound.person()
    assert (person["first_name"], person["last_name"], person["gender"]) == (first_name, "Roe", "f")
    logged = await inbound.rows("select ours, theirs from sync.conflict_log where org_id = %s", inbound.org)
    assert logged
    assert {(row["ours"], row["theirs"]) for row in logged} == {("ours", "A")}
    if first_name == "ours":
        assert person["field_times"]["first_name"] == at(minute).isoformat()
        assert [intent["reason"] for intent in await inbound.intents()] == ["correct_remote"]
        assert person["origin"] == "local"


@pytest.mark.covers("F058", "F061", "R11")
async def test_two_systems_and_we_end_in_one_state_whatever_comes_first(database, connections_to):
    ends = set()
    for number, order in enumerate(itertools.permutations(range(4))):
        inbound = Inbound(*connections_to, f"late{number}")
        await inbound.connect()
        await known(inbound, "registry")
        await inbound.edit(first_name="ours", modified_at=at(2))
        events = [inbound.event("x1", TOLD[n][1], TOLD[n][0], received_at=at(20)) for n in range(3)]
        events.append(inbound.event("y1", {**LEE, "firstName": "B"}, 4, connection="registry", received_at=at(20)))
        for place in order:
            await inbound.apply(events[place])
        ends.add((await kept(inbound))[:4])
    assert ends == {("B", "Roe", "f", at(4).isoformat())}


async def test_what_an_older_event_puts_right_has_the_right_times_in_the_log(inbound):
    await known(inbound)
    await inbound.edit(first_name="ours", modified_at=at(4))
    await inbound.apply(inbound.event("x1", TOLD[2][1], 7))
    assert (await kept(inbound))[-1] == {("ours", at(4))}
    await inbound.apply(inbound.event("x1", TOLD[0][1], 3, received_at=at(9)))
    first_name, *_, values = await kept(inbound)
    assert (first_name, values) == ("ours", {("ours", at(4)), ("A", at(3))})
    assert (await inbound.ledger())[0:] == [
        ("applied", "created"),
        ("kept", "written_earlier"),
        ("applied", "last_write"),
    ]
    winners = await inbound.rows(
        "select theirs_at, winner from sync.conflict_log where org_id = %s order by id", inbound.org
    )
    assert [(row["theirs_at"], row["winner"]) for row in winners] == [(at(3), "theirs"), (at(3), "ours")]


async def test_after_a_day_a_decision_stands(inbound):
    await known(inbound)
    await inbound.edit(first_name="ours", modified_at=at(4))
    await inbound.apply(inbound.event("x1", TOLD[2][1], 7))
    await inbound.admin.execute(
        "update sync.conflict_log set decided_at = %s where org_id = %s", (at(-1500), inbound.org)
    )
    await inbound.apply(inbound.event("x1", TOLD[0][1], 3, received_at=at(9)))
    assert (await inbound.person())["first_name"] == "A"


# with deletes ---------------------------------------------------------------------------------------------------------


async def deleting(inbound: Inbound) -> str:
    person = await known(inbound, "registry")
    await inbound.admin.execute(
        "update sync.connection set delete_policy = 'delete', created_at = %s where org_id = %s", (at(0), inbound.org)
    )
    return person


async def links(inbound: Inbound) -> dict[str, bool]:
    found = await inbound.rows(
        "select external_id, deleted_at is null as open from sync.external_link where org_id = %s order by external_id",
        inbound.org,
    )
    return {row["external_id"]: row["open"] for row in found}


@pytest.mark.covers("R11", "R12", "F058")
@pytest.mark.parametrize(
    ("edited", "alive"), [(6, False), (9, True)], ids=["edited before the delete", "edited after it"]
)
async def test_a_delete_and_edits_of_two_systems_end_in_one_state(database, connections_to, edited, alive):
    ends = set()
    for number, order in enumerate(itertools.permutations(range(4))):
        inbound = Inbound(*connections_to, f"gone{edited}x{number}")
        await inbound.connect()
        await deleting(inbound)
        events = [
            inbound.event("x1", {**LEE, "firstName": "A"}, 3, received_at=at(20)),
            inbound.event("x1", None, 8, received_at=at(20)),
            inbound.event("y1", {**LEE, "gender": "f"}, 5, connection="registry", received_at=at(20)),
            inbound.event(
                "y1", {**LEE, "gender": "f", "lastName": "B"}, edited, connection="registry", received_at=at(20)
            ),
        ]
        for place in order:
            await inbound.apply(events[place])
        person = await inbound.person()
        held = (person["first_name"], person["last_name"], person["gender"]) if person["deleted_at"] is None else None
        ends.add((held, person["first_name"], tuple((await links(inbound)).items())))
    assert ends == {(("A", "B", "f") if alive else None, "A", (("x1", False), ("y1", True)))}


async def test_what_another_system_revives_is_made_anew_where_it_was_deleted(inbound):
    person = await deleting(inbound)
    await inbound.apply(inbound.event("x1", None, 8))
    assert await links(inbound) == {"x1": False, "y1": True}
    await inbound.apply(inbound.event("y1", {**LEE, "firstName": "B"}, 9, connection="registry"))
    assert (await inbound.person())["deleted_at"] is None
    # The planner finds an entity without a link; an event of the old record is none of the new one.
    await inbound.apply(inbound.event("x1", {**LEE, "firstName": "old"}, 7, received_at=at(30)))
    assert ((await inbound.person())["first_name"], (await inbound.person())["id"]) == ("B", person)
    assert await links(inbound) == {"x1": False, "y1": True}


async def test_a_record_that_is_there_again_is_the_same_entity(inbound):
    person = await deleting(inbound)
    await inbound.apply(inbound.event("x1", None, 8))
    await inbound.apply(inbound.event("x1", {**LEE, "firstName": "back"}, 9))
    (row,) = await inbound.people()
    assert (row["id"], row["deleted_at"], row["first_name"], row["last_name"]) == (person, None, "back", "Lee")
    open_links = await inbound.rows(
        "select external_id from sync.external_link where org_id = %s and deleted_at is null", inbound.org
    )
    assert sorted(link["external_id"] for link in open_links) == ["x1", "y1"]


@pytest.mark.parametrize("minutes", [6, 10], ids=["by its time", "by a clock that is ahead"])
async def test_what_is_heard_after_our_delete_is_in_the_log(inbound, minutes):
    await deleting(inbound)
    await inbound.admin.execute(
        """update sync.external_link set deleted_at = %s, link_metadata = '{"deleted_by_us": true}'
           where org_id = %s and connection = 'parish'""",
        (at(8), inbound.org),
    )
    await inbound.apply(inbound.event("x1", {**LEE, "firstName": "unheard"}, minutes))
    assert [person["first_name"] for person in await inbound.people()] == ["Ann"]
    (lost,) = await inbound.rows("select * from sync.conflict_log where org_id = %s", inbound.org)
    assert (lost["field"], lost["ours"], lost["theirs"], lost["rule"]) == ("first_name", "Ann", "unheard", "overtaken")


async def test_a_person_of_ours_who_deletes_is_not_overruled_by_a_later_edit(inbound):
    await deleting(inbound)
    await inbound.edit(deleted_at=at(5), modified_at=at(5))
    await inbound.apply(inbound.event("y1", {**LEE, "firstName": "B"}, 9, connection="registry"))
    assert (await inbound.person())["deleted_at"] == at(5)
    (lost,) = await inbound.rows("select theirs, rule from sync.conflict_log where org_id = %s", inbound.org)
    assert (lost["theirs"], lost["rule"]) == ("B", "deleted_here")


async def test_edits_before_a_delete_that_loses_count_by_their_true_times(database, connections_to):
    ends = set()
    for number, order in enumerate(itertools.permutations(range(3))):
        inbound = Inbound(*connections_to, f"lost{number}")
        await inbound.connect()
        await deleting(inbound)
        await inbound.edit(last_name="ours", modified_at=at(4))
        await inbound.edit(gender="f", modified_at=at(9))
        events = [
            inbound.event("x1", {**LEE, "lastName": "A"}, 3, received_at=at(20)),
            inbound.event("x1", {**LEE, "lastName": "A", "firstName": "A"}, 6, received_at=at(20)),
            inbound.event("x1", None, 8, received_at=at(20)),
        ]
        for place in order:
            await inbound.apply(events[place])
        person = await inbound.person()
        ends.add((person["first_name"], person["last_name"], person["gender"], person["deleted_at"]))
    assert ends == {("A", "ours", "f", None)}


async def test_a_second_word_of_a_delete_makes_nothing_of_it_anew(inbound):
    person = await deleting(inbound)
    await inbound.apply(inbound.event("x1", None, 8))
    await inbound.apply(inbound.event("x1", None, 10))
    assert (await inbound.ledger())[-1] == ("ignored", "unknown_here")
    await inbound.apply(inbound.event("x1", {**LEE, "firstName": "between"}, 9, received_at=at(12)))
    (row,) = await inbound.people()
    assert (row["id"], row["deleted_at"]) == (person, at(8))
    await inbound.apply(inbound.event("x1", {**LEE, "firstName": "back"}, 11))
    (row,) = await inbound.people()
    assert (row["id"], row["deleted_at"], row["first_name"]) == (person, None, "back")
