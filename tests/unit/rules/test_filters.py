"""Conditions on a row: what holds, how they are written, which are refused."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.problems import Problem
from streams.rules import filters
from streams.rules.filters import check, parse, passes

COLUMNS = {
    "status": "text",
    "age": "integer",
    "amount": "numeric(10,2)",
    "is_primary": "boolean",
    "birth_date": "date",
    "modified_at": "timestamp with time zone",
    "custom": "jsonb",
}
ROW = {
    "status": "active",
    "age": 18,
    "amount": 10.5,
    "is_primary": True,
    "birth_date": "2010-05-01",
    "modified_at": "2026-01-01T13:00:00+01:00",
    "custom": {},
}


@pytest.mark.parametrize(
    ("written", "holds"),
    [
        ("status=active", True), ("status = active", True), ("status=Active", False), ("status!=active", False),
        ("status!=gone", True), ("status in gone, active", True), ("status not in gone,active", False),
        ("status starts with act", True), ("status starts with Act", False), ("status is null", False),
        ("status is not null", True), ("status<b", True), ("age>=18", True), ("age>18", False), ("age<9", False),
        ("age in 17,18", True), ("amount=10.50", True), ("amount<=10", False), ("is_primary=true", True),
        ("is_primary!=TRUE", False), ("birth_date<2010-10-01", True), ("birth_date=2010-05-01", True),
        ("modified_at=2026-01-01T12:00:00Z", True), ("modified_at>2026-01-01T12:30:00Z", False),
        ("modified_at>2026-01-01", True), ("custom is not null", True),
    ],
)  # fmt: skip
def test_a_condition_on_a_row(written: str, holds: bool) -> None:
    assert passes(check([parse(written)], COLUMNS), ROW) is holds


@pytest.mark.parametrize("op", filters.OPS)
@pytest.mark.parametrize("row", [{}, {"status": None}], ids=["absent", "empty"])
def test_an_empty_field_fulfils_is_null_alone(op: str, row: dict[str, None]) -> None:
    value = ["gone"] if op in filters.LISTS else "gone"
    assert passes([{"field": "status", "op": op, "value": value}], row) is (op == "is_null")


def test_all_conditions_must_hold_and_none_is_always_fulfilled() -> None:
    adult, active = parse("age>=18"), parse("status=active")
    checked = check([adult, active], COLUMNS)
    assert passes(checked, ROW)
    assert not passes(checked, {**ROW, "age": 3})
    assert not passes(checked, {**ROW, "status": "gone"})
    assert passes([], {})


def test_values_of_different_kinds_are_neither_equal_nor_in_order() -> None:
    assert not passes([{"field": "age", "op": "eq", "value": 1}], {"age": True})
    assert not passes([{"field": "age", "op": "lt", "value": "9"}], {"age": 5})
    assert not passes([{"field": "age", "op": "gt", "value": 0}], {"age": True})
    assert not passes([{"field": "age", "op": "starts_with", "value": "1"}], {"age": 18})


@given(ours=st.integers() | st.floats(allow_nan=False), value=st.integers() | st.floats(allow_nan=False))
def test_numbers_are_in_their_order(ours: float, value: float) -> None:
    for op, holds in {"lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge}.items():
        assert passes([{"field": "age", "op": op, "value": value}], {"age": ours}) == holds(ours, value)


@given(op=st.sampled_from(["eq", "in", "lt", "le"]), ours=st.text(), value=st.text())
def test_a_condition_or_its_opposite_holds(op: str, ours: str, value: str) -> None:
    opposite = {"eq": "ne", "in": "not_in", "lt": "ge", "le": "gt"}[op]
    given = [value] if op == "in" else value
    row = {"status": ours}
    holds = passes([{"field": "status", "op": op, "value": given}], row)
    assert passes([{"field": "status", "op": opposite, "value": given}], row) is not holds


@pytest.mark.parametrize(
    ("condition", "named"),
    [
        ({"field": "color", "op": "eq", "value": "red"}, "'color'"),
        ({"field": ["status"], "op": "eq", "value": "red"}, "status"),
        ({"op": "eq", "value": "red"}, "None"),
        ({"field": "status", "op": "like", "value": "a%"}, "'like'"),
        ({"field": "status", "op": ["eq"], "value": "a"}, "eq"),
        ({"field": "status", "op": "is_null", "value": "a"}, "is_null"),
        ({"field": "status", "op": "in", "value": "active"}, "list"),
        ({"field": "status", "op": "in", "value": []}, "list"),
        ({"field": "status", "op": "in", "value": [None]}, "None"),
        ({"field": "status", "op": "eq", "value": 5}, "text"),
        ({"field": "status", "op": "eq"}, "None"),
        ({"field": "status", "op": "eq", "value": "a", "or": "b"}, "'or'"),
        ({"field": "age", "op": "starts_with", "value": "1"}, "starts_with"),
        ({"field": "age", "op": "eq", "value": "many"}, "'many'"),
        ({"field": "age", "op": "eq", "value": True}, "True"),
        ({"field": "amount", "op": "lt", "value": "nan"}, "'nan'"),
        ({"field": "amount", "op": "lt", "value": []}, "[]"),
        ({"field": "is_primary", "op": "gt", "value": True}, "is_primary"),
        ({"field": "is_primary", "op": "eq", "value": "maybe"}, "'maybe'"),
        ({"field": "birth_date", "op": "lt", "value": "2010-13-01"}, "date"),
        ({"field": "modified_at", "op": "lt", "value": "noon"}, "'noon'"),
        ({"field": "custom", "op": "eq", "value": "{}"}, "jsonb"),
    ],
)
def test_what_cannot_be_a_condition_is_refused_by_name(condition: dict[str, object], named: str) -> None:
    with pytest.raises(Problem) as caught:
        check([condition], COLUMNS)
    assert caught.value.code == "filter_invalid"
    assert named in caught.value.cause
    assert caught.value.next_step


@pytest.mark.parametrize("written", ["", "status", "=active", "status like a", "STATUS=a", "status in", "a b=c"])
def test_what_nobody_can_read(written: str) -> None:
    with pytest.raises(Problem) as caught:
        parse(written)
    assert caught.value.code == "filter_invalid"


def test_an_op_that_does_not_exist_lets_nothing_through() -> None:
    with pytest.raises(Problem):
        passes([{"field": "status", "op": "like", "value": "a%"}], ROW)


@given(st.text())
def test_whatever_is_written_is_read_or_refused(written: str) -> None:
    try:
        condition = parse(written)
    except Problem:
        return
    assert condition["op"] in filters.OPS
