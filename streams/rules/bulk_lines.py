"""One line of `POST /v1/events`: an event that a program brings itself. Pure.

    {"connection"?, "type", "id", "op": "upsert" | "delete", "at", "version"?, "data"}

`type` and `id` are theirs, `at` is when it happened over there, `data` the whole record as the system would tell it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from connectors import strict_json
from connectors.contract import ExternalRecord, Op
from schemas.problems import Problem

MEMBERS = frozenset({"connection", "type", "id", "op", "at", "version", "data"})
OPS = {"upsert": Op.UPDATE, "delete": Op.DELETE}
LONGEST_TEXT = 500
EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Line:
    """What a line says; `connection` is None where it names none."""

    connection: str | None
    record: ExternalRecord


def read(content: bytes) -> Line:
    """One line.

    Raises:
        Problem: `line_unreadable` for what is no JSON object or leaves something open (a key twice, nesting without
            end), `line_invalid` for a member that is missing, unknown or of the wrong kind. Neither repeats a value.
    """
    try:
        strict_json.check(content)
        given = orjson.loads(content)
    except Problem as problem:
        raise Problem("line_unreadable", problem.cause) from None
    except orjson.JSONDecodeError:
        raise Problem("line_unreadable", "the line is no JSON in UTF-8") from None
    if not isinstance(given, dict):
        raise Problem("line_unreadable", "the line is no JSON object")
    if unknown := given.keys() - MEMBERS:
        raise _invalid(f"it has {len(unknown)} unknown members; there are {', '.join(sorted(MEMBERS))}")
    op = given.get("op")
    if not isinstance(op, str) or op not in OPS:
        raise _invalid("`op` is neither upsert nor delete")
    version = given.get("version")
    record = ExternalRecord(
        external_type=_text(given, "type"),
        external_id=_text(given, "id"),
        op=OPS[op],
        occurred_at=_time(given.get("at")),
        payload=_data(given, OPS[op]),
        external_version=None if version is None else _text(given, "version"),
    )
    return Line(None if given.get("connection") is None else _text(given, "connection"), record)


def _text(given: Mapping[str, Any], name: str) -> str:
    """A text, or an integer as one: many systems number their records."""
    value = given.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise _invalid(f"`{name}` is neither a text nor an integer")
    if len(value) > LONGEST_TEXT or not value.isprintable():
        raise _invalid(f"`{name}` is longer than {LONGEST_TEXT} characters, or has some that cannot be printed")
    return value


def _time(value: Any) -> datetime:
    try:
        at = datetime.fromisoformat(value).astimezone(UTC) if _has_offset(value) else None
    except (TypeError, ValueError, OverflowError):
        at = None
    if at is None or at < EARLIEST:
        raise _invalid("`at` is no time with an offset, such as 2026-03-01T12:00:00Z")
    return at


def _has_offset(value: Any) -> bool:
    return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None


def _data(given: Mapping[str, Any], op: Op) -> Mapping[str, Any]:
    data = given.get("data")
    if data is None and op is Op.DELETE:
        return {}
    if not isinstance(data, dict):
        raise _invalid("`data` is no object")
    return data


def _invalid(why: str) -> Problem:
    return Problem("line_invalid", why)
