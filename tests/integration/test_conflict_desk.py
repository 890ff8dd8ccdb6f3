"""A person decides what no rule may: conflicts made by events, resolved each way, on a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from schemas.model import Model
from schemas.problems import Problem
from streams import conflict_cases, conflict_desk, restores
from streams.conflict_cases import Wanted
from streams.conflict_desk import Answer, Choice, Moved
from streams.queues import By
from streams.restores import Losers
from tests.integration import test_applier as harness
from tests.integration.scripted import Outbound
from tests.integration.test_applier import MODEL, Inbound, at

pytestmark = pytest.mark.integration
connections_to, inbound = harness.connections_to, harness.inbound
FIELDS = ("firstName", "middleName", "lastName", "birthDate", "gender", "householdId", "campusId", "membershipStatus")
WHOLE = dict.fromkeys((*FIELDS, "nationalId")) | {"addresses": [], "phoneNumbers": [], "emails": []}
"""A record that says all there is, so that there is nothing else to tell them."""


class Desk:
    """The desk of one organisation, in the role of people, beside the applier."""

    def __init__(self, conn: psycopg.AsyncConnection, inbound: Inbound) -> None:
        self.conn, self.inbound = conn, inbound
        self.by = By(inbound.org, "cli:ann", at(90))
        self.out = Outbound(conn, inbound.org, "parish")
        self.out.now = at(95)

    async def case(self, entity: str):
        [case] = await conflict_cases.cases(self.conn, self.inbound.org, MODEL, entity)
        return case

    async def resolve(self, entity: str, choices=None, *, take=None, seen=None, note=None, conn=None):
        given = Answer(seen or (await self.case(entity)).seen, choices or {}, take, note=note)
        return await conflict_desk.resolve(conn or self.conn, self.by, entity, given, MODEL)

    async def ask_id(self, ours="N1", theirs="N2") -> str:
        """A conflict about the protected national id; the person."""
        await self.inbound.apply(self.inbound.event("x1", {**WHOLE, "firstName": "Ann", "nationalId": "N0"}, 1))
        await self.inbound.edit(national_id=ours, modified_at=at(2))
        await self.inbound.apply(self.inbound.event("x1", {**WHOLE, "firstName": "Ann", "nationalId": theirs}, 5))
        return (await self.inbound.person())["id"]

    async def ask_all(self) -> str:
        """A conflict about every field that both sides changed; the person."""
        await self.inbound.admin.execute(
            "update sync.connection set conflict_policy = 'manual' where org_id = %s", (self.inbound.org,)
        )
        await self.inbound.apply(
            self.inbound.event("x1", {**WHOLE, "firstName": "Ann", "lastName": "Lee", "gender": "f"}, 1)
        )
        await self.inbound.edit(first_name="Anna", last_name="Li", modified_at=at(2))
        await self.inbound.apply(
            self.inbound.event("x1", {**WHOLE, "firstName": "Annie", "lastName": "Leigh", "gender": "f"}, 5)
        )
        return (await self.inbound.person())["id"]

    async def log(self) -> list[dict]:
        return await self.inbound.rows(
            "select * from sync.conflict_log where org_id = %s order by id", self.inbound.org
        )

    async def questions(self) -> list[dict]:
        return await self.inbound.rows("select * from sync.conflict where org_id = %s order by id", self.inbound.org)

    async def pushed(self, entity: str, *, plan: bool = False) -> list[dict]:
        """What goes to them now, after a change of ours was captured (`plan`) or because it is wished for already."""
        self.out.theirs.bodies.clear()
        if plan:
            await self.out.plan(entity)
        await self.out.rounds()
        return [{"op": s["op"], "changed": s["changed"], **s["payload"]} for s in self.out.theirs.sent]


@pytest.fixture
async def desk(inbound, database) -> AsyncIterator[Desk]:
    async with await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as conn:
        yield Desk(conn, inbound)


def code_of(caught) -> str:
    return caught.value.code


# looking ------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("F057", "F062", "R26")
async def test_both_sides_are_shown_with_names_times_and_the_rule(desk):
    person = await desk.ask_id()
    case = await desk.case(person)
    assert (case.connection, case.system, case.entity_type, case.name) == (
        "parish",
        "mock-sync-server",
        "person",
        "Ann",
    )
    [asked] = case.fields
    assert (asked.field, asked.rule) == ("national_id", "protected")
    assert (asked.base, asked.ours, asked.theirs) == ("N0", "N1", "N2")
    assert (asked.ours_by, asked.ours_at, asked.theirs_at, asked.source) == ("local", at(2), at(5), "webhook")
    await desk.inbound.edit(national_id="N9", modified_at=at(8))
    [moved] = (await desk.case(person)).fields
    assert (moved.ours, moved.ours_then, moved.ours_at) == ("N9", "N1", at(8))


@pytest.mark.covers("F062")
async def test_open_conflicts_are_listed_counted_and_paged(desk, inbound):
    first = await desk.ask_all()
    await inbound.apply(inbound.event("x2", {**WHOLE, "firstName": "Bo"}, 1))
    await inbound.admin.execute(
        "update canon.person set first_name = 'Bob', modified_at = %s where org_id = %s and first_name = 'Bo'",
        (at(2), inbound.org),
    )
    await inbound.apply(inbound.event("x2", {**WHOLE, "firstName": "Bobby"}, 9))
    org, now = inbound.org, at(180)

    async def listed(**wanted):
        return await conflict_cases.listed(desk.conn, org, MODEL, Wanted(**wanted), now=now)

    one, two = await listed()
    assert (one["entity_id"], one["name"], one["fields"]) == (first, "Anna Li", ["first_name", "last_name"])
    assert (two["name"], two["age_s"]) == ("Bob", timedelta(hours=2).total_seconds())
    assert [row["id"] for row in await listed(limit=1)] == [one["id"]]
    assert [row["id"] for row in await listed(after=one["id"])] == [two["id"]]
    assert len(await listed(older_than=timedelta(hours=2), connection="parish", entity_type="person")) == 2
    assert await listed(older_than=timedelta(hours=3)) == []
    assert await listed(entity_type="household") == []
    assert await listed(connection="nobody") == []
    told = await conflict_cases.counts(desk.conn, org, now=now)
    assert {row["field"]: (row["connection"], row["count"], row["oldest_s"]) for row in told} == {
        "first_name": ("parish", 2, 7200.0),
        "last_name": ("parish", 1, 7200.0),
    }


# deciding -----------------------------------------------------------------------------------------------------------


@pytest.mark.covers("F057", "F132")
async def test_ours_stays_and_goes_to_them(desk, inbound):
    person = await desk.ask_id()
    assert await desk.pushed(person, plan=True) == []
    before = await inbound.person()
    told = await desk.resolve(person, take="ours", note="seen the card")
    assert told == {"entity_id": person, "connection": "parish", "resolved": {"national_id": "ours"}, "left": []}
    assert await inbound.person() == before
    [question] = await desk.questions()
    assert (question["resolved_at"], question["resolution"]) == (at(90), "ours")
    assert (question["resolved_by"], question["note"]) == ("cli:ann", "seen the card")
    [lost] = await desk.log()
    assert (lost["ours"], lost["theirs"], lost["winner"], lost["rule"]) == ("N1", "N2", "ours", "person")
    assert (lost["decided_by"], lost["ours_at"], lost["theirs_at"]) == ("cli:ann", at(2), at(5))
    [sent] = await desk.pushed(person)
    assert (sent["op"], sent["changed"], sent["nationalId"]) == ("update", ["nationalId"], "N1")
    assert (await inbound.state())["base"]["national_id"] == "N1"
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ann", "nationalId": "N1"}, 99))
    assert await desk.log() == [lost]
    [audit] = await inbound.rows("select * from sync.audit where org_id = %s", inbound.org)
    assert (audit["actor"], audit["action"], audit["subject"]) == ("cli:ann", "conflict.resolve", person)
    assert audit["detail"] == {"connection": "parish", "resolved": {"national_id": "ours"}}


async def test_theirs_becomes_a_local_change_that_they_need_not_get(desk, inbound):
    person = await desk.ask_id()
    await desk.resolve(person, take="theirs")
    row = await inbound.person()
    assert (row["national_id"], row["origin"], row["origin_event"]) == ("N2", "local", None)
    [lost] = await desk.log()
    assert (lost["ours"], lost["winner"]) == ("N1", "theirs")
    assert await desk.pushed(person, plan=True) == []
    assert (await inbound.state())["base"]["national_id"] == "N2"
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ann", "nationalId": "N3"}, 6))
    assert (await inbound.person())["national_id"] == "N3", "nothing of ours is in the way any more"


async def test_a_third_value_goes_to_them_and_both_others_are_kept(desk, inbound):
    person = await desk.ask_id()
    await desk.resolve(person, {"national_id": Choice("value", "N7")})
    assert (await inbound.person())["national_id"] == "N7"
    [lost] = await desk.log()
    assert (lost["ours"], lost["theirs"], lost["winner"]) == ("N1", "N2", "neither")
    [sent] = await desk.pushed(person, plan=True)
    assert sent["nationalId"] == "N7"


async def test_fields_are_decided_one_by_one(desk, inbound):
    person = await desk.ask_all()
    told = await desk.resolve(person, {"first_name": Choice("theirs")})
    assert (told["resolved"], told["left"]) == ({"first_name": "theirs"}, ["last_name"])
    row = await inbound.person()
    assert (row["first_name"], row["last_name"]) == ("Annie", "Li")
    assert await desk.pushed(person, plan=True) == [], "what is still asked is left alone"
    await desk.resolve(person, {"last_name": Choice("value", None)})
    assert (await inbound.person())["last_name"] is None
    [sent] = await desk.pushed(person, plan=True)
    assert (sent["changed"], sent["lastName"], sent["firstName"]) == (["lastName"], None, "Annie")


@pytest.mark.parametrize(
    ("choices", "code"),
    [
        ({"gender": Choice("theirs")}, "field_not_asked"),
        ({}, "choice_invalid"),
        ({"first_name": Choice("value", 7)}, "value_invalid"),
        ({"first_name": Choice("value", "\x00")}, "value_invalid"),
    ],
)
async def test_what_cannot_be_chosen_changes_nothing(desk, inbound, choices, code):
    person = await desk.ask_all()
    before = await inbound.person()
    with pytest.raises(Problem) as caught:
        await desk.resolve(person, choices)
    assert code_of(caught) == code
    assert await inbound.person() == before
    assert {each["resolution"] for each in await desk.questions()} == {None}
    assert await desk.log() == []


async def test_a_rule_of_the_users_own_is_named(desk, inbound):
    person = await desk.ask_id()
    await inbound.admin.execute(
        f"alter table canon.person add constraint no_n2 check (org_id <> '{inbound.org}' or national_id <> 'N2')"
    )
    with pytest.raises(Problem, match="no_n2") as caught:
        await desk.resolve(person, take="theirs")
    assert (code_of(caught), (await desk.case(person)).fields[0].ours) == ("value_refused", "N1")
    await inbound.admin.execute("alter table canon.person drop constraint no_n2")


# at the same time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["ours", "theirs"])
async def test_a_conflict_that_moved_is_shown_as_it_is_now(desk, inbound, side):
    person = await desk.ask_id()
    seen = (await desk.case(person)).seen
    if side == "ours":
        await inbound.edit(national_id="N8", modified_at=at(7))
    else:
        await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ann", "nationalId": "N8"}, 7))
    with pytest.raises(Moved) as caught:
        await desk.resolve(person, take="theirs", seen=seen)
    assert code_of(caught) == "conflict_moved"
    assert getattr(caught.value.case.fields[0], side) == "N8"
    assert "N8" not in str(caught.value)
    await desk.resolve(person, take="theirs", seen=caught.value.case.seen)


async def test_a_change_beside_the_question_does_not_move_it(desk, inbound):
    person = await desk.ask_id()
    seen = (await desk.case(person)).seen
    await inbound.edit(gender="f", modified_at=at(7))
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ana", "nationalId": "N2"}, 8))
    assert len(await desk.questions()) == 1
    await desk.resolve(person, take="theirs", seen=seen)


async def test_of_two_people_at_once_one_decides(desk, inbound, database):
    person = await desk.ask_id()
    seen = (await desk.case(person)).seen
    async with await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as second:
        both = [
            desk.resolve(person, take="ours", seen=seen),
            desk.resolve(person, take="theirs", seen=seen, conn=second),
        ]
        told = await asyncio.gather(*both, return_exceptions=True)
    failed = [each for each in told if isinstance(each, Problem)]
    assert [each.code for each in failed] == ["conflict_closed"]
    assert "by cli:ann" in failed[0].cause
    assert len(await desk.log()) == 1


async def test_a_record_that_is_locked_says_so(desk, inbound, database, monkeypatch):
    monkeypatch.setattr(conflict_desk, "LOCK_TIMEOUT", "20ms")
    person = await desk.ask_id()
    async with await psycopg.AsyncConnection.connect(database.dsn("app")) as user:
        await user.execute("update canon.person set gender = 'x' where org_id = %s", (inbound.org,))
        with pytest.raises(Problem) as caught:
            await desk.resolve(person, take="ours")
        await user.rollback()
    assert code_of(caught) == "record_busy"
    await desk.resolve(person, take="ours")


async def test_what_is_not_asked_or_answered_before(desk):
    person = await desk.ask_id()
    for unknown in ("person_00000000000000000000000000", "nonsense"):
        with pytest.raises(Problem) as caught:
            await desk.resolve(unknown, take="ours", seen="x")
        assert code_of(caught) == "conflict_unknown"
    other = replace(desk.by, org_id="org_other")
    with pytest.raises(Problem) as caught:
        await conflict_desk.resolve(desk.conn, other, person, Answer("x", {}, "ours"), MODEL)
    assert code_of(caught) == "conflict_unknown"


async def test_a_record_deleted_here_keeps_ours_only(desk, inbound):
    person = await desk.ask_id()
    await inbound.admin.execute("delete from canon.person where org_id = %s", (inbound.org,))
    case = await desk.case(person)
    assert (case.deleted, case.fields[0].ours) == (True, None)
    with pytest.raises(Problem) as caught:
        await desk.resolve(person, take="theirs")
    assert code_of(caught) == "entity_deleted"
    await desk.resolve(person, take="ours")
    assert await inbound.intents() == []


# parts and deletes --------------------------------------------------------------------------------------------------

MAIL = {"address": "ann@example.org", "isPrimary": True}


async def ask_part(desk, ours: str | None, theirs: str | None) -> tuple[str, str]:
    """A conflict about an e-mail, each side's new address or None where it was removed; (person, key)."""
    inbound = desk.inbound
    await inbound.admin.execute(
        "update sync.connection set conflict_policy = 'manual' where org_id = %s", (inbound.org,)
    )
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ann", "emails": [MAIL]}, 1))
    email = (await inbound.one("select id from canon.email where org_id = %s", inbound.org))["id"]
    if ours is None:
        edit = "update canon.email set deleted_at = %s, modified_at = %s where id = %s"
        await inbound.admin.execute(edit, (at(2), at(2), email))
    else:
        await inbound.admin.execute("update canon.email set address = %s where id = %s", (ours, email))
    told = [] if theirs is None else [{**MAIL, "id": email, "address": theirs}]
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ann", "emails": told}, 9))
    return (await inbound.person())["id"], f"email/{email}"


@pytest.mark.parametrize(("ours", "theirs"), [("a@x.org", "b@x.org"), (None, "b@x.org"), ("a@x.org", None)])
@pytest.mark.parametrize("take", ["ours", "theirs"])
async def test_parts_are_decided_as_parts(desk, inbound, ours, theirs, take):
    person, key = await ask_part(desk, ours, theirs)
    [asked] = (await desk.case(person)).fields
    assert (asked.field, asked.rule) == (key, "manual")
    assert (asked.ours and asked.ours["address"], asked.theirs and asked.theirs["address"]) == (ours, theirs)
    await inbound.edit(gender="f", modified_at=at(10))
    [sent] = await desk.pushed(person, plan=True)
    assert [item["address"] for item in sent["emails"]] == ([theirs] if theirs else [])
    assert "emails" not in sent["changed"], "a part that is asked about goes out as they have it"

    await desk.resolve(person, take=take)
    kept = ours if take == "ours" else theirs
    assert await inbound.emails() == ([kept] if kept else [])
    sent = await desk.pushed(person, plan=take == "theirs")
    assert [[item["address"] for item in each["emails"]] for each in sent] == (
        [] if take == "theirs" else [[ours] if ours else []]
    )
    held = (await inbound.state())["base"].get(key)
    assert (held and held["address"]) == kept


async def test_what_is_asked_goes_out_as_they_have_it_also_where_their_state_is_unknown(desk, inbound):
    """After a push that met an event of theirs nobody knows what they hold; then everything is sent."""
    person, key = await ask_part(desk, None, "b@x.org")
    await inbound.admin.execute("update sync.link_state set base = '{}' where org_id = %s", (inbound.org,))
    [sent] = await desk.pushed(person, plan=True)
    assert [(item["id"], item["address"]) for item in sent["emails"]] == [(key.partition("/")[2], "b@x.org")]
    assert len((await desk.case(person)).fields) == 1


async def ask_delete(desk) -> str:
    inbound = desk.inbound
    await inbound.admin.execute(
        "update sync.connection set conflict_policy = 'manual', delete_policy = 'archive' where org_id = %s",
        (inbound.org,),
    )
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ann"}, 1))
    await inbound.edit(first_name="Anna", modified_at=at(2))
    await inbound.apply(inbound.event("x1", None, 5))
    return (await inbound.person())["id"]


@pytest.mark.covers("R26")
async def test_their_delete_of_what_we_changed_is_asked_and_kept(desk, inbound):
    person = await ask_delete(desk)
    [asked] = (await desk.case(person)).fields
    assert (asked.field, asked.ours, asked.theirs) == ("deleted_at", None, at(5).isoformat())
    assert await desk.pushed(person, plan=True) == [], "nothing brings it back over there before that is decided"
    [intent] = await inbound.intents()
    assert (intent["state"], intent["error_code"]) == ("DONE", "delete_asked")
    with pytest.raises(Problem) as caught:
        await desk.resolve(person, {"deleted_at": Choice("value", at(1).isoformat())})
    assert code_of(caught) == "choice_invalid"

    await desk.resolve(person, take="ours")
    assert (await inbound.person())["deleted_at"] is None
    [sent] = await desk.pushed(person)
    assert (sent["op"], sent["firstName"]) == ("create", "Anna")
    [intent] = await inbound.intents()
    assert intent["generation"] == 2, "its key is not that of the record that is gone"


async def test_their_delete_is_done(desk, inbound):
    person = await ask_delete(desk)
    await desk.resolve(person, take="theirs")
    row = await inbound.person()
    assert (row["deleted_at"], row["status"], row["origin"]) == (at(90), "archived", "local")
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Back"}, 99))
    assert (await inbound.person())["deleted_at"] is not None, "a person deleted it"


async def test_a_record_that_is_there_again_answers_the_question(desk, inbound):
    person = await ask_delete(desk)
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ann"}, 8))
    with pytest.raises(Problem, match="became equal") as caught:
        await desk.case(person)
    assert code_of(caught) == "conflict_closed"


# what lost ----------------------------------------------------------------------------------------------------------


async def lose(desk, inbound, winner="theirs") -> int:
    """A conflict that the later write decided; the number of the value that lost. Ours is Anna, theirs Annie."""
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ann"}, 1))
    await inbound.edit(first_name="Anna", modified_at=at(4 if winner == "theirs" else 9))
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Annie"}, 5))
    [lost] = await restores.listed(desk.conn, inbound.org, Losers())
    assert (lost["winner"], lost["rule"], lost["ours"], lost["theirs"]) == (winner, "last_write", "Anna", "Annie")
    return lost["id"]


@pytest.mark.parametrize(("winner", "back"), [("theirs", "Anna"), ("ours", "Annie")])
async def test_a_value_that_lost_comes_back_as_a_change_of_ours(desk, inbound, winner, back):
    number = await lose(desk, inbound, winner)
    told = await restores.restore(desk.conn, desk.by, number, MODEL)
    person = await inbound.person()
    assert told == {
        "id": number, "entity_id": person["id"], "connection": "parish", "field": "first_name", "changed": True
    }  # fmt: skip
    assert (person["first_name"], person["origin"]) == (back, "local")
    assert [sent["firstName"] for sent in await desk.pushed(person["id"], plan=True)] == ["Anna"] * (winner == "theirs")
    newer, older = await restores.listed(desk.conn, inbound.org, Losers(entity=person["id"]))
    assert (older["restored_at"], older["restored_by"]) == (at(90), "cli:ann")
    assert (newer["rule"], newer["decided_by"], newer["ours"], newer["theirs"]) == (
        "person",
        "cli:ann",
        "Anna",
        "Annie",
    )
    with pytest.raises(Problem) as caught:
        await restores.restore(desk.conn, desk.by, number, MODEL)
    assert code_of(caught) == "restored_already"
    await restores.restore(desk.conn, desk.by, newer["id"], MODEL)
    assert (await inbound.person())["first_name"] == ("Annie" if winner == "theirs" else "Anna"), "it can be undone"
    actions = await inbound.rows("select action, subject from sync.audit where org_id = %s order by id", inbound.org)
    assert [(a["action"], a["subject"]) for a in actions] == [
        ("conflict.restore", str(number)), ("conflict.restore", str(newer["id"]))
    ]  # fmt: skip


async def test_what_is_there_again_already_is_not_written(desk, inbound):
    number = await lose(desk, inbound)
    await inbound.edit(first_name="Anna", modified_at=at(7))
    before = await inbound.person()
    told = await restores.restore(desk.conn, desk.by, number, MODEL)
    assert (told["changed"], await inbound.person()) == (False, before)
    assert len(await desk.log()) == 1


async def test_of_two_who_restore_at_once_one_does(desk, inbound, database):
    number = await lose(desk, inbound)
    async with await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as second:
        told = await asyncio.gather(
            *(restores.restore(conn, desk.by, number, MODEL) for conn in (desk.conn, second)), return_exceptions=True
        )
    assert sorted(getattr(each, "code", "done") for each in told) == ["done", "restored_already"]
    assert len(await desk.log()) == 2


async def test_what_cannot_be_restored_says_why(desk, inbound):
    number = await lose(desk, inbound)

    async def refusal(number, model=MODEL, side=None, by=desk.by) -> str:
        with pytest.raises(Problem) as caught:
            await restores.restore(desk.conn, by, number, model, side)
        return code_of(caught)

    assert await refusal(number + 10_000) == "loser_unknown"
    assert await refusal(number, by=replace(desk.by, org_id="org_other")) == "loser_unknown"
    assert await refusal(number, side="theirs") == "not_restorable"
    person = MODEL["person"]
    without = replace(person, fields=tuple(f for f in person.fields if f.name != "first_name"))
    assert await refusal(number, Model({**MODEL.types, "person": without})) == "field_unknown"
    await inbound.admin.execute("update canon.person set deleted_at = now() where org_id = %s", (inbound.org,))
    assert await refusal(number) == "entity_deleted"
    assert (await desk.log())[0]["restored_at"] is None


async def test_a_reference_to_what_is_gone_is_not_restored(desk, inbound):
    homes = [
        (await inbound.one("insert into canon.household (org_id, name) values (%s, %s) returning id", inbound.org, n))[
            "id"
        ]
        for n in ("Lee", "Li")
    ]
    await lose(desk, inbound)
    await inbound.admin.execute(
        """update sync.conflict_log set field = 'household_id', ours = to_jsonb(%s::text), theirs = to_jsonb(%s::text)
           where org_id = %s""",
        (*homes, inbound.org),
    )
    [lost] = await desk.log()
    await inbound.admin.execute("update canon.household set deleted_at = now() where id = %s", (homes[0],))
    with pytest.raises(Problem) as caught:
        await restores.restore(desk.conn, desk.by, lost["id"], MODEL)
    assert code_of(caught) == "reference_gone"
    await inbound.admin.execute("update canon.household set deleted_at = null where id = %s", (homes[0],))
    await restores.restore(desk.conn, desk.by, lost["id"], MODEL)
    assert (await inbound.person())["household_id"] == homes[0]


@pytest.mark.parametrize("hard", [False, True])
async def test_a_removed_part_comes_back_with_its_id(desk, inbound, hard):
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ann", "emails": [MAIL]}, 1))
    email = (await inbound.one("select id from canon.email where org_id = %s", inbound.org))["id"]
    await inbound.admin.execute("set role syncline_applier")
    edit = "update canon.email set address = 'a@x.org', modified_at = %s where id = %s"
    await inbound.admin.execute(edit, (at(4), email))
    await inbound.admin.execute("reset role")
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ann", "emails": []}, 5))
    assert await inbound.emails() == []
    [lost] = await desk.log()
    assert (lost["field"], lost["winner"], lost["ours"]["address"]) == (f"email/{email}", "theirs", "a@x.org")
    if hard:
        await inbound.admin.execute("delete from canon.email where id = %s", (email,))
    await restores.restore(desk.conn, desk.by, lost["id"], MODEL)
    row = await inbound.one("select * from canon.email where org_id = %s", inbound.org)
    assert (row["id"], row["address"], row["deleted_at"], row["origin"]) == (email, "a@x.org", None, "local")
    [sent] = await desk.pushed((await inbound.person())["id"], plan=True)
    assert [item["id"] for item in sent["emails"]] == [email]
    newer = (await desk.log())[1]
    await restores.restore(desk.conn, desk.by, newer["id"], MODEL)
    assert await inbound.emails() == []


async def test_their_delete_that_lost_is_no_value(desk, inbound):
    await inbound.admin.execute("update sync.connection set delete_policy = 'delete' where org_id = %s", (inbound.org,))
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ann"}, 1))
    await inbound.edit(first_name="Anna", modified_at=at(9))
    await inbound.apply(inbound.event("x1", None, 5))
    [lost] = await desk.log()
    with pytest.raises(Problem) as caught:
        await restores.restore(desk.conn, desk.by, lost["id"], MODEL)
    assert (code_of(caught), (await inbound.person())["first_name"]) == ("not_restorable", "Anna")


async def test_after_a_third_value_a_side_is_named(desk, inbound):
    person = await desk.ask_id()
    await desk.resolve(person, {"national_id": Choice("value", "N7")})
    [lost] = await desk.log()
    with pytest.raises(Problem) as caught:
        await restores.restore(desk.conn, desk.by, lost["id"], MODEL)
    assert code_of(caught) == "side_needed"
    await restores.restore(desk.conn, desk.by, lost["id"], MODEL, "theirs")
    assert (await inbound.person())["national_id"] == "N2"


async def test_the_log_is_filtered_and_paged(desk, inbound):
    person = await desk.ask_all()
    await desk.resolve(person, take="theirs")
    org = inbound.org

    async def fields(**which):
        return [row["field"] for row in await restores.listed(desk.conn, org, Losers(**which))]

    assert await fields() == ["last_name", "first_name"]
    newest = (await restores.listed(desk.conn, org, Losers(limit=1)))[0]
    assert await fields(before=newest["id"]) == ["first_name"]
    assert await fields(entity=person, connection="parish", since=at(90)) == ["last_name", "first_name"]
    assert await fields(since=at(91)) == await fields(connection="nobody") == await fields(entity="person_1") == []


async def test_a_decision_and_an_event_at_once_lose_nothing(desk, inbound):
    """Whichever comes first, ours is in the row or in the log, and the other finds it as it is then."""
    for number in range(12):
        record = f"r{number}"

        def event(value, minutes, record=record):
            return inbound.event(record, {**WHOLE, "firstName": record, "nationalId": value}, minutes)

        await inbound.apply(event("N0", 1))
        where = (inbound.org, record)
        found = await inbound.one("select id from canon.person where org_id = %s and first_name = %s", *where)
        person = found["id"]
        await inbound.admin.execute("update canon.person set national_id = 'N1' where id = %s", (person,))
        await inbound.apply(event("N2", 5))
        decided, _ = await asyncio.gather(
            desk.resolve(person, take="theirs"), inbound.apply(event("N3", 6)), return_exceptions=True
        )
        row = await inbound.one("select national_id from canon.person where id = %s", person)
        logged = [each for each in await desk.log() if each["entity_id"] == person]
        lost = [each["ours"] for each in logged if each["winner"] == "theirs"]
        waiting = await inbound.rows("select from sync.waiting_event where external_id = %s", record)
        if isinstance(decided, Moved):
            assert (row["national_id"], decided.case.fields[0].theirs, lost) == ("N1", "N3", [])
        else:
            assert decided["resolved"] == {"national_id": "theirs"}
            assert (row["national_id"] == "N3") or waiting
            assert lost == ["N1"]


@pytest.mark.covers("R11", "R26")
async def test_a_value_that_was_asked_about_and_is_gone_is_in_the_log(desk, inbound):
    await desk.ask_id("N1", "N2")
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ann", "nationalId": "N3"}, 6))
    [asked] = await desk.questions()
    assert (asked["ours"], asked["theirs"], asked["resolved_at"]) == ("N1", "N3", None)
    await inbound.apply(inbound.event("x1", {**WHOLE, "firstName": "Ann", "nationalId": "N1"}, 7))
    [asked] = await desk.questions()
    assert asked["resolution"] == "equal"
    assert [(row["ours"], row["theirs"], row["winner"], row["rule"]) for row in await desk.log()] == [
        ("N1", "N2", "ours", "asked_anew"),
        ("N1", "N3", "ours", "equal"),
    ]
