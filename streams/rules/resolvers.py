"""Values made of two that differ, for the policy `merge` (F056). Pure.

A resolver is asked only for a field that both sides changed and that is empty on neither. What it makes may be neither
of the two; it is then written here and there, and both are kept as losers. One that raises decides nothing: a person is
asked. `BUILT_IN` are ours; others come with entry points, see `streams.merging`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson

from schemas.fields import Json

Resolver = Callable[[str, Json, Json, datetime, datetime], Json]
"""(field or part key, ours, theirs, when ours was written, when theirs was) -> the value both get."""

DEFAULT = "newest"


def newest(_: str, ours: Json, theirs: Json, ours_at: datetime, theirs_at: datetime) -> Json:
    """The value that was written later; theirs, when both were at once."""
    return ours if ours_at > theirs_at else theirs


def longest(field: str, ours: Json, theirs: Json, ours_at: datetime, theirs_at: datetime) -> Json:
    """The longer text or list; the newer of equally long ones."""
    if len(ours) == len(theirs):
        return newest(field, ours, theirs, ours_at, theirs_at)
    return ours if len(ours) > len(theirs) else theirs


def largest(_: str, ours: Json, theirs: Json, *_times: datetime) -> Json:
    """The larger number, the later date, the text that sorts last."""
    return max(_comparable(ours, theirs))


def smallest(_: str, ours: Json, theirs: Json, *_times: datetime) -> Json:
    """The smaller number, the earlier date, the text that sorts first."""
    return min(_comparable(ours, theirs))


def union(_: str, ours: Json, theirs: Json, *_times: datetime) -> Json:
    """The items of both lists, each once."""
    if not (isinstance(ours, list) and isinstance(theirs, list)):
        raise TypeError("only lists have a union")
    return ours + [item for item in theirs if item not in ours]


def concat(_: str, ours: Json, theirs: Json, *_times: datetime) -> Json:
    """The lines of both texts, each once."""
    lines = ours.splitlines() + theirs.splitlines()
    return "\n".join(dict.fromkeys(lines))


BUILT_IN: Mapping[str, Resolver] = {
    "newest": newest,
    "longest": longest,
    "max": largest,
    "min": smallest,
    "union": union,
    "concat": concat,
}


def resolve(
    resolver: Resolver, field: str, ours: Json, theirs: Json, ours_at: datetime, theirs_at: datetime
) -> tuple[Json, bool]:
    """The value and True, or None and False when the resolver made none that a field could hold."""
    if ours is None or theirs is None:
        return (theirs if ours is None else ours), True
    try:
        made = resolver(field, ours, theirs, ours_at, theirs_at)
        held = orjson.loads(orjson.dumps(made))
    except Exception:  # noqa: BLE001 # whatever a stranger's function raises: no event may be lost for it
        return None, False
    if "/" in field and held is not None and not _is_like(held, ours, theirs):
        return None, False
    return held, True


def _comparable(ours: Json, theirs: Json) -> tuple[Json, Json]:
    if isinstance(ours, bool) or isinstance(theirs, bool) or isinstance(ours, list | dict):
        raise TypeError("only numbers and texts are larger or smaller")
    return ours, theirs


def _is_like(made: Any, ours: Json, theirs: Json) -> bool:
    """Whether a value is a part: the fields of the two, and no other."""
    return isinstance(made, dict) and made.keys() <= ours.keys() | theirs.keys()
