"""Custom fields: what their payloads hold and no field map mentions. Kept per connection, given to nobody else. Pure.

Every canonical row has `custom`, connection -> their fields, as they sent them: a key that is there with null, with an
empty text or with an empty list is kept as just that. A key that is missing

- in an item of a list is gone there: an item is one unit;
- in an `exhaustive` aggregate's record is gone there: its complete records name every field they have;
- in any other record was not mentioned, and stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import orjson

from schemas.fields import Aggregate, Json, Part
from schemas.problems import Problem

CAP_BYTES = 64 * 1024
"""Of the custom fields of one connection on one row, as JSON."""

Custom = dict[str, Json]
_Tree = dict[str, Any]
"""First step of a path -> the tree of its further steps; None where a path ends."""


def unmapped(aggregate: Aggregate, payload: Mapping[str, Json]) -> Custom:
    """The fields of a record that are neither mapped, nor lists of parts, nor their bookkeeping, in their places."""
    rest = _rest(payload, _of_root(aggregate))
    for part in aggregate.parts:
        if not isinstance(_at(payload, part.external), list | None):
            _place(rest, part.external, _at(payload, part.external))  # no list of items: nobody else keeps it
    return rest


def of_item(part: Part, item: Mapping[str, Json]) -> Custom:
    """The same of an item in a list of parts."""
    return _rest(item, _of_part(part))


def after(aggregate: Aggregate, held: Mapping[str, Json], told: Mapping[str, Json]) -> Custom:
    """A root's custom fields after a complete record that holds `told`.

    Raises:
        Problem: `custom_fields_too_large`.
    """
    return checked(dict(told) if aggregate.exhaustive else _merged(held, told, _of_root(aggregate)))


def checked(custom: Custom) -> Custom:
    """The same, if a row may hold as much. Raises Problem (`custom_fields_too_large`)."""
    if len(orjson.dumps(custom)) > CAP_BYTES:
        raise Problem(
            "custom_fields_too_large",
            f"the record's unmapped fields exceed {CAP_BYTES // 1024} KiB",
            "Map the large ones or have them left out over there, then redrive.",
        )
    return custom


def given_back(payload: dict[str, Json], custom: Mapping[str, Json], *, whole: bool = True) -> dict[str, Json]:
    """A payload for the connection that the custom fields are of, with what a write would erase there otherwise.

    Args:
        whole: the write replaces all of the place it is for; else only what stands at its keys.
    """
    found = dict(payload)
    for key, value in custom.items():
        if key not in found:
            if whole:
                found[key] = value
        elif isinstance(found[key], dict) and isinstance(value, Mapping):
            found[key] = given_back(found[key], value)
    return found


@cache
def _of_root(aggregate: Aggregate) -> _Tree:
    lists = (part.external for part in aggregate.parts)
    marker = (aggregate.marker,) if aggregate.marker else ()
    return _tree((*(field.external for field in aggregate.fields), *lists, *marker, *aggregate.bookkeeping))


@cache
def _of_part(part: Part) -> _Tree:
    ids = (each for each in (part.id_field, part.external_id) if each)
    return _tree((*(field.external for field in part.fields), *ids, *part.bookkeeping))


def _tree(paths: Iterable[str]) -> _Tree:
    tree: _Tree = {}
    for path in paths:
        *parents, leaf = path.split(".")
        place: _Tree | None = tree
        for parent in parents:
            if place is not None:
                place = place.setdefault(parent, {})
        if place is not None:
            place[leaf] = None
    return tree


def _rest(held: Mapping[str, Json], tree: _Tree) -> Custom:
    rest: Custom = {}
    for key, value in held.items():
        if key not in tree:
            rest[key] = value
        elif (below := tree[key]) is None or value is None:
            continue
        elif not isinstance(value, Mapping):
            rest[key] = value
        elif within := _rest(value, below):
            rest[key] = within
    return rest


def _merged(held: Mapping[str, Json], told: Mapping[str, Json], tree: _Tree) -> Custom:
    """Only what is mapped in part is merged: any other value is one, however deep it is."""
    found = {**held, **told}
    for key, value in told.items():
        below, before = tree.get(key), held.get(key)
        if below is not None and isinstance(value, Mapping) and isinstance(before, Mapping):
            found[key] = _merged(before, value, below)
    return found


def _at(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _place(into: Custom, path: str, value: Json) -> None:
    *parents, leaf = path.split(".")
    for parent in parents:
        into = into.setdefault(parent, {})
    into[leaf] = value
