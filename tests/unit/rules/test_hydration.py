"""What follows a read of a single record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import Ambiguous, NotApplied, Rejected, Stale, Suspicious, Unauthorized
from streams.rules import hydration as rules
from streams.rules.hydration import Again, Found, GiveUp, Gone, Stop, Tries

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NO_LAG = timedelta()


def s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


@pytest.mark.covers("C16", "F131")
@pytest.mark.parametrize(
    ("found", "missed_at", "read_lag", "expected"),
    [
        (True, None, NO_LAG, Found()),
        (True, NOW - s(60), NO_LAG, Found()),
        (False, None, NO_LAG, Again(NOW + s(5), Tries(missed_at=NOW))),
        (False, None, s(30), Again(NOW + s(30), Tries(missed_at=NOW))),
        (False, NOW - s(4), NO_LAG, Again(NOW + s(1), Tries(missed_at=NOW - s(4)))),
        (False, NOW - s(5), NO_LAG, Gone(NOW - s(5))),
        (False, NOW - s(29), s(30), Again(NOW + s(1), Tries(missed_at=NOW - s(29)))),
        (False, NOW - s(31), s(30), Gone(NOW - s(31))),
    ],
)
def test_a_record_is_gone_when_it_is_missing_twice_with_their_lag_between(found, missed_at, read_lag, expected):
    tries = Tries(failures=3, first_failed_at=NOW - s(99), missed_at=missed_at)
    assert rules.after_answer(found=found, tries=tries, read_lag=read_lag, now=NOW) == expected


@given(
    answers=st.lists(st.tuples(st.booleans(), st.floats(0, 100)), min_size=1, max_size=8),
    lag=st.floats(0, 60),
)
def test_gone_is_never_said_of_a_record_that_was_there_since_the_first_miss(answers, lag):
    tries, now, missing_since = Tries(), NOW, None
    for found, passes in answers:
        now += s(passes)
        follows = rules.after_answer(found=found, tries=tries, read_lag=s(lag), now=now)
        missing_since = None if found else missing_since or now
        match follows:
            case Gone(at):
                assert at == missing_since
                assert now - at >= max(s(lag), rules.CONFIRM_AFTER)
                return
            case Again(at, tries):
                assert at >= now
                assert tries.missed_at == missing_since
            case _:
                assert found
                tries = Tries()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Unauthorized("http_401", "no", status=401), Stop()),
        (Suspicious("html_answer", "a page"), Stop()),
        (Rejected("http_422", "no", status=422), GiveUp()),
        (Ambiguous("http_500", "no", status=500), Again(NOW + s(0.5), Tries(1, NOW, NOW - s(9)))),
        (Stale("http_412", "no", status=412), Again(NOW + s(0.5), Tries(1, NOW, NOW - s(9)))),
        (NotApplied("http_429", "no", status=429, retry_after=40), Again(NOW + s(42), Tries(1, NOW, NOW - s(9)))),
    ],
)
def test_what_follows_a_failure(error, expected):
    tries = Tries(missed_at=NOW - s(9))
    assert rules.after_failure(error, tries, policy="durable", spread=lambda: 0.5, now=NOW) == expected


def test_a_system_that_is_down_is_no_records_fault():
    error, tries = Ambiguous("http_500", "no", status=500), Tries(4, NOW - timedelta(days=9))
    follows = rules.after_failure(error, tries, policy="durable", spread=lambda: 0.5, now=NOW, down_until=NOW + s(10))
    assert follows == Again(NOW + s(10), tries)
    assert rules.after_failure(error, tries, policy="durable", spread=lambda: 0.5, now=NOW) == GiveUp()


@pytest.mark.parametrize(
    ("pending", "polled", "failures", "expected"),
    [(51, True, 0, True), (50, True, 0, False), (5000, False, 0, False), (5000, True, 1, False)],
)
def test_many_reads_of_a_polled_type_are_one_poll(pending, polled, failures, expected):
    assert rules.by_poll(pending, polled=polled, failures=failures) is expected


def test_polls_for_reads_keep_their_distance():
    assert rules.poll_is_due(None, NOW)
    assert not rules.poll_is_due(NOW - s(4.9), NOW)
    assert rules.poll_is_due(NOW - s(5), NOW)
