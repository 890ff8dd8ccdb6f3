"""What may be called, decided from what was spent and what was told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.rates import Told
from streams.rules import budgets
from streams.rules.budgets import Account, Quota

pytestmark = pytest.mark.covers("R15", "R16")

AT = 1_000_000.0


def learned(limit: int = 100, period_s: float = 20.0, remaining: int | None = None) -> Account:
    told = Told(limit, limit if remaining is None else remaining, period_s)
    return budgets.heard(Account(), told, in_hand=0, at=AT, delay_s=0.0)


def spent(account: Account, calls: int, at: float = AT) -> Account:
    while calls:
        account, lease = budgets.lease(account, at, want=calls, delay_s=0.0, priority="lane")
        assert lease is not None
        calls -= lease.calls
    return account


def test_nothing_known_is_no_limit() -> None:
    assert budgets.room(Account(), AT, "poll") is None
    assert budgets.ready_at(Account(), AT, "poll") == AT


def test_a_wish_for_later_stops_everything_even_without_a_limit() -> None:
    account = budgets.heard(Account(), Told(retry_after_s=30), in_hand=0, at=AT, delay_s=0.0)
    assert account.unlimited
    assert budgets.room(account, AT + 29, "lane") == 0
    assert budgets.ready_at(account, AT, "lane") == AT + 30
    assert budgets.room(account, AT + 30, "lane") is None


@pytest.mark.parametrize(("priority", "room"), [("lane", 100), ("poll", 90), ("backfill", 80)])
def test_what_is_less_urgent_leaves_a_part(priority: budgets.Priority, room: int) -> None:
    assert budgets.room(learned(), AT, priority) == room
    used = spent(learned(), room)
    assert budgets.room(used, AT, priority) == 0
    assert budgets.ready_at(used, AT, priority) > AT + 20
    assert budgets.room(used, AT, "lane") == 100 - room


def test_a_small_limit_leaves_nothing_that_nobody_could_use() -> None:
    assert budgets.room(learned(limit=1), AT, "backfill") == 1


def test_calls_count_for_a_period_after_they_can_have_arrived() -> None:
    account, lease = budgets.lease(learned(), AT, want=5, delay_s=0.7, priority="lane")
    assert lease is not None
    assert lease.calls == 5
    assert AT < lease.use_by <= AT + 1
    assert budgets.room(account, lease.use_by + 0.7 + 19.9, "lane") == 95
    assert budgets.room(account, lease.use_by + 0.7 + 20.3, "lane") == 100


def test_leases_get_smaller_towards_the_end() -> None:
    account, sizes = learned(limit=100), []
    while (taken := budgets.lease(account, AT, want=100, delay_s=0.0, priority="lane"))[1]:
        account, lease = taken
        sizes.append(lease.calls if lease else 0)
    assert sum(sizes) == 100
    assert sizes[0] == 5
    assert sizes[-1] == 1
    assert sizes == sorted(sizes, reverse=True)


def test_what_was_not_used_comes_back() -> None:
    account, lease = budgets.lease(learned(), AT, want=5, delay_s=0.0, priority="lane")
    assert lease is not None
    assert budgets.room(budgets.give_back(account, lease, 3), AT, "lane") == 98


def test_their_count_wins_when_it_is_higher() -> None:
    account = spent(learned(), 30)
    same = budgets.heard(account, Told(100, 75, 20.0), in_hand=5, at=AT, delay_s=0.0)
    assert same is account, "five of ours are on their way"
    lower = budgets.heard(account, Told(100, 40, 20.0), in_hand=5, at=AT, delay_s=0.0)
    assert budgets.room(lower, AT, "lane") == 35, "40, less the five in hand"
    higher = budgets.heard(account, Told(100, 99, 20.0), in_hand=0, at=AT, delay_s=0.0)
    assert budgets.room(higher, AT, "lane") == 70


def test_a_lower_limit_holds_at_once_and_a_higher_one_after_a_period() -> None:
    account = budgets.heard(spent(learned(), 60), Told(50, 0, 20.0), in_hand=0, at=AT, delay_s=0.0)
    assert budgets.room(account, AT, "lane") == 0
    assert budgets.room(account, AT + 21, "lane") == 50
    higher = budgets.heard(account, Told(200, 200, 20.0), in_hand=0, at=AT + 5, delay_s=0.0)
    assert budgets.room(higher, AT + 24, "lane") == 50
    assert budgets.room(higher, AT + 25, "lane") == 200
    both = budgets.heard(higher, Told(50, 50, 20.0), in_hand=0, at=AT + 6, delay_s=0.0)
    assert budgets.room(both, AT + 26, "lane") == 50, "some calls have the lower limit still"


def test_a_period_that_is_not_told_is_learned_from_the_time_to_the_reset() -> None:
    account = budgets.heard(Account(), Told(100, 99, None, 7.0), in_hand=0, at=AT, delay_s=0.0)
    account = budgets.heard(spent(account, 20), Told(100, 99, None, 60.0), in_hand=0, at=AT + 7, delay_s=0.0)
    assert account.learned is not None
    assert account.learned.period_s == 60.0
    assert budgets.room(account, AT + 59, "lane") == 79, "calls of before count for the longer period, too"
    shorter = budgets.heard(account, Told(100, 99, None, 1.0), in_hand=0, at=AT + 7, delay_s=0.0)
    assert shorter.learned is not None
    assert shorter.learned.period_s == 60.0


def test_what_a_person_set_is_a_bound_beside_what_they_tell() -> None:
    bound = budgets.bounded(learned(limit=100, period_s=20.0), {"calls": 10, "per_s": 60})
    used = spent(bound, 10)
    assert budgets.room(used, AT, "lane") == 0
    assert budgets.room(used, AT + 25, "lane") == 0
    assert budgets.room(used, AT + 62, "lane") == 10
    assert budgets.room(budgets.bounded(used, {}), AT, "lane") == 90
    loose = spent(budgets.bounded(learned(limit=5), {"calls": 1000, "per_s": 1}), 5)
    assert budgets.ready_at(loose, AT, "lane") > AT + 20


def test_silent_refusals_are_answered_with_longer_and_longer_pauses() -> None:
    assert [budgets.pause_s(n) for n in (1, 2, 3, 4, 5, 6, 1000)] == [1, 2, 4, 8, 16, 30, 30]


TOLD = st.builds(
    Told,
    st.none() | st.integers(1, 10**9),
    st.none() | st.integers(0, 10**9),
    st.none() | st.floats(0, 1e12),
    st.none() | st.floats(0, 1e12),
    st.none() | st.floats(0, 1e12),
)


@given(st.lists(st.tuples(TOLD, st.floats(0, 100), st.integers(0, 20)), max_size=20))
def test_whatever_is_told_the_account_stays_small_and_somebody_may_call_again(
    steps: list[tuple[Told, float, int]],
) -> None:
    account, at = Account(), AT
    for told, later, want in steps:
        at += later
        account = budgets.heard(account, told, in_hand=0, at=at, delay_s=0.0)
        account, lease = budgets.lease(account, at, want=want, delay_s=0.1, priority="poll")
        assert lease is None or at < lease.use_by
        when = budgets.ready_at(account, at, "lane")
        assert at <= when < at + 3 * 86_400
        assert budgets.room(account, when, "lane") != 0


@given(
    limit=st.integers(1, 60),
    period_s=st.floats(0.5, 100),
    delay_s=st.floats(0, 0.05),
    waits=st.lists(st.floats(0, 2), min_size=1, max_size=150),
)
def test_no_window_wherever_it_begins_holds_more_calls_than_the_limit(
    limit: int, period_s: float, delay_s: float, waits: list[float]
) -> None:
    """Each lease is used either at once or at the last moment, each call arrives at once or as late as it can."""
    account = Account(Quota(limit, period_s))
    at, arrivals = AT, list[tuple[float, float]]()
    for wait in waits:
        at += wait * period_s / 20
        account, lease = budgets.lease(account, at, want=3, delay_s=delay_s * period_s, priority="lane")
        if lease is not None:
            arrivals += [(at, lease.use_by + delay_s * period_s)] * lease.calls
    for earliest, _ in arrivals:
        # in a window that ends just after this call at the earliest: all that can have arrived in it, at the latest
        inside = sum(first <= earliest and last > earliest - period_s for first, last in arrivals)
        assert inside <= limit
