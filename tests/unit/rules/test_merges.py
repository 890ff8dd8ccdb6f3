from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from streams.rules.merges import Alias, Step, decide, stands_for

AT = datetime(2026, 3, 1, tzinfo=UTC)
EARLIER, LATER = AT - timedelta(seconds=1), AT + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("old", "left", "known", "linked", "step"),
    [
        ("x1", "x2", None, (False, False), Step.NOTE),
        ("x1", "x2", None, (False, True), Step.NOTE),
        ("x1", "x2", None, (True, False), Step.RELINK),
        ("x1", "x2", None, (True, True), Step.ASK),
        ("x1", "x1", None, (True, True), Step.CIRCULAR),
        ("x1", "x2", Alias("x2", EARLIER), (False, True), Step.KNOWN),
        ("x1", "x2", Alias("x3", LATER), (False, True), Step.KNOWN),
        ("x1", "x2", Alias("x3", EARLIER), (False, True), Step.NOTE),
    ],
)
def test_a_merge_is_applied_once_and_only_where_it_leads_somewhere(old, left, known, linked, step):
    assert decide(old, left, AT, known, old_is_linked=linked[0], left_is_linked=linked[1]) is step


@pytest.mark.parametrize(
    ("alias", "at", "deleted", "theirs"),
    [
        (Alias("x2", AT), LATER, False, "x2"),
        (Alias("x2", AT), AT, False, None),
        (Alias("x2", AT), EARLIER, False, None),
        (Alias("x2", AT), LATER, True, None),
        (None, AT, False, None),
    ],
)
def test_an_old_id_stands_for_the_other_after_the_merge_and_is_never_deleted(alias, at, deleted, theirs):
    assert stands_for(alias, at, deleted=deleted) == theirs
