"""Fields in their payloads: dotted paths, forms, references. Pure.

A key that is missing says nothing, null says that there is nothing, and an empty text is a value like any other. So a
place whose parent is null is null. What null is, and the values of a field that has forms, is told by these
(`schemas.forms`); a value of ours that its form cannot hold is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from schemas import forms
from schemas.fields import Document, Field, Json
from schemas.problems import Problem

ExternalId = Callable[[str, str], str | None]
"""(entity type, our id) -> their id of it, None when it has none."""
OurId = Callable[[str, str], str | None]
"""(entity type, their id) -> our id of it, None when it is unknown."""

MISSING = object()


def write(
    fields: Iterable[Field],
    doc: Mapping[str, Json],
    into: dict[str, Json],
    external_id: ExternalId,
    unresolved: Mapping[str, str],
    place: str = "",
) -> None:
    """Put the fields of a document into a payload. A reference to something they do not have is left out.

    Args:
        unresolved: `place` and field -> their id of what it refers to over there and we do not know.
    """
    for field in fields:
        if field.canonical not in doc:
            continue
        value = doc[field.canonical]
        if field.references:
            theirs = external_id(field.references, value) if value is not None else None
            theirs = theirs or unresolved.get(place + field.canonical)
            if theirs is None and value is not None:
                continue
            value = theirs
        try:
            put(into, field.external, forms.write(field.forms, value))
        except ValueError:
            continue


def read(fields: Iterable[Field], payload: Mapping[str, Json], our_id: OurId) -> Document:
    """The fields that a payload tells of. Raises Problem (`value_unreadable`)."""
    found: Document = {}
    for field in fields:
        value = _told(field, payload)
        if value is MISSING:
            continue
        if field.references and value is not None and (value := our_id(field.references, str(value))) is None:
            continue
        found[field.canonical] = value
    return found


def unresolved(fields: Iterable[Field], payload: Mapping[str, Json], our_id: OurId) -> dict[str, tuple[str, str]]:
    """References of a record or an item to what we do not know (yet): canonical field -> (entity type, their id)."""
    found = {}
    for field in fields:
        theirs = _told(field, payload) if field.references else None
        if theirs is not None and theirs is not MISSING and our_id(field.references, str(theirs)) is None:
            found[field.canonical] = field.references, str(theirs)
    return found


def _told(field: Field, payload: Mapping[str, Json]) -> Any:
    value = get(payload, field.external)
    if value is MISSING or not field.forms:
        return value
    try:
        return forms.read(field.forms, value)
    except ValueError:
        raise Problem(
            "value_unreadable",
            f"{field.canonical}, in their {field.external}, is not in the form {field.forms[-1]}",
            "Mend the field map, or the record over there.",
        ) from None


def put(into: dict[str, Json], path: str, value: Json) -> None:
    """Set the value at a path."""
    *parents, leaf = path.split(".")
    for parent in parents:
        into = into.setdefault(parent, {})
    into[leaf] = value


def get(payload: Mapping[str, Json], path: str) -> Any:
    """The value at a path, or MISSING."""
    value: Any = payload
    for step in path.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping) or step not in value:
            return MISSING
        value = value[step]
    return value
