"""What a program may say in one line, and that nothing it says gets further than a refusal."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.contract import ExternalRecord, Op
from schemas.problems import Problem
from streams.rules import bulk_lines

LINE = {"type": "people", "id": "p1", "op": "upsert", "at": "2026-03-01T12:00:00Z", "data": {"first_name": "Ann"}}
CANARY = "canary-41c0"


def read(**changes):
    given = {name: value for name, value in {**LINE, **changes}.items() if value is not ...}
    return bulk_lines.read(orjson.dumps(given))


def test_a_line_says_all_that_an_event_needs():
    line = read(connection="clinic", id=17, version=3, at="2026-03-01T13:00:00+01:00")
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert line.connection == "clinic"
    assert line.record == ExternalRecord("people", "17", Op.UPDATE, at, {"first_name": "Ann"}, "3")


def test_a_delete_needs_no_data():
    line = read(op="delete", data=...)
    assert (line.connection, line.record.op, line.record.payload) == (None, Op.DELETE, {})


@pytest.mark.parametrize(
    "changes",
    [
        {"type": ...}, {"type": ""}, {"type": None}, {"type": ["people"]}, {"type": True}, {"id": ...}, {"id": " "},
        {"id": 1.5}, {"id": "x" * 501}, {"id": "a\u0000b"}, {"op": ...}, {"op": "merge"}, {"op": ["upsert"]},
        {"at": ...},
        {"at": "2026-03-01T12:00:00"}, {"at": 1772366400}, {"at": "yesterday"}, {"at": "0001-01-01T00:00:00+14:00"},
        {"data": ...}, {"data": []}, {"data": None}, {"op": "delete", "data": 7}, {"version": {}}, {"connection": 1.5},
        {CANARY: 1}, {"verison": "3"},
    ],
)  # fmt: skip
def test_what_is_missing_or_unknown_or_of_another_kind_is_refused_without_its_value(changes):
    with pytest.raises(Problem) as raised:
        read(**changes)
    assert raised.value.code == "line_invalid"
    assert CANARY not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe{}", b"7", b"[]", b"null", b'{"id": 1, "id": 2}', b"[" * 10_000, b'{"a":' * 10_000,
     b'{"id": ' + b"9" * 5000 + b"}", b'{"id": NaN}'],
)  # fmt: skip
def test_what_is_no_clear_json_object_is_refused(content):
    with pytest.raises(Problem) as raised:
        bulk_lines.read(content)
    assert raised.value.code == "line_unreadable"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_a_line_or_a_problem(content):
    with contextlib.suppress(Problem):
        assert isinstance(bulk_lines.read(content), bulk_lines.Line)


@given(st.fixed_dictionaries(dict.fromkeys(LINE, JSON)), st.sets(st.sampled_from(sorted(LINE))))
def test_members_of_any_kind_are_a_line_or_a_problem(odd, kept):
    content = {**odd, **{name: LINE[name] for name in kept}}
    with contextlib.suppress(Problem, orjson.JSONEncodeError):
        line = bulk_lines.read(orjson.dumps(content))
        assert line.record.occurred_at.tzinfo is UTC
