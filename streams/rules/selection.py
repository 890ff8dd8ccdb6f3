"""Which fields and parts of an aggregate one connection sends (F: include, exclude). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from schemas.fields import Aggregate, Document


def narrowed(aggregate: Aggregate, choice: Mapping[str, Sequence[str]]) -> Aggregate:
    """The aggregate with the chosen fields and parts only.

    Args:
        choice: `include` or `exclude` with names of root fields and part types; empty chooses all.
    """
    if not choice:
        return aggregate
    included, excluded = choice.get("include"), frozenset(choice.get("exclude", ()))

    def chosen(name: str) -> bool:
        return (included is None or name in included) and name not in excluded

    return replace(
        aggregate,
        fields=tuple(f for f in aggregate.fields if chosen(f.canonical)),
        parts=tuple(p for p in aggregate.parts if chosen(p.entity_type)),
    )


def covers(aggregate: Aggregate, key: str) -> bool:
    """Whether a document key belongs to the aggregate."""
    kind, is_part, _ = key.partition("/")
    if is_part:
        return any(part.entity_type == kind for part in aggregate.parts)
    return any(field.canonical == key for field in aggregate.fields)


def split(aggregate: Aggregate, document: Document) -> tuple[Document, Document]:
    """A document as what the aggregate covers, and the rest."""
    covered = {key: value for key, value in document.items() if covers(aggregate, key)}
    return covered, {key: value for key, value in document.items() if key not in covered}
