"""Field maps at work: rows to documents, documents to their payloads, their payloads to documents.

Both directions of the pipeline compare documents, never payloads, so that what a system cannot represent is no
difference and what it re-formats is one (`view` is ours as that system can hold it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from schemas.fields import Aggregate, Document, Field, Json, Part

ExternalId = Callable[[str, str], str | None]
"""(entity type, our id) -> their id of it, None when it has none."""
OurId = Callable[[str, str], str | None]
"""(entity type, their id) -> our id of it, None when it is unknown."""
NewId = Callable[[str, int], str]
"""(part type, place in their list) -> the id of a part we have not seen before; the same input gives the same id."""

_MISSING = object()


def document(
    aggregate: Aggregate, row: Mapping[str, Json], parts: Mapping[str, Iterable[Mapping[str, Json]]]
) -> Document:
    """The document of a root row and its living parts (`parts`: part type -> rows), mapped fields only."""
    found: Document = {f.canonical: row.get(f.canonical) for f in aggregate.fields}
    for part in aggregate.parts:
        for each in parts.get(part.entity_type, ()):
            found[f"{part.entity_type}/{each['id']}"] = {f.canonical: each.get(f.canonical) for f in part.fields}
    return found


def to_payload(aggregate: Aggregate, doc: Document, external_id: ExternalId) -> dict[str, Json]:
    """Their payload of a document. A reference to something they do not have is left out."""
    payload: dict[str, Json] = {}
    _write(aggregate.fields, doc, payload, external_id)
    for part in aggregate.parts:
        items = []
        for key in sorted(key for key in doc if key.startswith(f"{part.entity_type}/")):
            if doc[key] is None:
                continue
            item: dict[str, Json] = {part.id_field: key.partition("/")[2]}
            _write(part.fields, doc[key], item, external_id)
            items.append(item)
        _put(payload, part.external, items)
    return payload


def from_payload(
    aggregate: Aggregate, payload: Mapping[str, Json], *, known: Document, our_id: OurId, new_id: NewId
) -> Document:
    """Their payload as a document.

    Args:
        known: a document (ours, the base, or both together) whose parts theirs may be: an item without our id is the
            known part of equal content; a known part that a present list lacks comes back as None.
    """
    found = _read(aggregate.fields, payload, our_id)
    for part in aggregate.parts:
        items = _get(payload, part.external)
        if isinstance(items, list):
            found |= _read_parts(part, items, known, our_id, new_id)
    return found


def view(aggregate: Aggregate, doc: Document, external_id: ExternalId) -> Document:
    """Ours as that system can represent it: to their form and back."""
    back: dict[tuple[str, str], str] = {}

    def remember(entity_type: str, ours: str) -> str | None:
        if theirs := external_id(entity_type, ours):
            back[entity_type, theirs] = ours
        return theirs

    payload = to_payload(aggregate, doc, remember)
    return from_payload(
        aggregate, payload, known=doc, our_id=lambda kind, theirs: back.get((kind, theirs)), new_id=_no_new_part
    )


def differences(ours: Document, base: Document) -> frozenset[str]:
    """Keys whose value in `ours` is not the one in `base`, and parts of `base` that `ours` lacks. A missing part and
    one that is None are the same."""
    changed = {key for key, value in ours.items() if not _same(key, value, base.get(key, _MISSING))}
    gone = {key for key, value in base.items() if "/" in key and key not in ours and value is not None}
    return frozenset(changed | gone)


def changed_paths(aggregate: Aggregate, keys: Iterable[str]) -> frozenset[str]:
    """The top-level payload keys that hold these document keys."""
    places = {f.canonical: f.external for f in aggregate.fields} | {p.entity_type: p.external for p in aggregate.parts}
    return frozenset(places[key.partition("/")[0]].partition(".")[0] for key in keys)


def _same(key: str, ours: Json, theirs: Any) -> bool:
    if ours is None and "/" in key and theirs is _MISSING:
        return True
    return bool(type(ours) is type(theirs) and ours == theirs) or (
        _is_number(ours) and _is_number(theirs) and ours == theirs
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _no_new_part(part_type: str, place: int) -> str:
    raise AssertionError(f"a part of our own has no id: {part_type} {place}")


def _write(fields: Iterable[Field], doc: Mapping[str, Json], into: dict[str, Json], external_id: ExternalId) -> None:
    for field in fields:
        if field.canonical not in doc:
            continue
        value = doc[field.canonical]
        if field.references and value is not None and (value := external_id(field.references, value)) is None:
            continue
        _put(into, field.external, value)


def _read(fields: Iterable[Field], payload: Mapping[str, Json], our_id: OurId) -> Document:
    found: Document = {}
    for field in fields:
        value = _get(payload, field.external)
        if value is _MISSING:
            continue
        if field.references and value is not None and (value := our_id(field.references, str(value))) is None:
            continue
        found[field.canonical] = value
    return found


def _read_parts(part: Part, items: list[Json], known: Document, our_id: OurId, new_id: NewId) -> Document:
    prefix = f"{part.entity_type}/"
    free = {key: value for key, value in known.items() if key.startswith(prefix) and value is not None}
    found: Document = {}
    nameless = []
    for place, item in enumerate(items):
        if not isinstance(item, Mapping):
            continue
        content = _read(part.fields, item, our_id)
        named = item.get(part.id_field)
        if isinstance(named, str) and named.startswith(f"{part.entity_type}_"):
            found[prefix + named] = content
            free.pop(prefix + named, None)
        else:
            nameless.append((place, content))
    for place, content in nameless:
        key = next((k for k, v in free.items() if v == content), None) or prefix + new_id(part.entity_type, place)
        free.pop(key, None)
        found[key] = content
    return found | dict.fromkeys(free)


def _put(into: dict[str, Json], path: str, value: Json) -> None:
    *parents, leaf = path.split(".")
    for parent in parents:
        into = into.setdefault(parent, {})
    into[leaf] = value


def _get(payload: Mapping[str, Json], path: str) -> Any:
    value: Any = payload
    for step in path.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return _MISSING
        value = value[step]
    return value
