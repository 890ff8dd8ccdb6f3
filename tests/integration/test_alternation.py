"""A system that upper-cases names must not start a war, whoever wins by policy."""

from __future__ import annotations

from datetime import timedelta

import pytest

from connectors.contract import Delivered
from streams.settings import Settings
from tests.integration.both_ways import both_ways
from tests.integration.scripted import NOW

pytestmark = pytest.mark.integration


@pytest.mark.covers("R9", "R26")
@pytest.mark.parametrize("policy", ["local", "lww"])
async def test_the_war_ends_with_a_question_that_shows_both_values(database: Settings, policy: str) -> None:
    async with both_ways(database, f"org_war_{policy}", conflict_policy=policy) as both:
        held = {"firstName": "ANN", "lastName": "LEE"}
        await both.hear(both.event("x1", held, NOW, external_version="1"))
        (person,) = await both.people()
        at, pushes = NOW, 0
        await both.out.sql("update canon.person set first_name = 'Ann', last_name = 'Lee' where id = %s", person["id"])
        for version in range(2, 40, 2):
            at += timedelta(seconds=1)
            both.out.now = at
            await both.out.plan(person["id"])
            both.out.theirs.answer = lambda _, v=version, t=at: Delivered("x1", 200, str(v), t)
            before = len(both.out.theirs.bodies)
            await both.out.rounds()
            if len(both.out.theirs.bodies) == before:
                break
            pushes += 1
            # another system, or a trigger of theirs, puts the old value back
            told = {**held, "note": version}
            await both.hear(both.event("x1", told, at + timedelta(milliseconds=1), external_version=str(version + 1)))
            # and somebody here insists
            await both.out.sql(
                "update canon.person set first_name = 'Ann', last_name = 'Lee' where id = %s", person["id"]
            )

        assert 3 <= pushes <= 5
        asked = await both.rows("select * from sync.conflict where org_id = %s order by field", both.out.org)
        assert [(row["field"], row["ours"], row["theirs"]) for row in asked] == [
            ("first_name", "Ann", "ANN"),
            ("last_name", "Lee", "LEE"),
        ]
