"""Which rows of ours belong to a connection: conditions on a canonical row, as people write and as we keep them.

A **condition** is `{"field": column, "op": op, "value": value}`; `is_null` and `not_null` have no value, `in` and
`not_in` a list. A row belongs when all its conditions hold. As in SQL an empty field (None) fulfils `is_null` alone: it
is neither equal to a value nor different from it, so `status!=archived` leaves out rows without a status. Pure.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from math import isfinite
from typing import NotRequired, TypedDict

from schemas.fields import Json
from schemas.problems import Problem

LISTS = frozenset({"in", "not_in"})
NULLS = frozenset({"is_null", "not_null"})
_ORDER: Mapping[str, Callable[[Json, Json], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
OPS = ("eq", "ne", "in", "not_in", "is_null", "not_null", *_ORDER, "starts_with")

_SIGNS = {"=": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_WRITTEN = re.compile(
    r"\s*(?P<field>[a-z][a-z0-9_]*)"
    r"(?:\s+(?P<null>is(?:\s+not)?\s+null)"
    r"|\s+(?P<list>(?:not\s+)?in)\s+(?P<values>.+)"
    r"|\s+starts\s+with\s+(?P<prefix>.+)"
    r"|\s*(?P<sign>!=|<=|>=|=|<|>)\s*(?P<value>.*))\s*",
    re.DOTALL,
)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
_TEXTS = frozenset({"text", "uuid"})
_INTEGERS = frozenset({"integer", "bigint"})
EXAMPLES = "status=active, birth_date<2010-01-01, campus_id in A,B, email is not null, last_name starts with Mac"


class Condition(TypedDict):
    """One condition on a row."""

    field: str
    op: str
    value: NotRequired[Json]


def passes(conditions: Sequence[Mapping[str, Json]], row: Mapping[str, Json]) -> bool:
    """Whether a row (JSON values, times as ISO 8601 text) fulfils all conditions.

    Raises:
        Problem: `filter_invalid` for an op that does not exist: better no push than one too many.
    """
    return all(_holds(each["op"], row.get(each["field"]), each.get("value")) for each in conditions)


def parse(text: str) -> Condition:
    """A condition as a person writes it; all values are text until `check` knows the columns.

    Raises:
        Problem: `filter_invalid`.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise _invalid(f"{text!r} is no condition", f"Write one like: {EXAMPLES}.")
    field = found["field"]
    if null := found["null"]:
        return {"field": field, "op": "not_null" if "not" in null.split() else "is_null"}
    if words := found["list"]:
        values = [each.strip() for each in found["values"].split(",")]
        return {"field": field, "op": "not_in" if words.startswith("not") else "in", "value": [v for v in values if v]}
    if prefix := found["prefix"]:
        return {"field": field, "op": "starts_with", "value": prefix.strip()}
    return {"field": field, "op": _SIGNS[found["sign"]], "value": found["value"].strip()}


def check(conditions: Sequence[Mapping[str, Json]], columns: Mapping[str, str]) -> list[Condition]:
    """The conditions with values of their columns' types.

    Args:
        columns: name of each column of the row -> its SQL type.

    Raises:
        Problem: `filter_invalid`, naming the field, the op and what to write instead.
    """
    return [_checked(each, columns) for each in conditions]


def _holds(op: str, ours: Json, value: Json) -> bool:
    if op not in OPS:
        raise _invalid(f"there is no op {op!r}", f"Use one of {', '.join(OPS)}.")
    if op in NULLS:
        return (ours is None) == (op == "is_null")
    if ours is None:
        return False
    if op in LISTS:
        return any(_equal(ours, each) for each in value) == (op == "in")
    if op in ("eq", "ne"):
        return _equal(ours, value) == (op == "eq")
    if op == "starts_with":
        return isinstance(ours, str) and ours.startswith(value)
    ours, value = _comparable(ours, value)
    same_kind = type(ours) is type(value) or not {type(ours), type(value)} - {int, float}
    return same_kind and _ORDER[op](ours, value)


def _equal(ours: Json, value: Json) -> bool:
    if isinstance(ours, bool) is not isinstance(value, bool):
        return False  # 1 is not true
    ours, value = _comparable(ours, value)
    return bool(ours == value)


def _comparable(ours: Json, value: Json) -> tuple[Json, Json]:
    """Two times as instants: the same one is written in as many ways as there are time zones."""
    instants = _instant(ours), _instant(value)
    return (ours, value) if None in instants else instants


def _instant(value: Json) -> datetime | None:
    if not isinstance(value, str) or not _INSTANT.match(value):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _checked(given: Mapping[str, Json], columns: Mapping[str, str]) -> Condition:
    field, op = given.get("field"), given.get("op")
    if unknown := sorted(set(given) - {"field", "op", "value"}):
        raise _invalid(f"a condition has no {unknown[0]!r}", "Write field, op and value.")
    if not isinstance(field, str) or field not in columns:
        raise _invalid(f"there is no field {field!r}", f"Use one of {', '.join(sorted(columns))}.")
    if op not in OPS:
        raise _invalid(f"{field}: there is no op {op!r}", f"Use one of {', '.join(OPS)}.")
    if op in NULLS:
        if given.get("value") is not None:
            raise _invalid(f"{field}: {op} takes no value", "Leave the value out.")
        return {"field": field, "op": op}
    kind = columns[field]
    if op == "starts_with" and kind not in _TEXTS:
        raise _invalid(f"{field}: starts_with is for text, and this is {kind}", "Use eq, lt, le, gt, ge or in.")
    if op in _ORDER and kind == "boolean":
        raise _invalid(f"{field}: {op} has no meaning for yes and no", "Use eq or ne with true or false.")
    value = given.get("value")
    if op not in LISTS:
        return {"field": field, "op": op, "value": _typed(field, kind, value)}
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise _invalid(f"{field}: {op} takes a list of values", f"Write {field} {op.replace('_', ' ')} A,B.")
    return {"field": field, "op": op, "value": [_typed(field, kind, each) for each in value]}


def _typed(field: str, kind: str, value: Json) -> Json:
    """A value of the column's type, from JSON or from what a person wrote."""
    try:
        typed = _READERS[_family(kind)](value)
    except KeyError:
        raise _invalid(
            f"{field}: a column of type {kind} can only be empty or not", "Use is_null or not_null."
        ) from None
    except (ValueError, OverflowError):
        typed = None
    if typed is None:
        raise _invalid(f"{field}: {value!r} is no value of type {kind}", _HINTS[_family(kind)])
    return typed


def _family(kind: str) -> str:
    if kind in _TEXTS:
        return "text"
    if kind in _INTEGERS:
        return "integer"
    if kind == "double precision" or kind.startswith("numeric"):
        return "number"
    return kind


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: Json) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return int(value)


def _number(value: Json) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    number = float(value)
    if not isfinite(number):
        return None
    return value if isinstance(value, int) else number


def _boolean(value: Json) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def _date(value: Json) -> str | None:
    return date.fromisoformat(value).isoformat() if isinstance(value, str) else None


def _time(value: Json) -> str | None:
    if not isinstance(value, str):
        return None
    at = datetime.fromisoformat(value)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


_READERS: Mapping[str, Callable[[Json], Json]] = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
    "timestamp with time zone": _time,
}
_HINTS = {
    "text": "Write text.",
    "integer": "Write a whole number.",
    "number": "Write a number.",
    "boolean": "Write true or false.",
    "date": "Write a date as 2026-01-31.",
    "timestamp with time zone": "Write a time as 2026-01-31T12:00:00Z.",
}


def _invalid(cause: str, next_step: str) -> Problem:
    return Problem("filter_invalid", cause, next_step)
