"""Conflicts end as the connection chose for the type and the field, and by clocks that were measured."""

from __future__ import annotations

from datetime import timedelta

import pytest

from connectors.contract import Delivered
from streams.rules.clock_errors import Measured
from streams.settings import Settings
from streams.store import clock_errors
from tests.integration.both_ways import both_ways
from tests.integration.scripted import NOW

pytestmark = pytest.mark.integration

CHOSEN = {"fields": {"first_name": "merge:concat", "last_name": "local", "gender": "remote"}, "policy": "manual"}


@pytest.mark.covers("F055", "F056", "F057", "F061")
async def test_each_field_goes_by_its_policy_and_a_merged_value_goes_out(database: Settings) -> None:
    async with both_ways(database, "org_policies", conflict_policies={"person": CHOSEN}) as both:
        held = {"firstName": "Ann", "lastName": "Lee", "gender": "x"}
        await both.hear(both.event("x1", held, NOW, external_version="1"))
        (person,) = await both.people()
        both.out.now = NOW + timedelta(minutes=9)
        await both.out.sql(
            "update canon.person set first_name = 'Anna', last_name = 'Li', gender = 'y' where id = %s", person["id"]
        )
        theirs = {"firstName": "Anne", "lastName": "Lea", "gender": "z"}
        await both.hear(both.event("x1", theirs, NOW + timedelta(minutes=1), external_version="2"))

        (person,) = await both.people()
        assert (person["first_name"], person["last_name"], person["gender"]) == ("Anna\nAnne", "Li", "z")
        logged = await both.rows(
            "select field, ours, theirs, winner, rule from sync.conflict_log where org_id = %s order by field",
            both.out.org,
        )
        assert [tuple(row.values()) for row in logged] == [
            ("first_name", "Anna", "Anne", "neither", "merge"),
            ("gender", "y", "z", "theirs", "policy"),
            ("last_name", "Li", "Lea", "ours", "policy"),
        ]

        at = both.out.now
        both.out.theirs.answer = lambda _: Delivered("x1", 200, "3", at)
        await both.out.rounds()
        (sent,) = both.out.theirs.sent
        assert sent["payload"]["firstName"] == "Anna\nAnne"  # type: ignore[index]
        assert sent["payload"]["lastName"] == "Li"  # type: ignore[index]
        back = {"firstName": "Anna\nAnne", "lastName": "Li", "gender": "z"}
        await both.hear(both.event("x1", back, at, external_version="3"))
        await both.out.rounds()
        assert len(both.out.theirs.sent) == 1


@pytest.mark.covers("F055", "C2")
@pytest.mark.parametrize(("ties", "kept"), [(None, "ours"), ("theirs", "theirs")])
async def test_their_times_are_put_right_by_what_was_measured_of_their_clock(
    database: Settings, ties: str | None, kept: str
) -> None:
    """They wrote a second before us, by a clock that is an hour ahead, give or take ten seconds."""
    policies = {"person": {"ties": ties}} if ties else {}
    async with both_ways(database, f"org_clock_{kept}", conflict_policies=policies) as both:
        hour, second = timedelta(hours=1), timedelta(seconds=1)
        await clock_errors.save(
            both.out.conn, both.out.org, both.out.name, Measured(hour, hour + 10 * second if ties else hour), now=NOW
        )
        both.out.now = NOW + timedelta(minutes=9)
        await both.hear(both.event("x1", {"firstName": "base", "lastName": "Lee"}, NOW + hour, external_version="1"))
        (person,) = await both.people()
        await both.out.sql("update canon.person set first_name = 'ours' where id = %s", person["id"])
        ((edited_at,),) = [row.values() for row in await both.rows(
            "select modified_at from canon.person where id = %s", person["id"]
        )]  # fmt: skip
        both.out.now = edited_at
        told = {"firstName": "theirs", "lastName": "Lee"}
        await both.hear(both.event("x1", told, edited_at + hour - second, external_version="2"))
        assert [row["first_name"] for row in await both.people()] == [kept]
