"""When a system may be called."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.contract import Delivered, Failed, Outcome
from connectors.errors import Ambiguous, NotApplied, Rejected
from streams.rules.breakers import OPEN_AFTER, OPEN_CAP_S, Breaker

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DOWN = Failed(NotApplied("no_connection", "no connection"))
GOOD = Delivered("x", 200)


def after(*outcomes: Outcome) -> Breaker:
    breaker = Breaker()
    for outcome in outcomes:
        breaker.note(outcome, NOW, NOW)
    return breaker


def test_two_failures_leave_it_closed_and_the_third_opens_it() -> None:
    assert after(DOWN, DOWN).room(NOW, 0, 5) == 5
    assert after(DOWN, DOWN, DOWN).room(NOW, 0, 5) == 0


def test_half_open_lets_one_call_probe() -> None:
    breaker = after(DOWN, DOWN, DOWN)
    later = NOW + timedelta(seconds=2)

    assert (breaker.room(later, 0, 5), breaker.room(later, 1, 5)) == (1, 0)
    breaker.note(GOOD, later, later)
    assert breaker.room(later, 0, 5) == 5


@pytest.mark.parametrize("good", [GOOD, Failed(Rejected("http_422", "no", status=422))])
def test_a_refused_record_shows_that_the_system_is_up(good: Outcome) -> None:
    assert not after(DOWN, DOWN, good, DOWN).is_open


def test_a_wish_for_later_is_kept_and_is_no_failure() -> None:
    throttled = Failed(NotApplied("http_429", "429", status=429, retry_after=20))
    breaker = after(throttled, throttled, throttled)

    assert breaker.room(NOW + timedelta(seconds=19), 0, 5) == 0
    assert breaker.room(NOW + timedelta(seconds=20), 0, 5) == 5
    assert not breaker.is_open


@given(st.integers(OPEN_AFTER, 500), st.sampled_from([DOWN, Failed(Ambiguous("http_500", "500", status=500))]))
def test_a_system_that_is_down_is_asked_again_within_the_cap(failures: int, down: Outcome) -> None:
    breaker = after(*[down] * failures)

    assert breaker.room(NOW + timedelta(seconds=OPEN_CAP_S), 0, 64) == 1


def test_calls_that_hung_while_others_were_answered_do_not_open_it() -> None:
    hung = Failed(Ambiguous("no_answer", "no answer in time"))
    breaker, sent_at, now = Breaker(), NOW, NOW + timedelta(seconds=30)
    breaker.note(GOOD, sent_at, now - timedelta(seconds=1))
    for _ in range(20):
        breaker.note(hung, sent_at, now)
    assert breaker.room(now, 0, 64) == 64

    for _ in range(3):  # and these were sent after the last good answer
        breaker.note(hung, now, now + timedelta(seconds=30))
    assert breaker.is_open
