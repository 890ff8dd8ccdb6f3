"""What a write changes: tables, and the property that base and delta give back what was sent."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.rules.deltas import delta

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MAIL = "email/email_1"


@pytest.mark.covers("F065", "T6")
@pytest.mark.parametrize(
    ("base", "sent", "changes", "removed"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, [], []),
        ({"a": 1}, {"a": 2}, [{"field": "a", "old": 1, "new": 2}], []),
        ({}, {"a": 1}, [{"field": "a", "new": 1}], []),
        ({"a": 1}, {"a": None}, [{"field": "a", "old": 1, "new": None}], []),
        ({"a": None}, {"a": 0}, [{"field": "a", "old": None, "new": 0}], []),
        ({"a": False}, {"a": 0}, [{"field": "a", "old": False, "new": 0}], []),
        ({"a": 1, "b": None}, {"a": 1}, [], ["b"]),
        ({MAIL: {"address": "x"}}, {}, [], [MAIL]),
        ({MAIL: {"address": "x"}}, {MAIL: None}, [], [MAIL]),
        ({MAIL: None}, {}, [], []),
        ({}, {MAIL: None}, [], []),
        ({MAIL: {"a": 1}}, {MAIL: {"a": 2}}, [{"field": MAIL, "old": {"a": 1}, "new": {"a": 2}}], []),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, [{"field": n, "old": 1, "new": 2} for n in "ab"], []),
    ],
)
def test_only_what_differs_is_named_and_what_is_missing_is_removed(base, sent, changes, removed):
    told = delta(base, sent, version=7, at=AT)
    assert told == {"changes": changes, "removed": removed, "version": 7, "timestamp": "2026-01-02T03:04:05+00:00"}


def test_without_knowing_what_they_held_there_is_no_delta():
    assert delta(None, {"a": 1}, version=1, at=AT) is None


names = st.sampled_from(["a", "b", "c", "email/1", "email/2"])
values = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.text("xy", max_size=2))


def documents():
    def whole(found):
        return {name: ({"v": value} if "/" in name and value is not None else value) for name, value in found.items()}

    return st.dictionaries(names, values).map(whole)


@pytest.mark.covers("F065")
@given(documents(), documents())
def test_the_base_and_the_delta_give_what_was_sent(base, sent):
    told = delta(base, sent, version=1, at=AT)
    assert told is not None
    again = {name: value for name, value in base.items() if name not in told["removed"]}
    again |= {change["field"]: change["new"] for change in told["changes"]}

    def living(document):
        return {name: value for name, value in document.items() if "/" not in name or value is not None}

    assert living(again) == living(sent)
    assert all(change["old"] == base[change["field"]] for change in told["changes"] if "old" in change)
