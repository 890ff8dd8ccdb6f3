"""When a poll reads all there is although it need not."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.rules.full_readings import JITTER, due, jitter

NOW = datetime(2026, 3, 2, 3, tzinfo=UTC)
DAY, NEVER = timedelta(days=1), timedelta()


@pytest.mark.covers("R20")
@pytest.mark.parametrize(
    ("hours", "every", "share", "failures", "expected"),
    [
        (None, DAY, 0.5, 0, True),
        (None, NEVER, 0.5, 0, False),
        (None, DAY, 0.5, 1, False),
        (24, DAY, 0.5, 0, True),
        (23.9, DAY, 0.5, 0, False),
        (21.6, DAY, 0.0, 0, True),
        (21.5, DAY, 0.0, 0, False),
        (26.3, DAY, 1.0, 0, False),
        (26.4, DAY, 1.0, 0, True),
        (1000, NEVER, 0.5, 0, False),
        (1000, DAY, 0.5, 1, False),  # after a failure what changed comes first
        (-5, DAY, 0.5, 0, False),
    ],
)
def test_a_full_reading_is_due_once_in_the_time_that_was_chosen(hours, every, share, failures, expected):
    last = None if hours is None else NOW - timedelta(hours=hours)
    assert due(NOW, last, every, share, failures=failures) is expected


@given(st.text(), st.text(), st.text(), st.none() | st.datetimes(timezones=st.just(UTC)))
def test_the_jitter_is_a_share_that_stays_until_the_next_full_reading(org, connection, kind, last):
    share = jitter(org, connection, kind, last)
    assert 0 <= share <= 1
    assert jitter(org, connection, kind, last) == share


def test_types_that_were_read_in_full_at_once_drift_apart():
    times = sorted(DAY * (1 + JITTER * (2 * jitter("org", f"c{n}", "people", NOW) - 1)) for n in range(200))
    assert timedelta(hours=21.6) <= times[0] < times[-1] <= timedelta(hours=26.4)
    assert max(later - sooner for sooner, later in itertools.pairwise(times)) < timedelta(minutes=30)
