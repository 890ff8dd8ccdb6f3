"""What a person does: selective pushes, parked writes, mass changes on hold, dead letters; on a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from connectors.contract import CreateTier, Failed
from connectors.errors import Ambiguous, Rejected
from schemas import events
from schemas.codec import Codec
from schemas.model import load
from schemas.problems import Problem
from streams import queues, redrives, selected
from streams.inbound.publish import Publisher
from streams.inbound.redrive import Redriver
from streams.queues import By
from streams.redrives import Letters, Redrives
from streams.selected import Systems
from streams.settings import Settings
from streams.store import connections, operations
from tests.integration.scripted import MANIFEST, NOW, Outbound, connect_to, outbound_of, with_tier

pytestmark = pytest.mark.integration
MODEL = load()
LOST = Failed(Ambiguous("no_answer", "no answer in time"))
REFUSED = Failed(Rejected("invalid", "the name is too short", status=422))


def systems(out: Outbound) -> Systems:
    return Systems(MODEL, lambda _: out.manifest)


def how(out: Outbound, republish: redrives.Republish | None = None) -> Redrives:
    return Redrives(MODEL, lambda _: out.manifest, republish)


def by(out: Outbound) -> By:
    return By(out.org, "cli:ann", out.now)


async def audited(out: Outbound) -> list[tuple[str, str]]:
    statement = "select action, subject from sync.audit where org_id = %s and actor = 'cli:ann' order by id"
    return list(await (await out.conn.execute(statement, (out.org,))).fetchall())


async def intent(out: Outbound, entity_id: str) -> dict[str, Any]:
    [row] = await operations.pushes(out.conn, out.org, entity=entity_id)
    return row


def code_of(caught: pytest.ExceptionInfo[Problem]) -> str:
    return caught.value.code


# selective push -----------------------------------------------------------------------------------------------------


@pytest.mark.covers("F101", "F102", "F136")
async def test_option_3_pushes_what_a_person_selects(database: Settings) -> None:
    async with outbound_of(database, "org_selected", option=3) as out:
        chosen, other = await out.insert(), await out.insert()
        await out.plan(chosen, other)
        await out.round()
        assert out.theirs.bodies == []

        [told] = await selected.push(out.conn, by(out), [chosen], systems(out))
        await out.round()

        assert told == {"entity_id": chosen, "connection": "mirror", "state": "PENDING"}
        assert [(s["op"], s["ours"]) for s in out.theirs.sent] == [("create", chosen)]
        assert (await intent(out, chosen))["reason"] == "selected"
        open_reviews = "select subject from sync.review where org_id = %s and closed_at is null"
        assert await out.sql(open_reviews, out.org) == other
        assert await audited(out) == [("push.selected", chosen)]

        await out.sql("update canon.person set first_name = 'Eve' where org_id = %s", out.org)
        await out.plan(chosen, other)
        await out.round()
        assert [(s["op"], s["ours"]) for s in out.theirs.sent[1:]] == [("update", chosen)]  # linked by now


@pytest.mark.covers("F102")
async def test_a_change_during_a_selective_create_follows_it(database: Settings) -> None:
    async with outbound_of(database, "org_meanwhile", option=3) as out:
        person = await out.insert(first_name="Ann")
        await selected.push(out.conn, by(out), [person], systems(out))
        taken = await out.take()
        await out.sql("update canon.person set first_name = 'Eve' where id = %s", person)
        await out.plan(person)  # not linked yet, and no business of a person any more
        await out.commit(await out.send(taken))
        await out.round()

        assert [(s["op"], s["payload"]["firstName"]) for s in out.theirs.sent] == [  # type: ignore[index]
            ("create", "Ann"),
            ("update", "Eve"),
        ]
        assert int(await out.sql("select count(*) from sync.review where org_id = %s", out.org)) == 0


async def test_a_part_is_pushed_by_its_root_once(database: Settings) -> None:
    async with outbound_of(database, "org_parts", option=3) as out:
        person = await out.insert()
        email = await out.insert("email", person_id=person, address="a@example.org")
        told = await selected.push(out.conn, by(out), [email, person, email], systems(out))
        await out.round()
        assert [each["entity_id"] for each in told] == [person]
        assert [s["ours"] for s in out.theirs.sent] == [person]


@pytest.mark.covers("F102")
async def test_link_and_push_updates_their_record(database: Settings) -> None:
    async with outbound_of(database, "org_linked", option=3) as out:
        person = await out.insert(first_name="Ann")
        await selected.push(out.conn, by(out), [person], systems(out), link="theirs_7")
        await out.round()

        [sent] = out.theirs.sent
        assert (sent["op"], sent["id"]) == ("update", "theirs_7")
        assert sent["payload"]["firstName"] == "Ann"  # type: ignore[index]
        assert await audited(out) == [("push.linked", person)]
        made_by = "select made_by from sync.external_link where org_id = %s and external_id = 'theirs_7'"
        assert await out.sql(made_by, out.org) == "person"

        again = await selected.push(out.conn, by(out), [person], systems(out), link="theirs_7")
        assert again[0]["state"] == "PENDING"
        with pytest.raises(Problem) as caught:
            await selected.push(out.conn, by(out), [await out.insert()], systems(out), link="theirs_7")
        assert code_of(caught) == "link_taken"
        with pytest.raises(Problem) as caught:
            await selected.push(out.conn, by(out), [person], systems(out), link="theirs_8")
        assert code_of(caught) == "link_taken"


async def test_a_record_of_theirs_that_nobody_matched_is_linked(database: Settings) -> None:
    async with outbound_of(database, "org_unmatched", option=3) as out:
        person = await out.insert()
        await out.sql(
            "insert into sync.external_link (org_id, connection, external_type, external_id, entity_type, sync_key,"
            " made_by) values (%s, 'mirror', 'individual', 'x1', 'person', 'org/mirror/individual/x1', 'inbound')",
            out.org,
        )
        await selected.push(out.conn, by(out), [person], systems(out), link="x1")
        keys = "select sync_key from sync.external_link where org_id = %s and external_id = 'x1' and deleted_at is null"
        assert await out.sql(keys, out.org) == f"{out.org}/{person}"


async def test_two_who_link_the_same_record_at_once_make_one_link(database: Settings) -> None:
    async with outbound_of(database, "org_at_once", option=3) as out, another(database) as other:
        first, second = await out.insert(), await out.insert()
        ended = await asyncio.gather(
            selected.push(out.conn, by(out), [first], systems(out), link="x1"),
            selected.push(other, by(out), [second], systems(out), link="x1"),
            return_exceptions=True,
        )
        assert int(await out.sql("select count(*) from sync.external_link where org_id = %s", out.org)) == 1
        assert sum(isinstance(each, Problem) and each.code == "link_taken" for each in ended) <= 1


@pytest.mark.parametrize(
    ("ids", "given", "code"),
    [
        (["person_00000000000000000000000000"], {}, "id_unknown"),
        (["nothing_1"], {}, "id_unknown"),
        ([""], {}, "id_unknown"),
        (["PERSON"], {"connection": "nowhere"}, "connection_unknown"),
        (["PERSON"], {"connection": "gone"}, "not_connected"),
        (["PERSON"], {"connection": "narrow"}, "type_not_taken"),
        (["PERSON"], {}, "connection_ambiguous"),
        (["PERSON", "OTHER"], {"connection": "mirror", "link": "x"}, "link_invalid"),
        (["PERSON"], {"connection": "mirror", "link": ""}, "link_invalid"),
    ],
)
async def test_what_cannot_be_selected(
    database: Settings, ids: list[str], given: dict[str, str], code: str, request: pytest.FixtureRequest
) -> None:
    org = f"org_{abs(hash(request.node.name))}"
    async with outbound_of(database, org) as out:
        await connect_to(out.conn, org, "second")
        await connect_to(out.conn, org, "gone", state="disconnected")
        await connect_to(out.conn, org, "narrow", gates={"campus": "live"})
        known = {"PERSON": await out.insert(), "OTHER": await out.insert()}
        with pytest.raises(Problem) as caught:
            await selected.push(out.conn, by(out), [known.get(each, each) for each in ids], systems(out), **given)
        assert code_of(caught) == code
        assert await operations.pushes(out.conn, org) == []
        assert await audited(out) == []


# parked -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def parked(database: Settings, org: str) -> AsyncIterator[tuple[Outbound, str]]:
    """A create whose answer was lost, at a system that cannot tell."""
    async with outbound_of(database, org, manifest=with_tier(CreateTier.NONE)) as out:
        person = await out.insert(first_name="Ann")
        await out.plan(person)
        answer, out.theirs.answer = out.theirs.answer, lambda _: LOST
        await out.round()
        out.theirs.answer = answer
        await out.sql("update canon.person set first_name = 'Eve' where id = %s", person)
        await out.plan(person)
        assert (await intent(out, person))["state"] == "PARKED"
        yield out, person


async def test_a_parked_write_is_retried_as_the_row_is_now(database: Settings) -> None:
    async with parked(database, "org_retry") as (out, person):
        assert await queues.retry_parked(out.conn, by(out), person) == "mirror"
        await out.round()
        sent = out.theirs.sent[-1]
        assert (sent["op"], sent["payload"]["firstName"]) == ("create", "Eve")  # type: ignore[index]
        assert (await out.state(person))[0] == "DONE"
        assert await audited(out) == [("parked.retry", person)]
        with pytest.raises(Problem) as caught:
            await queues.retry_parked(out.conn, by(out), person)
        assert code_of(caught) == "not_parked"


async def test_a_dropped_one_is_sent_when_it_changes_again(database: Settings) -> None:
    async with parked(database, "org_drop") as (out, person):
        await queues.drop_parked(out.conn, by(out), person, "mirror")
        state, wanted, done, thawed = await out.state(person)
        assert (state, wanted, thawed) == ("DONE", done, True)
        assert (await intent(out, person))["error_code"] == "dropped_by_person"
        assert await out.round() == []
        await out.plan(person)
        await out.round()
        assert len(out.theirs.bodies) == 2


async def test_a_doubt_ends_when_a_person_finds_their_record(database: Settings) -> None:
    async with parked(database, "org_found") as (out, person):
        await selected.push(out.conn, by(out), [person], systems(out), link="found_1")
        await out.round()
        assert (out.theirs.sent[-1]["op"], out.theirs.sent[-1]["id"]) == ("update", "found_1")
        assert (await out.state(person))[0] == "DONE"


async def test_pushing_a_parked_one_leaves_it_parked(database: Settings) -> None:
    async with parked(database, "org_still") as (out, person):
        [told] = await selected.push(out.conn, by(out), [person], systems(out))
        assert told["state"] == "PARKED"


async def test_who_waited_for_a_dropped_record_is_told(database: Settings) -> None:
    def waits(field: Any) -> Any:
        return replace(field, on_missing="wait") if field.canonical == "household_id" else field

    needed = tuple(replace(a, fields=tuple(map(waits, a.fields))) for a in MANIFEST.aggregates)
    manifest = replace(with_tier(CreateTier.NONE), aggregates=needed)
    async with outbound_of(database, "org_waiter", manifest=manifest) as out:
        home = await out.insert("household", name="Lee")
        person = await out.insert(household_id=home)
        await out.plan(home, person)
        out.theirs.answer = lambda _: LOST
        await out.round()
        waiting = await intent(out, person)
        assert (waiting["state"], waiting["waits_for"]) == ("WAITING", [home])

        await queues.drop_parked(out.conn, by(out), home)
        await out.round()
        told = await intent(out, person)
        assert (told["state"], told["error_code"]) == ("DONE", "parent_not_synced")


async def test_a_record_parked_at_two_connections_asks_which(database: Settings) -> None:
    async with parked(database, "org_two") as (out, person):
        await connect_to(out.conn, out.org, "second")
        await out.sql(
            "insert into sync.push_intent (org_id, connection, external_type, entity_type, entity_id, sync_key, state,"
            " reason) values (%s, 'second', 'individual', 'person', %s, %s, 'PARKED', 'change')",
            out.org, person, f"{out.org}/{person}",
        )  # fmt: skip
        with pytest.raises(Problem) as caught:
            await queues.drop_parked(out.conn, by(out), person)
        assert code_of(caught) == "connection_ambiguous"
        assert await queues.drop_parked(out.conn, by(out), person, "second") == "second"


# mass changes -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def held(database: Settings, org: str) -> AsyncIterator[tuple[Outbound, list[str], int]]:
    """Thirty people deleted by accident, and held."""
    async with outbound_of(database, org, delete_policy="delete") as out:
        people = [await out.insert() for _ in range(30)]
        await out.plan(*people)
        await out.round()
        out.theirs.bodies.clear()
        await out.sql("delete from canon.person where org_id = %s", out.org)
        await out.plan(*people)
        await out.round()
        [hold] = await operations.holds(out.conn, out.org)
        assert (hold["records"], hold["bound"], hold["kind"]) == (30, 20, "deletes")
        assert out.theirs.bodies == []
        yield out, people, hold["id"]


async def test_an_approved_mass_change_goes_on_uncounted_however_late(database: Settings) -> None:
    async with held(database, "org_approve") as (out, people, hold):
        told = await queues.decide_hold(out.conn, by(out), hold, "approved")
        assert told == {"connection": "mirror", "entity_type": "person", "kind": "deletes", "records": 30}
        out.now += timedelta(hours=1)  # another window of the guard
        await out.round()
        assert sorted(str(s["ours"]) for s in out.theirs.sent) == sorted(people)
        assert [(await out.state(each))[0] for each in people] == ["DONE"] * 30
        assert await operations.holds(out.conn, out.org) == []
        assert await audited(out) == [("hold.approve", str(hold))]
        with pytest.raises(Problem) as caught:
            await queues.decide_hold(out.conn, by(out), hold, "dropped")
        assert code_of(caught) == "hold_closed"


async def test_a_dropped_mass_change_reaches_nobody(database: Settings) -> None:
    async with held(database, "org_drops") as (out, people, hold):
        told = await queues.decide_hold(out.conn, by(out), hold, "dropped")
        assert told["records"] == 30
        assert await out.round() == []
        one = await intent(out, people[0])
        assert (one["state"], one["error_code"], one["hold_id"], one["behind"]) == (
            "DONE",
            "mass_change_dropped",
            None,
            0,
        )
        assert int(await out.sql("select count(*) from sync.external_link where org_id = %s", out.org)) == 30
        [closed] = await operations.holds(out.conn, out.org, closed=True)
        assert (closed["state"], closed["closed_by"]) == ("dropped", "cli:ann")


async def test_a_hold_is_of_one_organisation(database: Settings) -> None:
    async with held(database, "org_holder") as (out, _, hold):
        with pytest.raises(Problem) as caught:
            await queues.decide_hold(out.conn, By("org_stranger", "cli", NOW), hold, "approved")
        assert code_of(caught) == "hold_unknown"
        assert await operations.holds(out.conn, "org_stranger", closed=True) == []
        assert (await operations.holds(out.conn, out.org))[0]["records"] == 30


async def test_what_was_held_while_it_was_decided_follows(database: Settings) -> None:
    async with held(database, "org_late") as (out, people, hold):
        await queues.decide_hold(out.conn, by(out), hold, "approved")
        await out.sql("update sync.push_intent set state = 'HELD' where entity_id = %s", people[0])
        assert [each["records"] for each in await operations.holds(out.conn, out.org)] == [1]
        assert (await queues.decide_hold(out.conn, by(out), hold, "approved"))["records"] == 1


# dead letters -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def dead(database: Settings, org: str, count: int = 1) -> AsyncIterator[tuple[Outbound, list[str], list[int]]]:
    """Pushes that were refused for good: entities and the numbers of their letters."""
    async with outbound_of(database, org) as out:
        people = [await out.insert(first_name="A") for _ in range(count)]
        await out.plan(*people)
        answer, out.theirs.answer = out.theirs.answer, lambda _: REFUSED
        await out.round()
        out.theirs.answer = answer
        out.theirs.bodies.clear()
        letters = {each["record_key"]: each["id"] for each in await operations.dead_letters(out.conn, out.org)}
        yield out, people, [letters[each] for each in people]


async def test_a_redriven_push_sends_the_newest_state(database: Settings) -> None:
    async with dead(database, "org_redrive") as (out, [person], [letter]):
        await out.sql("update canon.person set first_name = 'Anna' where id = %s", person)
        await redrives.redrive_one(out.conn, by(out), letter, how(out))
        await out.round()
        assert out.theirs.sent[0]["payload"]["firstName"] == "Anna"  # type: ignore[index]
        assert (await out.state(person))[:3] == ("DONE", 2, 2)
        assert await audited(out) == [("dead_letter.redrive", str(letter))]
        with pytest.raises(Problem) as caught:
            await redrives.redrive_one(out.conn, by(out), letter, how(out))
        assert code_of(caught) == "dead_letter_unknown"


async def test_a_redrive_of_what_went_on_by_itself_sends_nothing_twice(database: Settings) -> None:
    async with dead(database, "org_moved") as (out, [person], [letter]):
        await out.sql("update canon.person set first_name = 'Anna' where id = %s", person)
        await out.plan(person)
        await out.round()
        await out.sql("update sync.dead_letter set state = 'open' where id = %s", letter)  # as if it were older
        await redrives.redrive_one(out.conn, by(out), letter, how(out))
        await out.round()
        assert len(out.theirs.bodies) == 1
        assert (await intent(out, person))["error_code"] == "no_difference"


async def test_many_are_counted_then_redriven(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redrives, "BATCH", 4)
    async with dead(database, "org_many", 10) as (out, people, _):
        await out.sql(
            "insert into sync.dead_letter (org_id, connection, source, record_key, code, cause)"
            " values (%s, 'mirror', 'poll', 'x', 'invalid', 'no record')", out.org,
        )  # fmt: skip
        which = Letters("mirror", "invalid")
        assert await redrives.count_letters(out.conn, by(out), which) == {"poll": 1, "push": 10}
        assert await redrives.count_letters(out.conn, by(out), Letters(code="other")) == {}
        told = await redrives.redrive_many(out.conn, by(out), which, how(out))
        assert (told.redriven, list(told.left.values())) == (10, [1])
        await out.round()
        assert sorted(str(s["ours"]) for s in out.theirs.sent) == sorted(people)
        assert len(await audited(out)) == 3
        assert (await redrives.redrive_many(out.conn, by(out), Letters(source="push"), how(out))).redriven == 0


async def test_what_dies_again_is_a_letter_again(database: Settings) -> None:
    async with dead(database, "org_again", 3) as (out, _, letters):
        out.theirs.answer = lambda _: REFUSED
        assert (await redrives.redrive_many(out.conn, by(out), Letters(), how(out))).redriven == 3
        await out.round()
        listed = await operations.dead_letters(out.conn, out.org)
        assert sorted(each["id"] for each in listed) == sorted(letters)


async def test_a_dropped_letter_ends_the_wish(database: Settings) -> None:
    async with dead(database, "org_dropped") as (out, [person], [letter]):
        await redrives.drop_letter(out.conn, by(out), letter)
        assert (await out.state(person))[0] == "DONE"
        assert await operations.dead_letters(out.conn, out.org) == []
        assert await audited(out) == [("dead_letter.drop", str(letter))]
        with pytest.raises(Problem):
            await redrives.drop_letter(out.conn, by(out), letter)


async def test_letters_of_others_are_not_ours(database: Settings) -> None:
    async with dead(database, "org_mine") as (out, _, [letter]):
        stranger = By("org_stranger", "cli", NOW)
        for act in (
            redrives.redrive_one(out.conn, stranger, letter, how(out)),
            redrives.drop_letter(out.conn, stranger, letter),
        ):
            with pytest.raises(Problem) as caught:
                await act
            assert code_of(caught) == "dead_letter_unknown"
        assert (await redrives.redrive_many(out.conn, stranger, Letters(), how(out))).redriven == 0


async def letter_of(out: Outbound, source: str, key: str, value: bytes = b"", org: str | None = None) -> int:
    number: Any = await out.sql(
        "insert into sync.dead_letter (org_id, source, record_key, value, code, cause)"
        " values (%s, %s, %s, %s, 'unreadable', 'no Avro') returning id", org, source, key, value,
    )  # fmt: skip
    return int(number)


async def test_a_change_that_nobody_could_read_plans_its_root(database: Settings) -> None:
    async with outbound_of(database, "org_cdc") as out:
        person = await out.insert()
        fine = await letter_of(out, "cdc.canon.person", f"{out.org}/{person}")
        others = await letter_of(out, "cdc.canon.person", f"org_other/{person}")
        nameless = await letter_of(out, "cdc.sync.external_link", f"{out.org}/mirror/individual/x")
        await redrives.redrive_one(out.conn, by(out), fine, how(out))
        await out.round()
        assert [s["ours"] for s in out.theirs.sent] == [person]
        for number in (others, nameless):
            with pytest.raises(Problem) as caught:
                await redrives.redrive_one(out.conn, by(out), number, how(out))
            assert code_of(caught) == "not_redrivable"
            await redrives.drop_letter(out.conn, by(out), number)


class Kafka(Publisher):
    """Keeps what it is given, as a reader of the topic would see it."""

    def __init__(self) -> None:
        self.published: list[events.InboundEvent] = []
        self.codec = Codec(OneSchema())

    async def publish(self, facts: Sequence[events.InboundEvent]) -> list[Any]:
        self.published.extend(events.decode(self.codec, events.encode(fact, 7)) for fact in facts)
        return []


class OneSchema:
    async def schema(self, _: int) -> dict[str, Any]:
        return events.schema("inbound_event")


async def test_an_event_of_theirs_is_published_again(database: Settings) -> None:
    async with outbound_of(database, "org_events") as out:
        event = events.InboundEvent(
            b"0" * 16, out.org, "mirror", "mock-sync-server", "individual", "x1", "upsert", NOW, NOW, "webhook",
            complete=True, payload=b"{}",
        )  # fmt: skip
        kafka = Kafka()
        redriver = Redriver(kafka, kafka.codec)
        fine = await letter_of(out, "inbound.events", "mirror/individual/x1", events.encode(event, 7), out.org)
        foreign = events.encode(replace(event, org_id="org_other"), 7)
        bad = [await letter_of(out, "inbound.events", "k", value) for value in (b"poison", foreign)]

        with pytest.raises(Problem) as caught:
            await redrives.redrive_one(out.conn, by(out), fine, how(out))
        assert code_of(caught) == "not_redrivable"  # no Kafka at hand
        await redrives.redrive_one(out.conn, by(out), fine, how(out, redriver))
        assert kafka.published == [replace(event, source="redrive")]
        for number in bad:
            with pytest.raises(Problem) as caught:
                await redrives.redrive_one(out.conn, by(out), number, how(out, redriver))
            assert code_of(caught) == "not_redrivable"
        await out.sql("delete from sync.dead_letter where id = any(%s)", bad)


async def test_kafka_down_leaves_the_letter_open(database: Settings) -> None:
    async def down(org_id: str, records: Sequence[bytes]) -> None:
        raise Problem("kafka_unavailable", "Kafka did not take the event", "Later.")

    async with outbound_of(database, "org_down") as out:
        await letter_of(out, "inbound.events", "k", b"x", out.org)
        with pytest.raises(Problem) as caught:
            await redrives.redrive_many(out.conn, by(out), Letters(), how(out, down))
        assert code_of(caught) == "kafka_unavailable"
        assert len(await operations.dead_letters(out.conn, out.org)) == 1


# lanes and resync ---------------------------------------------------------------------------------------------------


async def test_lanes_tell_how_calls_stand(database: Settings) -> None:
    async with outbound_of(database, "org_lanes", budget={"calls": 100, "per_s": 20}) as out:
        people = [await out.insert() for _ in range(3)]
        await out.plan(*people)
        await out.take(limit=1)
        await out.sql(
            "insert into sync.breaker values (%s, 'mirror', 4, 7, %s, 'server_error', 'they answer 503')", out.org, NOW
        )
        out.now += timedelta(seconds=30)
        [lane] = await operations.lanes(out.conn, out.org, now=out.now)
        assert (lane["in_flight"], lane["queued"], lane["oldest_s"]) == (1, 2, 30.0)
        assert lane["breakers"][0]["code"] == "server_error"
        assert (lane["budgets"][0]["source"], lane["budgets"][0]["limit"]) == ("chosen", 100)


async def test_a_resync_reaches_bulk_changes_and_what_left_a_filter(database: Settings) -> None:
    from streams.outbound.planner import Planner

    async with outbound_of(database, "org_resync", on_leave="delete") as out:
        stays, leaves = await out.insert(status="active"), await out.insert(status="gone")
        await out.plan(stays, leaves)
        await out.round()
        bulk = await out.insert(status="active")
        await out.plan(bulk, origin="bulk")
        assert await out.round() == []
        filters = '{"person": [{"field": "status", "op": "eq", "value": "active"}]}'
        await out.sql("update sync.connection set filters = %s where org_id = %s", filters, out.org)
        out.theirs.bodies.clear()

        planner = Planner(lambda _: out.manifest, lambda _: ())
        assert await planner.plan_all(out.conn, out.org, "mirror", MANIFEST, now=out.now, reason="resync") == 3
        listed = await operations.pushes(out.conn, out.org)
        assert {(each["reason"], each["priority"]) for each in listed} == {("resync", 1)}
        await out.round()
        assert sorted((s["op"], s["ours"]) for s in out.theirs.sent) == [("create", bulk), ("delete", leaves)]


async def test_opening_a_gate_lets_go_what_waited_for_it_and_nothing_else(database: Settings) -> None:
    from streams.store import connection_changes

    gates = {"person": "matched", "household": "matched"}
    async with outbound_of(database, "org_gates", gates=gates) as out:
        person, home = await out.insert(), await out.insert("household", name="Lee")
        held_back = await out.insert()
        await out.plan(person, home, held_back)
        await out.sql("update sync.push_intent set hold_id = 1 where entity_id = %s", held_back)
        assert await connection_changes.open_gates(out.conn, out.org, "mirror", ["person"], now=out.now) == 1
        assert [(await out.state(each))[0] for each in (person, home, held_back)] == ["PENDING", "HELD", "HELD"]


async def test_a_lane_that_pauses_itself_says_so(database: Settings) -> None:
    from streams.store import connection_changes

    async with outbound_of(database, "org_pauses") as out:
        assert await connection_changes.pause(out.conn, out.org, "mirror", "unauthorised: 401")
        row = await connections.load_connection(out.conn, out.org, "mirror")
        assert (row.state, row.state_reason, row.epoch) == ("paused", "unauthorised: 401", 2)
        assert not await connection_changes.pause(out.conn, out.org, "mirror", "again")
        told = "select actor || ' ' || action from sync.audit where org_id = %s"
        assert await out.sql(told, out.org) == "dispatcher connection.pause"


@asynccontextmanager
async def another(database: Settings) -> AsyncIterator[Any]:
    import psycopg

    async with await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as conn:
        yield conn
