"""When a window is swept, and as what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.rules.sweeps import PATIENCE, Window, next_step

NOTED = datetime(2026, 1, 1, tzinfo=UTC)
INTERVAL = timedelta(seconds=15)


def step(age_s: float, *, blind: bool = False, arrived: bool = False, captured: bool = True) -> str:
    window = Window(NOTED, blind, arrived)
    return next_step(window, captured=captured, now=NOTED + timedelta(seconds=age_s), interval=INTERVAL)


@pytest.mark.parametrize(
    ("age_s", "arrived", "expected"),
    [
        (0, True, "wait"),
        (14.9, True, "wait"),
        (15, True, "cdc_missed"),
        (15, False, "wait"),
        (59, False, "wait"),
        (60, False, "swept_behind"),
        (600, True, "cdc_missed"),
    ],
)
def test_capture_has_its_time(age_s: float, arrived: bool, expected: str) -> None:
    assert step(age_s, arrived=arrived) == expected


def test_the_first_thing_is_to_note_a_window() -> None:
    assert next_step(None, captured=True, now=NOTED, interval=INTERVAL) == "note"
    assert next_step(None, captured=False, now=NOTED, interval=INTERVAL) == "note"


@given(st.floats(0, 1e6), st.booleans())
def test_nothing_waits_for_capture_that_is_not_there(age_s: float, arrived: bool) -> None:
    assert step(age_s, arrived=arrived, captured=False) == "swept_without_capture"
    assert step(age_s, arrived=arrived, blind=True) == "swept_without_capture"


@given(st.booleans(), st.booleans(), st.booleans())
def test_no_window_waits_for_ever(blind: bool, arrived: bool, captured: bool) -> None:
    age_s = PATIENCE * INTERVAL.total_seconds()
    assert step(age_s, blind=blind, arrived=arrived, captured=captured) not in ("wait", "note")
