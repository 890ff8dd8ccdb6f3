"""Records of a type that is not live yet are kept, the newest state of each, and applied when its gate opens."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations

import pytest
from psycopg_pool import AsyncConnectionPool

from schemas.codec import Codec
from streams.inbound.staging import Staging
from streams.settings import Settings
from tests.integration.both_ways import BothWays, OneSchema, both_ways
from tests.integration.scripted import NOW

pytestmark = pytest.mark.integration
ANN = {"firstName": "Ann", "lastName": "Lee"}
MINUTE = timedelta(minutes=1)


async def gate(both: BothWays, state: str) -> None:
    await both.rows(
        "update sync.connection set gates = gates || jsonb_build_object('person', %s::text) where org_id = %s",
        state,
        both.out.org,
    )


async def release(both: BothWays, database: Settings, apply=None) -> int:
    async with AsyncConnectionPool(
        database.dsn("applier"), open=False, min_size=1, max_size=1, kwargs={"autocommit": True}
    ) as pool:
        return await Staging(pool, Codec(OneSchema()), apply or both.applier.apply, now=lambda: both.out.now).release()


async def staged(both: BothWays) -> list[str]:
    found = await both.rows("select external_id from sync.staged_record where org_id = %s order by 1", both.out.org)
    return [row["external_id"] for row in found]


@pytest.mark.covers("F098", "F113")
async def test_what_comes_before_the_gate_opens_is_applied_when_it_does(database: Settings) -> None:
    async with both_ways(database, "org_stage") as both:
        await gate(both, "staging")
        facts = [both.event("x1", {**ANN, "lastName": name}, NOW + n * MINUTE) for n, name in enumerate("ABC")]
        told = await both.hear(facts[2], facts[0], facts[1], both.event("x2", None, NOW))
        assert told.decisions == {("mirror", "staged"): 4}
        assert (await both.people(), await staged(both)) == ([], ["x1", "x2"])
        assert set(await both.ledger()) == {("staged", "gate_staging")}
        assert await release(both, database) == 0

        await gate(both, "live")
        assert await release(both, database) == 2
        (person,) = await both.people()
        assert (person["last_name"], await staged(both)) == ("C", [])
        assert ("applied", "created") in await both.ledger()
        assert await release(both, database) == 0


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_every_order_and_a_repeat_leave_the_newest_state(database: Settings, order: tuple[int, ...]) -> None:
    async with both_ways(database, f"org_stage{''.join(map(str, order))}") as both:
        await gate(both, "staging")
        facts = [both.event("x1", {**ANN, "lastName": name}, NOW + n * MINUTE) for n, name in enumerate("ABC")]
        for number in (*order, *order):
            await both.hear(facts[number])
        await gate(both, "live")
        await both.hear(facts[order[0]])  # a repeat that comes before the service
        assert await release(both, database) == 1
        assert [row["last_name"] for row in await both.people()] == ["C"]


async def test_a_crash_leaves_the_record_staged_and_the_next_try_applies_it_once(database: Settings) -> None:
    async with both_ways(database, "org_stagecrash") as both:
        await gate(both, "staging")
        await both.hear(both.event("x1", ANN, NOW))
        await gate(both, "live")

        async def dies(*given: object) -> None:
            await both.applier.apply(*given)  # type: ignore[arg-type]
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await release(both, database, dies)
        assert (await both.people(), await staged(both)) == ([], ["x1"])
        assert [await release(both, database) for _ in range(2)] == [1, 0]
        assert len(await both.people()) == 1


async def test_an_event_that_came_after_the_gate_opened_is_not_undone_by_a_staged_one(database: Settings) -> None:
    async with both_ways(database, "org_stagelate") as both:
        await gate(both, "staging")
        await both.hear(both.event("x1", ANN, NOW))
        await gate(both, "live")
        await both.hear(both.event("x1", {**ANN, "lastName": "Newer"}, NOW + MINUTE))
        await release(both, database)
        assert [row["last_name"] for row in await both.people()] == ["Newer"]


async def test_of_a_type_that_nobody_chose_nothing_is_kept(database: Settings) -> None:
    async with both_ways(database, "org_stageno") as both:
        await both.rows("update sync.connection set gates = gates - 'person' where org_id = %s", both.out.org)
        told = await both.hear(both.event("x1", ANN, NOW))
        assert (told.decisions, await staged(both), await both.ledger()) == ({("mirror", "held"): 1}, [], [])
