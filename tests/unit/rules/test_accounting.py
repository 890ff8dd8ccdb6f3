"""The books: whatever is nowhere shows as a difference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.rules.accounting import Routes, Wishes, differences
from streams.rules.routing import Verdict

count = st.integers(0, 1000)


@pytest.mark.covers("R25")
@given(count, count, count, count, count, count, st.integers(-3, 3), st.integers(-3, 3))
def test_what_is_missing_is_told_to_the_piece(planned, excluded, confirmed, pending, parked, dead, lost, astray):
    routes = Routes(planned + excluded + lost, planned, excluded)
    wished = confirmed + pending + parked + dead + astray
    told = differences(routes, Wishes(wished, confirmed, pending, parked, dead))

    assert told == {"routes": lost, "raised": max(0, planned - wished), "wishes": astray}


@pytest.mark.covers("R25")
def test_every_verdict_of_routing_counts_as_planned_or_excluded():
    verdicts = {verdict.value: 1 for verdict in Verdict}
    routes = Routes.of(verdicts | {"seen": len(verdicts)})

    assert differences(routes, Wishes(wished=2, confirmed=2)) == {"routes": 0, "raised": 0, "wishes": 0}


def test_a_verdict_that_is_none_of_ours_is_a_difference():
    assert differences(Routes.of({"seen": 3, "push": 1, "lost": 2}), Wishes(1, 1))["routes"] == 2
