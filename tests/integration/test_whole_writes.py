"""A system whose writes replace the whole record: what is theirs alone, and whose item is whose, outlives them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from connectors import config, emulators, http, registry
from connectors.contract import Client
from connectors.emulators import Running
from schemas.fields import Json
from streams.settings import Settings
from tests.integration.both_ways import BothWays, both_ways

pytestmark = pytest.mark.integration


class Site(BothWays):
    """An emulated system, and we, who tell each other everything."""

    server: Running
    client: Client

    @property
    def held(self) -> dict[str, dict[str, Json]]:
        """Their people by id."""
        return self.server.emulator.system.records()["people"]

    def theirs(self, fields: dict[str, Json], record_id: str | None = None, kind: str = "people") -> dict[str, Json]:
        """One of their users adds or edits a record."""
        return self.server.emulator.system.put(kind, record_id, fields)

    async def told(self, record_id: str, kind: str = "people") -> None:
        """They tell of a record as it is."""
        record = await self.client.fetch(kind, record_id)
        assert record is not None
        self.out.now = max(self.out.now, record.occurred_at) + timedelta(seconds=1)
        more = {"external_version": record.external_version, "kind": kind}
        await self.hear(self.event(record_id, dict(record.payload), record.occurred_at, **more))

    async def push(self, *ids: str) -> int:
        """Write what is wanted; how many calls it took."""
        self.out.now += timedelta(seconds=1)
        await self.out.plan(*ids)
        results = await self.out.round()
        assert all(not hasattr(result.outcome, "error") for result in results), results
        return len(results)


@asynccontextmanager
async def site(database: Settings, system: str, org: str) -> AsyncIterator[Site]:
    adapter = registry.find(system)
    async with emulators.serve(system) as running, both_ways(database, org, manifest=adapter.manifest) as both:
        calls = http.client()
        document = running.emulator.system.connection(running.url)
        client = adapter.open(config.settings(config.load(document), adapter.settings), calls)
        both.__class__ = Site
        both.server, both.client, both.out.theirs = running, client, client
        try:
            yield both
        finally:
            await calls.aclose()


@pytest.mark.parametrize("system", ["sim-nested", "sim-keyed"])
async def test_a_write_erases_nothing_that_is_theirs_alone(database: Settings, system: str) -> None:
    async with site(database, system, f"org_{system}") as both:
        email = {"address": "ann@example.org", "label": None, "verified": True}
        alone = {"first_name": "Ann", "emails": [email], "note": "", "shoes": {"size": 38}, "none": None}
        record_id = both.theirs(alone)["id"]
        await both.told(record_id)
        (person,) = await both.people()
        assert person["custom"]["mirror"] == {"note": "", "shoes": {"size": 38}, "none": None}

        await both.out.sql("update canon.person set first_name = 'Anna' where id = %s", person["id"])
        await both.out.sql("update canon.email set label = 'home' where person_id = %s", person["id"])
        assert await both.push(person["id"]) == 1
        held = both.held[record_id]
        assert {key: held[key] for key in ("first_name", "note", "shoes", "none")} == {
            "first_name": "Anna",
            "note": "",
            "shoes": {"size": 38},
            "none": None,
        }
        (item,) = held["emails"]
        assert (item["address"], item["label"], item["verified"]) == ("ann@example.org", "home", True)

        await both.told(record_id)
        assert await both.push(person["id"]) == 0
        assert (await both.ledger())[-1] == ("stale", "duplicate")


async def test_items_keep_their_ids_and_new_ones_get_theirs(database: Settings) -> None:
    async with site(database, "sim-nested", "org_items") as both:
        record_id = both.theirs({"first_name": "Ann", "emails": [{"address": "a@x"}, {"address": "b@x"}]})["id"]
        before = {item["address"]: item["id"] for item in both.held[record_id]["emails"]}
        await both.told(record_id)
        (person,) = await both.people()
        await both.out.sql("update canon.email set address = 'A@x' where address = 'a@x'")
        await both.out.sql("update canon.email set deleted_at = now() where address = 'b@x'")
        await both.out.insert("email", person_id=person["id"], address="c@x")
        assert await both.push(person["id"]) == 1
        after = {item["address"]: item["id"] for item in both.held[record_id]["emails"]}
        assert after.keys() == {"A@x", "c@x"}
        assert after["A@x"] == before["a@x"]

        await both.told(record_id)
        links = await both.rows(
            """select external_id, deleted_at is null as open from sync.external_link
               where org_id = %s and part = %s order by created_at""",
            both.out.org,
            record_id,
        )
        assert {row["external_id"]: row["open"] for row in links} == {
            before["a@x"]: True,
            before["b@x"]: False,
            after["c@x"]: True,
        }
        assert await both.push(person["id"]) == 0


async def test_a_write_keeps_references_to_what_we_do_not_know_yet(database: Settings) -> None:
    async with site(database, "sim-nested", "org_unknown") as both:
        member = both.theirs({"first_name": "Ann"})["id"]
        home = both.theirs({"name": "Lee", "members": [{"person": {"id": member}, "role": "head"}]}, kind="households")
        await both.told(home["id"], "households")
        (row,) = await both.rows("select id from canon.household where org_id = %s", both.out.org)
        await both.out.sql("update canon.household set name = 'Leigh' where id = %s", row["id"])
        assert await both.push(row["id"]) == 1
        held = both.server.emulator.system.records()["households"][home["id"]]
        assert (held["name"], held["members"][0]["person"]) == ("Leigh", {"id": member})


async def test_what_they_cannot_represent_of_an_item_stays_ours(database: Settings) -> None:
    """A member of ours whom they do not have: their word on the role is none on the person."""
    async with site(database, "sim-nested", "org_hidden") as both:
        home = both.theirs({"name": "Lee", "members": [{"role": "head"}]}, kind="households")
        await both.told(home["id"], "households")
        person = await both.out.insert()
        await both.out.sql("update canon.household_member set person_id = %s", person)
        (row,) = await both.rows("select id from canon.household where org_id = %s", both.out.org)
        assert await both.push(row["id"]) == 0
        item = both.server.emulator.system.records()["households"][home["id"]]["members"][0]
        both.theirs({"members": [{**item, "role": "child"}]}, home["id"], kind="households")
        await both.told(home["id"], "households")
        (member,) = await both.rows(
            "select person_id, role from canon.household_member where org_id = %s", both.out.org
        )
        assert member == {"person_id": person, "role": "child"}
