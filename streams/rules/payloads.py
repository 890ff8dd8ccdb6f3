"""Their payloads made ready for mapping. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from schemas.fields import Aggregate, Document, Json, Part
from schemas.problems import Problem

Times = Mapping[tuple[str, str], str]
"""(entity type, or empty for the root; column) -> `date` or `timestamp`."""


def with_whole_parts(aggregate: Aggregate, payload: Mapping[str, Json]) -> dict[str, Json]:
    """The payload with every item of a part's list whole: a part is one unit, so what an item lacks is empty."""
    whole = dict(payload)
    for part in aggregate.parts:
        top = part.external.partition(".")[0]
        if whole.get(top):
            whole[top] = copy.deepcopy(whole[top])
            items = _at(whole, part.external)
            for item in items if isinstance(items, list) else ():
                _fill(part, item)
    return whole


def _fill(part: Part, item: Any) -> None:
    for field in part.fields:
        place = item
        *parents, leaf = field.external.split(".")
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.setdefault(leaf, None)


def _at(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def check_times(document: Document, times: Times) -> None:
    """Refuse dates and times that are not ISO 8601, and times without a zone.

    Postgres would take `yesterday`, or 01/02/2026 by a setting of its own, and nobody would ever know.

    Raises:
        Problem: `value_refused`, naming the column.
    """
    for key, value in document.items():
        kind, is_part, _ = key.partition("/")
        columns = value if is_part else {key: value}
        for name, held in (columns or {}).items():
            if held is not None and not _is_time(held, times.get((kind if is_part else "", name), "")):
                raise Problem("value_refused", f"{name} holds no date or time in ISO 8601", "Mend the field map.")


def _is_time(value: Json, kind: str) -> bool:
    if not kind:
        return True
    try:
        return date.fromisoformat(value) is not None if kind == "date" else _has_zone(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return False


def _has_zone(value: datetime) -> bool:
    return value.tzinfo is not None
