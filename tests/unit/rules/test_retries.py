"""What follows an attempt."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.contract import Accepted, CreateTier, Delivered, Failed, Manifest, Op, Outcome
from connectors.errors import Ambiguous, NotApplied, Rejected, Stale, Suspicious, Unauthorized
from streams.rules import retries
from streams.rules.retries import (
    Attempt,
    Done,
    GiveUp,
    Next,
    Park,
    Refetch,
    Resolve,
    RetryAt,
    StopLane,
    Terms,
)

MANIFEST = Manifest("x", "X", (), CreateTier.CLIENT_ID)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def attempt(op: Op = Op.UPDATE, **over: object) -> Attempt:
    given_ = {"number": 1, "first_failed_at": None, "resent": False, "first_sent_at": NOW} | over
    return Attempt(op, **given_)  # type: ignore[arg-type]


def terms(policy: str = "durable", tier: CreateTier = CreateTier.CLIENT_ID, **over: object) -> Terms:
    return Terms(policy, replace(MANIFEST, create_tier=tier, **over), lambda: 0.5)  # type: ignore[arg-type]


def after(outcome: Outcome, *, policy: str = "durable", down_until: datetime | None = None, **over: object) -> Next:
    return retries.after(outcome, attempt(**over), terms=terms(policy), now=NOW, down_until=down_until)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outcome", "resent", "expected"),
    [
        (Delivered("x", 200), False, Done()),
        (Failed(Rejected("rejected", "no", status=422)), True, GiveUp()),
        (Failed(Unauthorized("unauthorized", "no", status=401)), False, StopLane(keep_bytes=False)),
        (Failed(Unauthorized("unauthorized", "no", status=401)), True, StopLane(keep_bytes=True)),
        (Failed(Suspicious("html", "no", status=200)), False, StopLane(keep_bytes=True)),
        (Failed(NotApplied("unreachable", "no")), False, RetryAt(NOW + timedelta(seconds=0.5), keep_bytes=False)),
        (Failed(NotApplied("unreachable", "no")), True, RetryAt(NOW + timedelta(seconds=0.5), keep_bytes=True)),
        (Failed(Ambiguous("timeout", "no")), False, RetryAt(NOW + timedelta(seconds=0.5), keep_bytes=True)),
        (
            Failed(NotApplied("throttled", "no", status=429, retry_after=20)),
            False,
            RetryAt(NOW + timedelta(seconds=21), keep_bytes=False),
        ),
    ],
)
@pytest.mark.covers("F137")
def test_the_class_of_the_error_decides(outcome: Outcome, resent: bool, expected: Next) -> None:
    assert after(outcome, resent=resent) == expected


@pytest.mark.covers("F072", "T7")
def test_the_seed_policy_waits_one_second_doubling_to_five_minutes() -> None:
    waits = [retries.delay_s("seed", attempt, lambda: 0.0) for attempt in range(1, 12)]

    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


@pytest.mark.covers("F075")
def test_the_seed_policy_gives_up_at_the_tenth_attempt() -> None:
    network = Failed(NotApplied("unreachable", "no"))

    assert isinstance(after(network, policy="seed", number=9), RetryAt)
    assert after(network, policy="seed", number=10) == GiveUp()


@pytest.mark.covers("F074", "F076")
def test_the_seed_policy_retries_network_errors_only() -> None:
    assert after(Failed(Ambiguous("server_error", "no", status=500)), policy="seed") == GiveUp()
    assert isinstance(after(Failed(Unauthorized("unauthorized", "no", status=401)), policy="seed"), StopLane)


def test_the_durable_policy_goes_on_for_three_days() -> None:
    down = Failed(NotApplied("unreachable", "no"))

    assert isinstance(after(down, number=99, first_failed_at=NOW - timedelta(hours=75)), RetryAt)
    assert after(down, number=99, first_failed_at=NOW - timedelta(hours=77)) == GiveUp()


@given(st.integers(1, 1000), st.floats(0, 1))
def test_no_wait_is_longer_than_six_hours_or_negative(attempt: int, spread: float) -> None:
    assert 0 <= retries.delay_s("durable", attempt, lambda: spread) <= 6 * 3600


LAG = timedelta(seconds=30)
LOST = Failed(Ambiguous("no_answer", "no answer in time"))
AGAIN = RetryAt(NOW + timedelta(seconds=0.5), keep_bytes=True)


@pytest.mark.parametrize(
    ("tier", "age", "expected"),
    [
        pytest.param(CreateTier.CLIENT_ID, timedelta(days=9), AGAIN, id="the same id meets the same record, always"),
        pytest.param(CreateTier.KEYED, timedelta(hours=11), AGAIN, id="they still know the key"),
        pytest.param(CreateTier.KEYED, timedelta(hours=12), Park(), id="the key may be forgotten: a person decides"),
        pytest.param(CreateTier.SEARCH, timedelta(), Resolve(NOW + LAG, "search"), id="search when it must be visible"),
        pytest.param(CreateTier.NONE, timedelta(), Park(), id="nobody can tell: a person decides"),
    ],
)
@pytest.mark.covers("C21")
def test_a_create_whose_answer_was_lost_is_never_doubled(tier: CreateTier, age: timedelta, expected: Next) -> None:
    lost = attempt(Op.CREATE, first_sent_at=NOW - age)

    assert retries.after(LOST, lost, terms=terms(tier=tier, read_lag=LAG), now=NOW) == expected


@pytest.mark.parametrize("tier", list(CreateTier))
@pytest.mark.parametrize("op", [Op.UPDATE, Op.DELETE])
def test_updates_and_deletes_are_repeated_in_every_tier(tier: CreateTier, op: Op) -> None:
    assert retries.after(LOST, attempt(op), terms=terms(tier=tier), now=NOW) == AGAIN


@pytest.mark.parametrize("tier", list(CreateTier))
def test_a_create_that_surely_was_not_applied_is_built_anew_in_every_tier(tier: CreateTier) -> None:
    refused = Failed(NotApplied("no_connection", "no connection"))

    told = retries.after(refused, attempt(Op.CREATE), terms=terms(tier=tier), now=NOW)

    assert told == RetryAt(NOW + timedelta(seconds=0.5), keep_bytes=False)


@pytest.mark.parametrize(
    ("tier", "expected"),
    [(CreateTier.CLIENT_ID, None), (CreateTier.KEYED, None), (CreateTier.SEARCH, Resolve(NOW + LAG, "search")),
     (CreateTier.NONE, Park())],
)  # fmt: skip
def test_a_create_of_a_dead_worker_is_in_doubt(tier: CreateTier, expected: Next | None) -> None:
    manifest = terms(tier=tier, read_lag=LAG).manifest

    assert retries.left_over(attempt(Op.CREATE, resent=True), manifest=manifest, now=NOW) == expected
    assert retries.left_over(attempt(Op.UPDATE, resent=True), manifest=manifest, now=NOW) is None


def test_a_search_must_find_nothing_twice_before_a_create_is_sent_again() -> None:
    ways = terms(tier=CreateTier.SEARCH, read_lag=LAG)

    first = retries.after_search(None, attempt(Op.CREATE, searches=0), terms=ways, now=NOW)
    second = retries.after_search(None, attempt(Op.CREATE, searches=1), terms=ways, now=NOW)

    assert first == Resolve(NOW + LAG, "search", tries=1)
    assert second == RetryAt(NOW, keep_bytes=False, free=True)


def test_a_search_that_fails_counts_as_none() -> None:
    told = retries.after_search(
        Ambiguous("http_500", "500"), attempt(Op.CREATE, searches=1), terms=terms(tier=CreateTier.SEARCH), now=NOW
    )

    assert told == Resolve(NOW + timedelta(seconds=0.5), "search", tries=1)


def test_what_they_accepted_is_asked_about_until_they_tell() -> None:
    accepted = retries.after(Accepted("/operations/7", 202, 3.0), attempt(), terms=terms(), now=NOW)
    failing = retries.after_check(LOST, "/operations/7", attempt(), terms=terms(), now=NOW)

    assert accepted == Resolve(NOW + timedelta(seconds=3), "check", "/operations/7")
    assert failing == Resolve(NOW + timedelta(seconds=0.5), "check", "/operations/7")
    assert retries.after_check(Delivered("x", 200), "t", attempt(), terms=terms(), now=NOW) == Done()
    assert retries.after_check(Failed(Rejected("r", "r")), "t", attempt(), terms=terms(), now=NOW) == GiveUp()


@pytest.mark.covers("F061")
def test_a_newer_version_there_is_fetched_never_overwritten() -> None:
    assert isinstance(after(Failed(Stale("http_412", "412", status=412))), Refetch)


def test_an_outage_is_no_records_fault() -> None:
    later = NOW + timedelta(seconds=30)
    down = Failed(NotApplied("no_connection", "no connection"))

    told = after(down, number=99, first_failed_at=NOW - timedelta(hours=77), down_until=later)

    assert told == RetryAt(later, keep_bytes=False, free=True)
    assert after(down, policy="seed", number=10, down_until=later) == GiveUp()


def test_a_repeated_create_that_is_refused_stays_in_doubt_where_only_the_key_tells() -> None:
    refused, repeated = Failed(Rejected("http_422", "no", status=422)), attempt(Op.CREATE, resent=True)

    assert retries.after(refused, repeated, terms=terms(tier=CreateTier.KEYED), now=NOW) == Park()
    assert retries.after(refused, repeated, terms=terms(tier=CreateTier.CLIENT_ID), now=NOW) == GiveUp()
