"""References inside their payloads and our rows: which ids must be looked up before a record can be mapped. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from schemas.fields import Aggregate, Field, Json, Part
from streams.rules import mapping, places
from streams.rules.places import OurId

Reference = tuple[str, str]
"""(entity type, id)."""


def in_payload(aggregate: Aggregate, payload: Mapping[str, Json]) -> set[Reference]:
    """Their ids that a payload refers to."""
    found: set[Reference] = set()

    def note(kind: str, theirs: str) -> None:
        found.add((kind, theirs))

    if slim := _references_only(aggregate):
        mapping.from_payload(slim, payload, known={}, our_id=note, new_id=lambda kind, place: f"{kind}_{place}")
    return found


def in_rows(
    aggregate: Aggregate, root: Mapping[str, Json], parts: Mapping[str, Iterable[Mapping[str, Json]]]
) -> set[Reference]:
    """Our ids that a root row and its parts refer to."""
    found = set(_values(aggregate.fields, root))
    for part in aggregate.parts:
        for row in parts.get(part.entity_type, ()):
            found.update(_values(part.fields, row))
    return found


def unresolved(aggregate: Aggregate, payload: Mapping[str, Json], our_id: OurId) -> dict[str, Reference]:
    """The root's references to records that we do not know (yet): canonical field -> what it refers to."""
    return places.unresolved(aggregate.fields, payload, our_id)


def unresolved_in_items(
    aggregate: Aggregate, items: Mapping[str, Mapping[str, Json]], our_id: OurId
) -> dict[str, Reference]:
    """The same of items in lists, by their part keys: `household_member/household_member_01h….person_id`."""
    fields = {part.entity_type: part.fields for part in aggregate.parts}
    return {
        f"{key}.{name}": each
        for key, item in items.items()
        for name, each in places.unresolved(fields[key.partition("/")[0]], item, our_id).items()
    }


def part_ids(aggregate: Aggregate, payload: Mapping[str, Json]) -> set[str]:
    """Keys (`email/email_01h…`) of the parts that a payload names by our ids."""
    read = mapping.from_payload(
        _ids_only(aggregate),
        payload,
        known={},
        our_id=lambda _kind, _id: None,
        new_id=lambda _kind, place: f"new/{place}",
    )
    return {key for key in read if "/new/" not in key}


def _values(fields: Iterable[Field], row: Mapping[str, Json]) -> Iterator[Reference]:
    for field in fields:
        if field.references and row.get(field.canonical) is not None:
            yield field.references, str(row[field.canonical])


@cache
def _references_only(aggregate: Aggregate) -> Aggregate | None:
    fields = tuple(field for field in aggregate.fields if field.references)
    parts = tuple(
        Part(part.entity_type, part.parent, part.external, kept, part.id_field)
        for part in aggregate.parts
        if (kept := tuple(field for field in part.fields if field.references))
    )
    return Aggregate(aggregate.external_type, aggregate.root, fields, parts) if fields or parts else None


@cache
def _ids_only(aggregate: Aggregate) -> Aggregate:
    parts = tuple(Part(p.entity_type, p.parent, p.external, (), p.id_field) for p in aggregate.parts)
    return Aggregate(aggregate.external_type, aggregate.root, (), parts)
