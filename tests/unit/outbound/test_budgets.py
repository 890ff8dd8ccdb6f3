"""Workers that share a quota, simulated on a virtual clock: what they use of it, and how often they are refused."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from connectors.errors import NotApplied
from streams.outbound.budgets import Budget
from streams.rules.budgets import Account
from tests.unit.outbound.quotas import START, Memory, System, Workers, now, run

pytestmark = pytest.mark.covers("R15")

WINDOWS = 20


def seconds() -> float:
    return asyncio.get_running_loop().time()


def budget_of(shared: Memory, **options) -> Budget:
    return Budget(shared, **{"priority": "lane", "now": now, "spread": lambda: 0.5, "patience_s": 100.0} | options)


@settings(max_examples=25, deadline=None)
@given(
    limit=st.integers(20, 200),
    period_s=st.sampled_from([10.0, 20.0, 30.0, 60.0]),
    phase=st.floats(0, 1),
    slides=st.booleans(),
    style=st.sampled_from(["pco", "reset"]),
    workers=st.integers(1, 4),
    at_once=st.integers(1, 6),
    latency=st.floats(0.001, 0.02),
    seed=st.integers(0, 1000),
)
@example(
    limit=100, period_s=20.0, phase=0.4, slides=False, style="pco", workers=2, at_once=5, latency=0.01, seed=1
).via("quota 100 per 20 s, two processes")
@example(
    limit=100, period_s=20.0, phase=0.9, slides=False, style="pco", workers=4, at_once=5, latency=0.01, seed=2
).via("quota 100 per 20 s, four processes")
def test_a_shared_quota_is_used_and_kept(  # noqa: PLR0917  Hypothesis gives them by name
    limit: int,
    period_s: float,
    phase: float,
    slides: bool,
    style: str,
    workers: int,
    at_once: int,
    latency: float,
    seed: int,
) -> None:
    """Whatever their window is and wherever it begins. `latency` is there and back, as a part of the period."""
    system = System(limit, period_s, phase * period_s, slides, style)
    crowd = Workers(system, Memory(), workers=workers, at_once=at_once, latency_s=latency * period_s, seed=seed)
    run(lambda: crowd.work((WINDOWS + 2) * period_s))

    # while nothing is known, each worker but the first may make one call that the others do not know of
    assert system.refused() <= 0.005 + (workers - 1) / len(system.answered)
    assert system.refused(since=2 * period_s) <= 0.005
    start = (1 + phase) * period_s
    # a call of ours cannot come earlier than a period and a way after the one that it follows
    reachable = min(1.0, at_once * workers * period_s / (latency * period_s) / limit)
    assert system.used(start, start + WINDOWS * period_s) >= 0.9 * min(1.0, reachable)


@settings(max_examples=15, deadline=None)
@given(
    lower=st.integers(10, 90),
    at=st.floats(2.0, 4.0),
    slides=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_limit_lowered_in_mid_run_is_obeyed_within_a_window(lower: int, at: float, slides: bool, seed: int) -> None:
    system = System(100, 20.0, 7.0, slides)
    crowd = Workers(system, Memory(), workers=3, at_once=5, latency_s=0.2, seed=seed)

    async def change() -> None:
        await asyncio.sleep(at * 20)
        system.limit = lower

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(crowd.work(600.0))
            group.create_task(change())

    run(main)
    changed = at * 20
    within = [status for when, status in system.answered if changed <= when < changed + 20]
    assert within.count(429) <= 3 * 5, "no more than were on their way"
    assert system.refused(changed + 20) == 0
    assert system.used(changed + 40, changed + 400) >= 0.85


def test_a_limit_that_was_raised_is_used_from_the_next_window_on() -> None:
    system = System(50, 20.0)
    crowd = Workers(system, Memory(), workers=2, at_once=5, latency_s=0.2)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(crowd.work(300.0))
            await asyncio.sleep(50)
            system.limit = 100

    run(main)
    assert system.refused(20.0) == 0
    assert system.used(100, 300) >= 0.9


@pytest.mark.covers("R16")
def test_live_pushes_find_a_part_of_the_window_that_polls_and_backfills_have_left() -> None:
    system = System(100, 20.0)
    shared = Memory()
    crowd = Workers(system, shared, workers=1, at_once=3, latency_s=0.1)

    async def main() -> None:
        backfill, poll, lane = (budget_of(shared, priority=p, patience_s=5) for p in ("backfill", "poll", "lane"))
        for budget, calls in ((backfill, 80), (poll, 10), (lane, 10)):
            for _ in range(calls):
                assert await crowd.call(budget) == 200
            with pytest.raises(NotApplied, match="rate_budget"):
                await budget.acquire()
            assert seconds() < 15

    run(main)


def test_a_wish_for_later_stops_all_workers() -> None:
    """One is told, the others hear of it within a second, though nobody knows of any limit."""
    shared = Memory()
    called: list[float] = []

    async def main() -> None:
        told, other = budget_of(shared), budget_of(shared)
        for budget in (told, other):
            await budget.acquire()
            budget.note(200, {})
        told.note(503, CIMultiDict({"Retry-After": "30"}))
        while seconds() < 60:
            await other.acquire()
            called.append(seconds())
            other.note(200, {})
            await asyncio.sleep(0.1)
        assert (ready := told.ready_at()) is None, ready

    run(main)
    assert max(at for at in called if at < 15) < 1.2
    assert 30 <= min(at for at in called if at > 15) <= 33.1


def test_refusals_without_a_word_are_followed_by_pauses() -> None:
    async def main() -> None:
        budget = budget_of(Memory(), patience_s=100)
        called = []
        for _ in range(5):
            await budget.acquire()
            called.append(seconds())
            budget.note(429, {"content-type": "text/plain"})
        gaps = [later - earlier for earlier, later in pairwise(called)]
        assert [int(gap) for gap in gaps] == [1, 2, 4, 8]
        assert (ready := budget.ready_at()) is not None
        assert (ready - START).total_seconds() > called[-1] + 15

    run(main)


def test_without_a_limit_a_request_costs_no_look_at_the_database() -> None:
    shared = Memory()

    async def main() -> None:
        budget = budget_of(shared)
        for _ in range(2000):
            await budget.acquire()
            budget.note(200, {"content-type": "application/json"})
            await asyncio.sleep(0.005)
        assert budget.room(7) == 7
        assert budget.ready_at() is None

    run(main)
    assert shared.calls <= 12, "about one per second, beside the requests"
    assert shared.version == 0


def test_the_first_call_is_made_alone() -> None:
    """Its answer may tell of a limit that the others would break."""

    async def main() -> None:
        budget = budget_of(Memory())
        await budget.acquire()
        others = [asyncio.create_task(budget.acquire()) for _ in range(10)]
        await asyncio.sleep(60)
        assert not any(other.done() for other in others)
        budget.note(0, {})
        await asyncio.sleep(1)
        assert sum(other.done() for other in others) == 1, "no answer came: another one tries"
        budget.note(
            200, CIMultiDict({"X-RateLimit-Limit": "4", "X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "9"})
        )
        await asyncio.sleep(1)
        assert sum(other.done() for other in others) == 1 + 3
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    run(main)


def test_what_a_person_set_holds_where_they_tell_nothing() -> None:
    shared = Memory(bound={"calls": 10, "per_s": 10})
    called: list[float] = []

    async def main() -> None:
        budgets = [budget_of(shared), budget_of(shared)]
        while seconds() < 100:
            for budget in budgets:
                await budget.acquire()
                called.append(seconds())
                budget.note(200, {})

    run(main)
    assert max(sum(at - 10 < other <= at for other in called) for at in called) == 10
    assert len(called) >= 90


def test_calls_that_others_make_with_the_same_credential_are_counted() -> None:
    system = System(100, 20.0)
    crowd = Workers(system, Memory(), workers=2, at_once=4, latency_s=0.1)

    async def somebody_else() -> None:
        while seconds() < 400:
            await asyncio.sleep(0.5)
            system.arrive(seconds())

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(somebody_else())
            group.create_task(crowd.work(400.0))

    run(main)
    # what the other calls after our last answer nobody can know
    assert crowd.statuses.count(429) <= 0.05 * len(crowd.statuses)
    assert system.used(20, 400) >= 0.85, "with theirs"


def test_leases_of_a_dead_worker_are_lost_for_a_window_and_those_of_a_closed_one_are_not() -> None:
    def free(shared: Memory, at: float) -> int:
        learned = shared.account.learned
        assert learned is not None
        return learned.free(START.timestamp() + at, "lane")

    async def main(*, closes: bool) -> None:
        system, shared = System(100, 20.0), Memory()
        crowd = Workers(system, shared, workers=1, at_once=1, latency_s=0.0)
        budget = crowd.budget()
        for _ in range(11):
            await crowd.call(budget)
        left = budget._left
        assert left
        if closes:
            await budget.aclose()
        assert free(shared, seconds()) == 100 - 11 - (0 if closes else left)
        assert free(shared, seconds() + 21) == 100

    run(lambda: main(closes=True))
    run(lambda: main(closes=False))


def test_no_call_is_made_while_the_budget_cannot_be_read() -> None:
    class Gone(Memory):
        async def load(self) -> tuple[Account, int]:
            if seconds() < 10:
                raise psycopg.OperationalError
            return await super().load()

    async def main() -> None:
        with pytest.raises(NotApplied, match="rate_budget"):
            await budget_of(Gone(), patience_s=5).acquire()
        await budget_of(Gone(), patience_s=20).acquire()
        assert seconds() >= 10

    run(main)


@pytest.mark.parametrize("late_s", [0.0, 3.0])
def test_a_lane_learns_when_it_may_call_again(late_s: float) -> None:
    """Also from a row that another worker has emptied meanwhile."""
    system, shared = System(40, 20.0), Memory()
    crowd = Workers(system, shared, workers=1, at_once=1, latency_s=0.01)

    async def main() -> None:
        budget, other = crowd.budget(), crowd.budget()
        await crowd.call(budget)
        assert budget.ready_at() is None
        assert budget.room(100) == 39
        for _ in range(39):
            await crowd.call(other)
        await asyncio.sleep(late_s)
        waiting = asyncio.create_task(crowd.call(budget))
        await asyncio.sleep(0.1)
        assert budget.room(100) == 0
        assert (ready := budget.ready_at()) is not None
        assert await waiting == 200
        assert abs((ready - START).total_seconds() - seconds()) < 1

    run(main)
