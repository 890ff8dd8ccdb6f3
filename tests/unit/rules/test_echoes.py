"""When a row may say where it came from."""

from __future__ import annotations

import pytest

from streams.rules import echoes
from streams.rules.sides import Decision, Kind


@pytest.mark.parametrize(
    ("result", "base", "intent_open", "origin"),
    [
        ({"a": 1}, {"a": 1}, False, "parish"),
        ({"a": 1}, {"a": 1, "theirs_only": 2}, False, "parish"),
        ({"a": 1}, {"a": 2}, False, "local"),  # we kept a value of our own
        ({"a": 1, "b": 2}, {"a": 1}, False, "local"),  # they never said what b is
        ({"a": 1, "b": None}, {"a": 1}, False, "parish"),  # nor is it anything here
        ({"a": 1, "b": None}, {"a": 1, "b": 2}, False, "local"),  # we emptied it
        ({"a": 1, "email/1": {"address": "x"}}, {"a": 1}, False, "local"),  # a part they lack
        ({"a": 1}, {"a": 1, "email/1": {"address": "x"}}, False, "local"),  # a part we removed
        ({"a": 1}, {"a": 1}, True, "local"),  # a push is on its way, with who knows which state
    ],
)
def test_a_row_is_theirs_only_when_they_hold_all_of_it(result, base, intent_open, origin):
    assert echoes.origin("parish", echoes.unheld(result, base), intent_open=intent_open) == origin


@pytest.mark.parametrize(
    ("decision", "entry"),
    [
        (Decision(Kind.TAKE, "new"), "applied"),
        (Decision(Kind.MERGE, "newer_there"), "merged"),
        (Decision(Kind.KEEP, "same"), "echo"),
        (Decision(Kind.KEEP, "last_write"), "kept"),
        (Decision(Kind.KEEP, "delete_ignored"), "ignored"),
        (Decision(Kind.DROP, "stale"), "stale"),
        (Decision(Kind.ASK, "manual"), "parked"),
    ],
)
def test_the_ledger_says_what_became_of_an_event(decision, entry):
    assert echoes.ledger_entry(decision) == entry
