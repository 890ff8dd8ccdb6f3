"""When a value that comes back after every push is put to a person."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from streams.rules import alternation, conflicts
from streams.rules.alternation import SWINGS
from streams.rules.sides import Agreed, Kind, Ours, Policy, Terms, Theirs

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OURS = Ours({"name": "Ann", "city": "Bonn"}, NOW)
THEIRS = Theirs({"name": "ANN", "city": "Ulm"}, NOW, NOW)
AGREED = Agreed({"name": "Ann", "city": "Bonn"})


def decided(times: int, theirs: Theirs = THEIRS, policy: Policy = Policy.LWW):
    change = {"field": "name", "old": "ANN", "new": "Ann"}
    decision = conflicts.decide(OURS, theirs, AGREED, Terms(policy))
    return alternation.stop(decision, OURS, theirs, AGREED, alternation.pushed([change] * times))


@pytest.mark.covers("R9")
@pytest.mark.parametrize("policy", [Policy.LWW, Policy.LOCAL, Policy.REMOTE])
def test_the_field_is_put_to_a_person_and_the_others_go_on(policy):
    decision = decided(SWINGS, policy=policy)
    assert decision.kind is Kind.ASK
    assert [(q.field, q.ours, q.theirs, q.rule) for q in decision.questions] == [("name", "Ann", "ANN", "alternating")]
    assert decision.write == {"city": "Ulm"}
    assert not decision.remote_needs_correction
    assert decision.losers == ()


def test_a_few_times_may_be_people():
    assert decided(SWINGS - 1) == conflicts.decide(OURS, THEIRS, AGREED, Terms())


def test_another_value_is_no_alternation():
    assert decided(SWINGS, Theirs({"name": "Anna"}, NOW, NOW)).questions == ()


def test_a_change_without_a_known_old_value_counts_for_nothing():
    assert not alternation.pushed([{"field": "name", "new": "Ann"}])
