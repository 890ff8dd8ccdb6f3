"""How far their clock is from ours, from the Date of an answer."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.contract import Manifest
from streams.rules.clock_errors import LONGEST, measure, overlap, read_through

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@given(
    skew=st.integers(-3_600_000, 3_600_000),
    start=st.integers(0, 999_999),
    there=st.integers(0, 2_000_000),
    back=st.integers(0, 2_000_000),
)
@pytest.mark.covers("F142")
def test_the_error_told_is_never_smaller_than_the_error_there_is_unless_none_is_told(skew, start, there, back):
    """Whatever the way there and back took, and wherever in a second it was; times are in µs, the skew in ms."""
    sent_at = NOW + timedelta(microseconds=start)
    read_at = sent_at + timedelta(microseconds=there)
    error = timedelta(milliseconds=skew)
    date = (read_at + error).replace(microsecond=0)
    told = measure(date, sent_at, read_at + timedelta(microseconds=back))
    doubt = timedelta(microseconds=there + back + 1_000_000)
    if told.error:
        assert abs(error) <= told.error <= abs(error) + doubt
        assert abs(told.ahead - error) <= doubt / 2
    else:
        assert abs(error) <= doubt


def test_clocks_that_agree_have_no_error_however_slow_the_answer():
    told = measure(NOW, NOW, NOW + timedelta(seconds=30))
    assert told.error == told.ahead == timedelta()


def test_a_date_of_another_age_is_cut():
    told = measure(datetime(1970, 1, 1, tzinfo=UTC), NOW, NOW)
    assert (told.ahead, told.error) == (-LONGEST, LONGEST)


@pytest.mark.covers("R20")
@pytest.mark.parametrize(
    ("least_s", "error_s", "seconds"),
    [(300, 0, 300), (300, 10, 300), (300, 150, 300), (300, 151, 302), (300, 3600, 7200), (5, 0, 5), (5, 10, 20)],
)
def test_the_overlap_of_a_poll_is_twice_the_error_but_never_less_than_asked_for(least_s, error_s, seconds):
    assert overlap(timedelta(seconds=least_s), timedelta(seconds=error_s)) == timedelta(seconds=seconds)


def test_a_manifest_that_says_nothing_asks_for_five_minutes():
    fields = {each.name: each.default for each in dataclasses.fields(Manifest)}
    assert fields["poll_overlap"] == timedelta(minutes=5)


def at(hour: int | None) -> datetime | None:
    return None if hour is None else NOW.replace(hour=hour)


@pytest.mark.covers("R20")
@pytest.mark.parametrize(
    ("date", "newest", "began", "through"),
    [
        (10, 9, 12, 10),  # nothing happened there lately
        (10, None, 12, 10),  # or ever
        (10, 11, 12, 10),  # or it went on while we read
        (13, 9, 12, 12),  # their clock is ahead
        (None, 9, 12, 9),
        (None, 13, 12, 12),
        (None, None, 12, None),
    ],
)
def test_a_poll_has_read_up_to_when_it_began_by_their_clock(date, newest, began, through):
    assert read_through(at(date), at(newest), at(began)) == at(through)
