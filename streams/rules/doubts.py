"""Is this unknown record the one that a create of ours has just made? Pure.

While the answer to a create is out, an event of theirs may tell of the very record it made. Such an event waits: for a
moment for every create of its type that was sent before we heard of it, and after that only for a create with which it
agrees in all that the create said, which is then for a person to look at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from schemas.fields import Document

ANY_WITHIN = timedelta(minutes=1)
"""How long a create in doubt stands for any unknown record of its type."""
CLOCKS_APART = timedelta(seconds=5)
"""How far the clocks of our own processes may differ."""

_Shape = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Doubt:
    """A create that was sent and is not settled.

    Args:
        sent: the document it carries.
        since: when it was sent first.
    """

    entity_id: str
    sent: Document
    since: datetime


class Doubts:
    """The creates in doubt of one external type at one connection, at one moment."""

    def __init__(self, doubts: Iterable[Doubt], now: datetime) -> None:
        self._young: list[Doubt] = []
        self._old: dict[_Shape, dict[bytes, list[str]]] = defaultdict(lambda: defaultdict(list))
        for each in doubts:
            if now - each.since < ANY_WITHIN:
                self._young.append(each)
            elif shape := _shape(each.sent):
                self._old[shape][_content(each.sent, shape)].append(each.entity_id)

    def of(self, theirs: Mapping[str, object], received_at: datetime) -> list[str]:
        """The entities that the record may be.

        Args:
            theirs: the root fields of the record, mapped; empty for a delete.
            received_at: when we heard of it: a create that was sent later cannot have made it.
        """
        young = [each.entity_id for each in self._young if each.since <= received_at + CLOCKS_APART]
        alike = [
            entity_id
            for shape, contents in self._old.items()
            if theirs.keys() >= set(shape)
            for entity_id in contents.get(_content(theirs, shape), ())
        ]
        return sorted({*young, *alike})


def _shape(sent: Document) -> _Shape:
    return tuple(sorted(key for key, value in sent.items() if "/" not in key and value is not None))


def _content(document: Mapping[str, object], shape: _Shape) -> bytes:
    return orjson.dumps([document[key] for key in shape])
