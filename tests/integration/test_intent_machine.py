"""Intents as a state machine: changes, lost answers, refusals, dead workers and late results in any order.

Whatever happened: no record is made twice over there, no older state goes over a newer one, and when the world is quiet
again they hold what we hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from connectors.contract import CreateTier, Delivered, ExternalRecord, Failed, Manifest, Op, Outcome
from connectors.errors import Ambiguous, NotApplied, Rejected
from streams.outbound.outcomes import Result
from streams.settings import Settings
from tests.integration.scripted import Outbound, Sent, connect_to, with_tier

pytestmark = pytest.mark.integration
LAG = timedelta(seconds=30)
ORGS = count()


class There:
    """Their records, as their tier makes them; what arrives of one record is a number that only rises."""

    def __init__(self, tier: CreateTier, now: Callable[[], Any]) -> None:
        self.tier, self.now = tier, now
        self.records: dict[str, int] = {}
        self.made_at: dict[str, Any] = {}
        self.by_key: dict[str, str] = {}
        self.creates: dict[str, int] = {}
        self.inversions: list[tuple[str, int, int]] = []

    def take(self, sent: Sent) -> Delivered:
        ours, value = str(sent["ours"]), int(sent["payload"].get("nationalId", -1))  # type: ignore[attr-defined]
        if sent["op"] == "create":
            keyed = self.tier is CreateTier.KEYED and sent["key"] in self.by_key
            if self.tier is CreateTier.CLIENT_ID and ours in self.records:
                self._hold(ours, value)
            elif not keyed:
                self.creates[ours] = self.creates.get(ours, 0) + 1
                self.made_at[ours] = self.now()
                self.by_key[str(sent["key"])] = ours
                self._hold(ours, value)
        else:
            self._hold(ours, value)
        return Delivered(f"their_{ours}", 200)

    def _hold(self, ours: str, value: int) -> None:
        if value < self.records.get(ours, -1):
            self.inversions.append((ours, self.records[ours], value))
        self.records[ours] = value

    def find(self, sent: Sent) -> ExternalRecord | None:
        ours = str(sent["ours"])
        visible = ours in self.made_at and self.now() - self.made_at[ours] >= LAG
        return ExternalRecord("individual", f"their_{ours}", Op.UPDATE, self.now()) if visible else None


class Intents(RuleBasedStateMachine):
    """Three people, two workers, one system."""

    database: Settings
    manifest: Manifest

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.values = count(1)
        self.flying: list[list[Result]] = []
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        org = f"org_machine_{next(ORGS)}"
        conn = await psycopg.AsyncConnection.connect(self.database.dsn("app"), autocommit=True)
        await connect_to(conn, org, manifest=self.manifest)
        self.out = Outbound(conn, org, manifest=self.manifest)
        self.there = There(self.manifest.create_tier, lambda: self.out.now)
        self.out.theirs.found = self.there.find
        self.people = [await self.out.insert(national_id=str(next(self.values))) for _ in range(3)]
        await self.out.plan(*self.people)

    def teardown(self) -> None:
        if hasattr(self, "out"):
            self.loop.run_until_complete(self._settle())
            self.loop.run_until_complete(self.out.conn.close())
            self.loop.close()

    @rule(who=st.integers(0, 2), planned=st.booleans())
    def change(self, who: int, planned: bool) -> None:
        """A row changes; the planner hears of it, or of an old change once more."""

        async def act() -> None:
            value = str(next(self.values))
            await self.out.sql("update canon.person set national_id = %s where id = %s", value, self.people[who])
            await self.out.plan(self.people[who])
            if planned:
                await self.out.plan(*self.people)

        self.loop.run_until_complete(act())

    @rule(
        fate=st.sampled_from(["good", "lost_before", "lost_after", "refused", "unreachable"]),
        slot=st.integers(0, 1),
        limit=st.integers(1, 3),
        then=st.sampled_from(["recorded", "late", "died", "died_before"]),
    )
    def deliver(self, fate: str, slot: int, limit: int, then: str) -> None:
        """A worker claims and calls; its results are recorded now, later, or never, or it dies before the call."""

        async def act() -> None:
            self.out.theirs.answer = lambda sent: self._answer(fate, sent)
            taken = await self.out.take(slot=slot, limit=limit)
            if then == "died_before":
                return
            results = await self.out.send(taken)
            if then == "recorded":
                await self.out.commit(results)
            elif then == "late" and results:
                self.flying.append(results)

        self.loop.run_until_complete(act())

    @rule()
    def record_late(self) -> None:
        """A slow worker records at last; its claims may have gone to another by now."""
        if self.flying:
            self.loop.run_until_complete(self.out.commit(self.flying.pop(0)))

    @rule(seconds=st.sampled_from([1, 40, 100, 4000]))
    def wait(self, seconds: int) -> None:
        """Time goes by: retries get due, leases expire."""
        self.out.now += timedelta(seconds=seconds)

    def _answer(self, fate: str, sent: Sent) -> Outcome:
        match fate:
            case "lost_before":
                return Failed(Ambiguous("no_answer", "no answer in time"))
            case "lost_after":
                self.there.take(sent)
                return Failed(Ambiguous("no_answer", "no answer in time"))
            case "refused":
                return Failed(Rejected("http_422", "no", status=422))
            case "unreachable":
                return Failed(NotApplied("no_connection", "no connection"))
            case _:
                return self.there.take(sent)

    @invariant()
    def nothing_is_made_twice(self) -> None:
        if hasattr(self, "there"):
            assert all(times == 1 for times in self.there.creates.values()), self.there.creates

    @invariant()
    def nothing_older_goes_over_something_newer(self) -> None:
        if hasattr(self, "there"):
            assert not self.there.inversions

    async def _settle(self) -> None:
        """The world is quiet: everything arrives, or a person is asked."""
        self.out.theirs.answer = self.there.take
        await self.out.plan(*self.people)
        for _ in range(12):
            self.out.now += timedelta(hours=6)
            await self.out.round()
        for person in self.people:
            state, wanted, done, _ = await self.out.state(person)
            if state == "PARKED":
                assert self.manifest.create_tier in (CreateTier.NONE, CreateTier.KEYED)
                continue
            assert (state, wanted) == ("DONE", done)
            held = await self.out.sql("select national_id from canon.person where id = %s", person)
            assert self.there.records[person] == int(held)


@pytest.mark.parametrize("tier", list(CreateTier))
@pytest.mark.covers("C8", "C19", "C21")
@pytest.mark.timeout(240)
def test_any_history_ends_well(database: Settings, tier: CreateTier) -> None:
    machine = type("Machine", (Intents,), {"database": database, "manifest": with_tier(tier, read_lag=LAG)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
