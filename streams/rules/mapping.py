"""Field maps at work: rows to documents, documents to their payloads, their payloads to documents.

Both directions of the pipeline compare documents, never payloads, so that what a system cannot represent is no
difference and what it re-formats is one (`view` is ours as that system can hold it).

Fields are read and written in `streams.rules.places`; here are records with their parts. A list that is null holds
nothing.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from schemas.fields import Aggregate, Document, Json, Part
from schemas.problems import Problem
from streams.rules import custom_fields, places
from streams.rules.places import MISSING, ExternalId, OurId

NewId = Callable[[str, int], str]
"""(part type, place in their list) -> the id of a part we have not seen before; the same input gives the same id."""

PartIds = Mapping[tuple[str, str], str]
"""(part type, their id of an item) -> the id of our part."""

Alike = Callable[[str, Document, Document], bool]
"""(part type, a part, another) -> whether they are one that is spelled differently."""

_NOTHING: Mapping[Any, Any] = {}
_OURS = "id of ours"


@dataclass(frozen=True, slots=True)
class Reading:
    """A payload, read.

    Args:
        items: part key -> the item that is that part, as they sent it.
    """

    document: Document
    items: dict[str, Mapping[str, Json]] = dataclasses.field(default_factory=dict)

    def their_ids(self, aggregate: Aggregate) -> dict[str, str]:
        """Part key -> their id of it, of parts whose items have one."""
        kinds = {part.entity_type: part for part in aggregate.parts}
        found = {key: _item_id(kinds[key.partition("/")[0]], item) for key, item in self.items.items()}
        return {key: theirs for key, theirs in found.items() if theirs}


def document(
    aggregate: Aggregate, row: Mapping[str, Json], parts: Mapping[str, Iterable[Mapping[str, Json]]]
) -> Document:
    """The document of a root row and its living parts (`parts`: part type -> rows), mapped fields only."""
    found: Document = {f.canonical: row.get(f.canonical) for f in aggregate.fields}
    for part in aggregate.parts:
        for each in parts.get(part.entity_type, ()):
            found[f"{part.entity_type}/{each['id']}"] = {f.canonical: each.get(f.canonical) for f in part.fields}
    return found


def to_payload(
    aggregate: Aggregate,
    doc: Document,
    external_id: ExternalId,
    custom: Mapping[str, Mapping[str, Json]] = _NOTHING,
    unresolved: Mapping[str, str] = _NOTHING,
) -> dict[str, Json]:
    """Their payload of a document. A reference to something they do not have is left out.

    Args:
        custom: part key -> their own fields of the part, which go back to them: a list is written as a whole.
        unresolved: `field` or `part key.field` -> their id of what it refers to over there and we do not know.
    """
    payload: dict[str, Json] = {}
    places.write(aggregate.fields, doc, payload, external_id, unresolved)
    for part in aggregate.parts:
        items = []
        for key in sorted(key for key in doc if key.startswith(f"{part.entity_type}/")):
            if doc[key] is None:
                continue
            part_id = key.partition("/")[2]
            item: dict[str, Json] = {part.id_field: part_id} if part.id_field else {}
            if part.external_id and (theirs := external_id(part.entity_type, part_id)):
                places.put(item, part.external_id, theirs)
            places.write(part.fields, doc[key], item, external_id, unresolved, f"{key}.")
            items.append(custom_fields.given_back(item, custom.get(key, {})))
        places.put(payload, part.external, items)
    return payload


def from_payload(
    aggregate: Aggregate, payload: Mapping[str, Json], *, known: Document, our_id: OurId, new_id: NewId
) -> Document:
    """Their payload as a document, see `read`."""
    return read(aggregate, payload, known=known, our_id=our_id, new_id=new_id).document


def read(
    aggregate: Aggregate,
    payload: Mapping[str, Json],
    *,
    known: Document,
    our_id: OurId,
    new_id: NewId,
    part_ids: PartIds = _NOTHING,
    alike: Alike | None = None,
) -> Reading:
    """Their payload as a document, and which item is which part.

    Args:
        known: a document (ours, the base, or both together) whose parts theirs may be: an item without an id that we
            know is the known part of equal content; a known part that a present list lacks comes back as None.
        part_ids: the parts whose items have ids of theirs; no other item is taken for them.
        alike: also an item that is alike is the known part, where none is equal.

    Raises:
        Problem: `item_unreadable`, for a list of parts that holds something else than objects; `value_unreadable`, for
            a value that is not in its field's form.
    """
    reading = Reading(places.read(aggregate.fields, payload, our_id))
    for part in aggregate.parts:
        items = places.get(payload, part.external)
        if isinstance(items, list | None):
            _read_parts(part, items or [], reading, known, our_id, new_id, part_ids, alike)
    return reading


def view(aggregate: Aggregate, doc: Document, external_id: ExternalId) -> Document:
    """Ours as that system can represent it: to their form and back."""
    back: dict[tuple[str, str], str] = {}

    def remember(entity_type: str, ours: str) -> str | None:
        if theirs := external_id(entity_type, ours):
            back[entity_type, theirs] = ours
        return theirs

    aggregate = _by_our_ids(aggregate)
    payload = to_payload(aggregate, doc, remember)
    found = from_payload(
        aggregate, payload, known={}, our_id=lambda kind, theirs: back.get((kind, theirs)), new_id=_no_new_part
    )
    for part in aggregate.parts:
        # A part is one unit: what they cannot hold of it is empty there.
        empty = {each.canonical: None for each in part.fields if each.references or each.forms}
        for key in found if empty else ():
            if key.startswith(f"{part.entity_type}/"):
                found[key] = {name: None for name in empty if name in doc[key]} | found[key]
    return found


@cache
def _by_our_ids(aggregate: Aggregate) -> Aggregate:
    """As if their items kept our ids: a part is itself, whatever is left out of it."""
    return replace(aggregate, parts=tuple(replace(p, id_field=_OURS, external_id="") for p in aggregate.parts))


def differences(ours: Document, base: Document) -> frozenset[str]:
    """Keys whose value in `ours` is not the one in `base`, and parts of `base` that `ours` lacks. A missing part and
    one that is None are the same."""
    changed = {key for key, value in ours.items() if not _same(key, value, base.get(key, MISSING))}
    gone = {key for key, value in base.items() if "/" in key and key not in ours and value is not None}
    return frozenset(changed | gone)


def changed_paths(aggregate: Aggregate, keys: Iterable[str]) -> frozenset[str]:
    """The top-level payload keys that hold these document keys."""
    places = {f.canonical: f.external for f in aggregate.fields} | {p.entity_type: p.external for p in aggregate.parts}
    return frozenset(places[key.partition("/")[0]].partition(".")[0] for key in keys)


def _same(key: str, ours: Json, theirs: Any) -> bool:
    if ours is None and "/" in key and theirs is MISSING:
        return True
    return bool(type(ours) is type(theirs) and ours == theirs) or (
        _is_number(ours) and _is_number(theirs) and ours == theirs
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _no_new_part(part_type: str, place: int) -> str:
    raise AssertionError(f"a part of our own has no id: {part_type} {place}")


def _read_parts(
    part: Part,
    items: list[Json],
    reading: Reading,
    known: Document,
    our_id: OurId,
    new_id: NewId,
    part_ids: PartIds,
    alike: Alike | None,
) -> None:
    prefix = f"{part.entity_type}/"
    free = {key: value for key, value in known.items() if key.startswith(prefix) and value is not None}
    taken = {f"{kind}/{part_id}" for (kind, _), part_id in part_ids.items()}
    nameless = []
    for place, item in enumerate(items):
        if item is None:
            continue
        if not isinstance(item, Mapping):
            raise Problem("item_unreadable", f"an item of {part.external} is no object", "Mend the field map.")
        if named := _named(part, item, part_ids):
            _take(part, prefix + named, item, reading, known, our_id)
            free.pop(prefix + named, None)
        else:
            nameless.append((place, item))
    # A reference to what we do not know is none of ours either.
    contents = {
        place: dict.fromkeys(places.unresolved(part.fields, item, our_id)) | places.read(part.fields, item, our_id)
        for place, item in nameless
    }
    found = _found(part, contents, {key: value for key, value in free.items() if key not in taken}, alike)
    for place, item in nameless:
        key = found.get(place) or prefix + new_id(part.entity_type, place)
        free.pop(key, None)
        _take(part, key, item, reading, known, our_id)
    reading.document.update(dict.fromkeys(free))


def _found(part: Part, contents: Mapping[int, Document], free: Document, alike: Alike | None) -> dict[int, str]:
    """Place in their list -> the part that the item is. What is equal comes first: nobody is to take its part away."""
    found: dict[int, str] = {}
    ways: list[Callable[[Document, Document], bool]] = [operator.eq]
    if alike is not None:
        ways.append(partial(alike, part.entity_type))
    for is_same in ways:
        for place, content in contents.items() if free else ():
            if place not in found and (key := next((k for k, v in free.items() if is_same(v, content)), None)):
                found[place] = key
                del free[key]
    return found


def _named(part: Part, item: Mapping[str, Json], part_ids: PartIds) -> str | None:
    """The id of our part that an item names, by their id or by ours."""
    if theirs := _item_id(part, item):
        found = part_ids.get((part.entity_type, theirs))
        if found:
            return found
    ours = item.get(part.id_field) if part.id_field else None
    return ours if isinstance(ours, str) and ours.startswith(f"{part.entity_type}_") else None


def _item_id(part: Part, item: Mapping[str, Json]) -> str:
    theirs = places.get(item, part.external_id) if part.external_id else None
    return str(theirs) if isinstance(theirs, str | int) and not isinstance(theirs, bool) else ""


def _take(part: Part, key: str, item: Mapping[str, Json], reading: Reading, known: Document, our_id: OurId) -> None:
    held = known.get(key) or {}
    # A reference to what we do not know yet says nothing: what we have there stays.
    kept = {name: held.get(name) for name in places.unresolved(part.fields, item, our_id)}
    reading.document[key] = kept | places.read(part.fields, item, our_id)
    reading.items[key] = item
