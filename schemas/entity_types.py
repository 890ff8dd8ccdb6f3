"""What the canonical model is made of: entity types and their fields. `schemas.model` reads them from Avro."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

KEY_KINDS = ("email", "phone", "id")
"""Values of `normalize` that make a field a key."""

THIN_COLUMNS = ("org_id", "id", "sync_key", "version", "origin", "origin_event", "modified_at", "deleted_at")
"""What the change topics carry of every entity; references come on top, personal data never."""

COMMON_COLUMNS: Mapping[str, str] = {
    "org_id": "text",
    "id": "text",
    "created_at": "timestamp with time zone",
    "updated_at": "timestamp with time zone",
    "modified_at": "timestamp with time zone",
    "field_times": "jsonb",
    "deleted_at": "timestamp with time zone",
    "status": "text",
    "custom": "jsonb",
    "version": "bigint",
    "origin": "text",
    "origin_event": "text",
    "changed_xid": "xid8",
    "sync_key": "text",
}
"""Columns of every canonical table and their SQL types; no field may have one of these names."""


@dataclass(frozen=True, slots=True)
class EntityField:
    """One column that an entity type adds to the common ones.

    Args:
        name: column name.
        sql_type: as Postgres spells it, for example `timestamp with time zone`.
        references: entity type whose id is kept here, or empty.
        part: the entity is a part of the referenced one and goes where it goes.
        protected: a conflict on this field is always decided by a person.
        privacy: `personal`, `sensitive` or empty; never in logs when set.
        normalize: `phone`, `email`, `id`, `name` or empty; how two values are compared. All but names are keys by which
            records are matched, and indexed as such.
    """

    name: str
    sql_type: str
    references: str = ""
    part: bool = False
    protected: bool = False
    privacy: str = ""
    normalize: str = ""


@dataclass(frozen=True)
class EntityType:
    """One kind of canonical entity; its table is `canon.<name>`.

    Args:
        every_change: event-like: every version is delivered, in order, none coalesced.
    """

    name: str
    prefix: str
    fields: tuple[EntityField, ...]
    capture: str = "thin"
    every_change: bool = False
    doc: str = ""

    @cached_property
    def parent(self) -> EntityField | None:
        """The field that points at the root this type is a part of; None for roots."""
        return next((field for field in self.fields if field.part), None)

    @cached_property
    def references(self) -> tuple[EntityField, ...]:
        """Fields that hold the id of another entity, the parent included."""
        return tuple(field for field in self.fields if field.references)

    @cached_property
    def captured_columns(self) -> tuple[str, ...]:
        """Columns that leave Postgres with a change, in table order."""
        if self.capture == "full":
            return (*COMMON_COLUMNS, *(field.name for field in self.fields))
        return (*THIN_COLUMNS, *(field.name for field in self.references))

    def field(self, name: str) -> EntityField:
        """The field `name`; KeyError when there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)
