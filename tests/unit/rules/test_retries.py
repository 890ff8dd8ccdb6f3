"""What follows an attempt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.contract import Delivered, Failed, Outcome
from connectors.errors import Ambiguous, NotApplied, Rejected, Suspicious, Unauthorized
from streams.rules import retries
from streams.rules.retries import Done, GiveUp, Next, RetryAt, StopLane

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def after(outcome: Outcome, *, policy: str = "durable", attempt: int = 1, **over: object) -> Next:
    given_ = {"first_failed_at": None, "resent": False, "now": NOW, "spread": lambda: 0.5} | over
    return retries.after(outcome, policy=policy, attempt=attempt, **given_)  # type: ignore[arg-type]


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

    assert isinstance(after(network, policy="seed", attempt=9), RetryAt)
    assert after(network, policy="seed", attempt=10) == GiveUp()


@pytest.mark.covers("F074", "F076")
def test_the_seed_policy_retries_network_errors_only() -> None:
    assert after(Failed(Ambiguous("server_error", "no", status=500)), policy="seed") == GiveUp()
    assert isinstance(after(Failed(Unauthorized("unauthorized", "no", status=401)), policy="seed"), StopLane)


def test_the_durable_policy_goes_on_for_three_days() -> None:
    down = Failed(NotApplied("unreachable", "no"))

    assert isinstance(after(down, attempt=99, first_failed_at=NOW - timedelta(hours=75)), RetryAt)
    assert after(down, attempt=99, first_failed_at=NOW - timedelta(hours=77)) == GiveUp()


@given(st.integers(1, 1000), st.floats(0, 1))
def test_no_wait_is_longer_than_six_hours_or_negative(attempt: int, spread: float) -> None:
    assert 0 <= retries.delay_s("durable", attempt, lambda: spread) <= 6 * 3600
