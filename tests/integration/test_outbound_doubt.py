"""Outbound when nobody can be sure: lost answers in every create tier, dead workers, newer versions, 202s."""

from __future__ import annotations

from datetime import timedelta

import pytest

from connectors.contract import Accepted, CreateTier, Delivered, ExternalRecord, Failed, Op
from connectors.errors import Ambiguous, Rejected, Stale
from streams.settings import Settings
from tests.integration.scripted import NOW, Outbound, Sent, outbound_of, with_tier

pytestmark = pytest.mark.integration
LAG = timedelta(seconds=30)
LOST = Failed(Ambiguous("no_answer", "no answer in time"))
TIERS = [CreateTier.KEYED, CreateTier.CLIENT_ID, CreateTier.SEARCH, CreateTier.NONE]


class Memory:
    """Their side of a create whose answers may get lost: what they made, and how often."""

    def __init__(self, out: Outbound, tier: CreateTier, *, losing: int) -> None:
        self.tier, self.losing = tier, losing
        self.made: list[str] = []
        self.keys: dict[str, str] = {}
        out.theirs.answer = self.answer
        out.theirs.found = self.find

    def answer(self, sent: Sent) -> Delivered | Failed:
        ours = str(sent["ours"])
        known = self.keys.get(str(sent["key"])) if self.tier is CreateTier.KEYED else None
        if known is None and not (self.tier is CreateTier.CLIENT_ID and ours in self.made):
            self.made.append(ours)
            self.keys[str(sent["key"])] = ours
        self.losing -= 1
        return LOST if self.losing >= 0 else Delivered(f"their_{ours}", 201)

    def find(self, sent: Sent) -> ExternalRecord | None:
        ours = str(sent["ours"])
        return ExternalRecord("person", f"their_{ours}", Op.UPDATE, NOW) if ours in self.made else None


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.covers("C21")
async def test_a_create_whose_answer_was_lost_is_made_once(database: Settings, tier: CreateTier) -> None:
    manifest = with_tier(tier, read_lag=LAG)
    async with outbound_of(database, f"org_lost_{tier.value}", manifest=manifest) as out:
        them = Memory(out, tier, losing=1)
        person = await out.insert()
        await out.plan(person)
        for _ in range(4):
            await out.round()
            out.now += LAG

        assert them.made == [person]
        expected = "PARKED" if tier is CreateTier.NONE else "DONE"
        assert (await out.state(person))[0] == expected
        linked = await out.sql("select count(*) from sync.external_link where entity_id = %s", person)
        assert linked == (0 if tier is CreateTier.NONE else 1)


async def test_what_a_search_does_not_find_twice_is_created_once_more(database: Settings) -> None:
    manifest = with_tier(CreateTier.SEARCH, read_lag=LAG)
    async with outbound_of(database, "org_never_arrived", manifest=manifest) as out:
        person = await out.insert()
        await out.plan(person)
        out.theirs.answer = lambda _: LOST  # they never got it
        await out.round()
        assert (await out.state(person))[0] == "UNKNOWN"
        assert await out.round() == []  # too early to be visible
        out.theirs.answer = lambda _: Delivered("their_1", 201)
        for _ in range(4):
            out.now += LAG
            await out.round()

        assert len(out.theirs.searches) == 2
        assert [s["op"] for s in out.theirs.sent] == ["create", "create"]
        assert out.theirs.sent[0]["key"] == out.theirs.sent[1]["key"]
        assert (await out.state(person))[0] == "DONE"


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.covers("C21")
async def test_a_worker_that_died_in_the_call_leaves_no_double(database: Settings, tier: CreateTier) -> None:
    async with outbound_of(database, f"org_died_{tier.value}", manifest=with_tier(tier, read_lag=LAG)) as out:
        them = Memory(out, tier, losing=0)
        person = await out.insert()
        await out.plan(person)
        await out.send(await out.take(slot=1))  # sent and answered, and nobody recorded it
        for _ in range(6):
            out.now += timedelta(minutes=2)
            await out.round()

        assert them.made == [person]
        assert (await out.state(person))[0] == ("PARKED" if tier is CreateTier.NONE else "DONE")


async def test_a_change_of_a_parked_record_waits_behind_it(database: Settings) -> None:
    async with outbound_of(database, "org_parked", manifest=with_tier(CreateTier.NONE)) as out:
        person = await out.insert(first_name="Ann")
        await out.plan(person)
        out.theirs.answer = lambda _: LOST
        await out.round()
        await out.sql("update canon.person set first_name = 'Eve' where id = %s", person)
        await out.plan(person)

        assert await out.round() == []
        assert await out.state(person) == ("PARKED", 2, 0, False)


async def test_a_key_that_may_be_forgotten_is_not_used_again(database: Settings) -> None:
    manifest = with_tier(CreateTier.KEYED, key_ttl=timedelta(hours=24))
    async with outbound_of(database, "org_old_key", manifest=manifest) as out:
        person = await out.insert()
        await out.plan(person)
        await out.take(slot=1)  # frozen, perhaps sent; then the power went
        out.now += timedelta(hours=13)
        await out.round()

        assert out.theirs.bodies == []
        assert (await out.state(person))[0] == "PARKED"


async def test_what_they_accepted_is_asked_about_before_anything_else_is_sent(database: Settings) -> None:
    async with outbound_of(database, "org_accepted", manifest=with_tier(CreateTier.KEYED)) as out:
        person = await out.insert()
        await out.plan(person)
        out.theirs.answer = lambda _: Accepted("/operations/7", 202, 3.0)
        await out.round()
        await out.plan(person)
        assert (await out.state(person))[0] == "UNKNOWN"
        asked = []

        def check(token: str) -> Delivered | Accepted:
            asked.append(token)
            return Accepted(token, 202, 3.0) if len(asked) == 1 else Delivered("their_7", 200)

        out.theirs.checked = check
        for _ in range(4):
            out.now += timedelta(seconds=3)
            await out.round()

        assert asked == ["/operations/7"] * 2
        assert len(out.theirs.bodies) == 1
        assert await out.sql("select external_id from sync.external_link where entity_id = %s", person) == "their_7"
        assert (await out.state(person))[0] == "DONE"


@pytest.mark.covers("F061")
async def test_a_newer_version_there_is_read_and_never_overwritten(database: Settings) -> None:
    async with outbound_of(database, "org_stale", manifest=with_tier(CreateTier.KEYED)) as out:
        person = await out.insert(first_name="Ann")
        await out.plan(person)
        out.theirs.answer = lambda _: Delivered("their_1", 200, external_version="1")
        await out.round()
        await out.sql("update canon.person set first_name = 'Eve' where id = %s", person)
        await out.plan(person)
        out.theirs.answer = lambda _: Failed(Stale("http_412", "they hold a newer version", status=412))
        theirs = ExternalRecord("person", "their_1", Op.UPDATE, NOW, {"firstName": "Zoe"}, external_version="2")
        out.theirs.fetched = lambda _: theirs
        await out.round()

        assert out.theirs.sent[-1]["version"] == "1"
        assert out.refreshed == [theirs]
        assert (await out.state(person))[0] == "RETRY"

        # the applier took theirs; ours is older and becomes theirs, so nothing is left to send
        await out.sql("update canon.person set first_name = 'Zoe' where id = %s", person)
        await out.sql(
            "update sync.link_state set rev = rev + 1, external_version = '2',"
            " base = base || '{\"first_name\": \"Zoe\"}' where org_id = %s", out.org,
        )  # fmt: skip
        out.now += timedelta(seconds=5)
        await out.round()

        assert len(out.theirs.bodies) == 2
        assert (await out.state(person))[0] == "DONE"


async def test_a_record_that_cannot_be_built_holds_up_no_other(database: Settings) -> None:
    async with outbound_of(database, "org_unbuildable") as out:
        bad, good = await out.insert(first_name="bad"), await out.insert(first_name="good")
        build = out.theirs.build

        def breaking(write: object) -> bytes:
            if write.payload["firstName"] == "bad":  # type: ignore[attr-defined]
                raise KeyError("firstName")
            return build(write)  # type: ignore[arg-type]

        out.theirs.build = breaking  # type: ignore[method-assign,assignment]
        await out.plan(bad, good)
        await out.round()

        assert (await out.state(good))[0] == "DONE"
        assert (await out.state(bad))[0] == "DEAD"
        cause = await out.sql("select cause from sync.dead_letter where record_key = %s", bad)
        assert cause == "KeyError in the adapter"
        assert "bad" not in cause


async def test_they_refuse_a_search_result_of_another_entity(database: Settings) -> None:
    """Their record belongs to another of ours: the second stays unlinked and is told to a person."""
    async with outbound_of(database, "org_taken", manifest=with_tier(CreateTier.KEYED)) as out:
        out.theirs.answer = lambda _: Delivered("their_1", 200)
        first, second = await out.insert(), await out.insert()
        await out.plan(first)
        await out.round()
        await out.plan(second)
        results = await out.send(await out.take())

        with pytest.raises(Exception, match="external_link_theirs"):
            await out.commit(results)
        assert (await out.state(second))[0] == "SENDING"


async def test_a_refused_event_is_told_with_their_words(database: Settings) -> None:
    async with outbound_of(database, "org_words") as out:
        person = await out.insert()
        await out.plan(person)
        out.theirs.answer = lambda _: Failed(Rejected("http_422", "the last name is missing", status=422))
        await out.round()

        assert await out.sql("select cause from sync.dead_letter where record_key = %s", person) == (
            "the last name is missing"
        )
