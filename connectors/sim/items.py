"""Items in the emulated sim's lists: records of their own in all but name. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from schemas.fields import Json


def ids(record: Mapping[str, Json]) -> set[str]:
    """The ids of all items that have one."""
    return {str(item["id"]) for item in _items(record) if item.get("id") is not None}


def numbered(record: Mapping[str, Json], new_id: Callable[[], str]) -> dict[str, Json]:
    """The record with an id for every item that has none."""
    return {
        key: [_with_id(item, new_id) for item in value] if isinstance(value, list) else value
        for key, value in record.items()
    }


def _with_id(item: Any, new_id: Callable[[], str]) -> Any:
    return item if not isinstance(item, dict) or item.get("id") else {**item, "id": new_id()}


def _items(record: Mapping[str, Json]) -> Iterator[Mapping[str, Json]]:
    for value in record.values():
        if isinstance(value, list):
            yield from (item for item in value if isinstance(item, dict))
