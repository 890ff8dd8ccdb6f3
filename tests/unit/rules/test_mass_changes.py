"""The bounds of the guard against mass changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.rules import mass_changes


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_every_moment_is_in_one_window(now: datetime) -> None:
    start = mass_changes.window(now)

    assert start <= now < start + mass_changes.WINDOW
    assert mass_changes.window(start) == start
    assert mass_changes.window(start + mass_changes.WINDOW - timedelta(microseconds=1)) == start


@pytest.mark.parametrize(
    ("kind", "chosen", "measured", "expected"),
    [
        ("deletes", {}, 0, 20),
        ("deletes", {}, 5000, 20),
        ("updates", {}, 0, 10_000),
        ("updates", {}, 8_000, 16_000),
        ("their_deletes", {}, 900, 20),
        ("their_deletes", {}, 100_000, 2_000),
        ("their_deletes", {"their_deletes": 3}, 100_000, 3),
        ("deletes", {"deletes": 3}, 0, 3),
        ("updates", {"updates": None}, 8_000, None),
    ],
)
def test_deletes_have_a_fixed_bound_and_updates_a_learned_one(
    kind: mass_changes.Kind, chosen: dict[str, int | None], measured: int, expected: int | None
) -> None:
    assert mass_changes.bound(kind, chosen, measured) == expected


def test_the_record_that_passes_the_bound_is_not_admitted() -> None:
    assert mass_changes.admits(20, 19, 1)
    assert not mass_changes.admits(20, 20, 1)
    assert mass_changes.admits(None, 10**9, 1)
