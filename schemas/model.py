"""The canonical model: every entity type, read from one Avro record schema each.

Tables, migrations, the publication, the connector's settings, API models and mapping checks are derived from what this
module returns. Shipped types are in `schemas/entities`; a user adds or overrides types with files in a folder of their
own. Attributes that Avro does not know say the rest: `references` (another entity type, `part: true` where the entity
is part of it), `protected`, `privacy`, `normalize`; on the record: `prefix` of the ids, `capture`, and `every_change`
(every version is delivered, none coalesced).
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources.abc import Traversable
from typing import Any

from schemas import model_checks as checks
from schemas.entity_types import COMMON_COLUMNS, EntityField, EntityType


@dataclass(frozen=True)
class Model:
    """All entity types, by name, in dependency order: what is pointed at comes first, parts follow their root."""

    types: Mapping[str, EntityType]

    def __iter__(self) -> Iterator[EntityType]:
        return iter(self.types.values())

    def __getitem__(self, name: str) -> EntityType:
        return self.types[name]

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Names in dependency order."""
        return tuple(self.types)

    @cached_property
    def roots(self) -> tuple[EntityType, ...]:
        """Types that are no part of another."""
        return tuple(entity for entity in self.types.values() if entity.parent is None)

    def parts_of(self, root: str) -> tuple[EntityType, ...]:
        """The types that are parts of `root`; empty for a type without parts."""
        return tuple(e for e in self.types.values() if e.parent is not None and e.parent.references == root)

    def root_of(self, name: str) -> EntityType:
        """The root of the aggregate that `name` belongs to; itself for a root."""
        entity = self.types[name]
        return self.types[entity.parent.references] if entity.parent else entity

    @cached_property
    def _by_prefix(self) -> Mapping[str, EntityType]:
        return {entity.prefix: entity for entity in self.types.values()}

    def type_of_id(self, entity_id: str) -> EntityType | None:
        """The type an id such as `person_01h…` is of; None when its prefix is of no type."""
        return self._by_prefix.get(entity_id.rpartition("_")[0])


def load(extra: Traversable | None = None) -> Model:
    """Read the shipped types and those in the folder `extra`, which may override shipped ones by name.

    Raises:
        Problem: `model_invalid`, naming the file and the field.
    """
    records: dict[str, dict[str, Any]] = {}
    shipped = importlib.resources.files("schemas") / "entities"
    for folder in (shipped, extra):
        if folder is not None and folder.is_dir():
            records.update(_read_folder(folder))
    return build(records)


def build(records: Mapping[str, Mapping[str, Any]]) -> Model:
    """The model that these Avro records (name -> schema) describe, checked as a whole."""
    types = {name: _entity_type(name, record) for name, record in sorted(records.items())}
    checks.check_references(types)
    return Model({name: types[name] for name in _dependency_order(types)})


def _read_folder(folder: Traversable) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".avsc"):
            continue
        name = file.name.removesuffix(".avsc")
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise checks.invalid(name, f"is not JSON ({error})", "Mend the file.") from error
        if not isinstance(record, dict):
            raise checks.invalid(name, "is no Avro record", 'Write one record with `"type": "record"`.')
        found[name] = record
    return found


def _entity_type(name: str, record: Mapping[str, Any]) -> EntityType:
    checks.check_record(name, record)
    fields = tuple(_entity_field(name, field) for field in record["fields"])
    checks.check_field_names(name, [field.name for field in fields], reserved=COMMON_COLUMNS)
    prefix = str(record.get("prefix", name))
    return EntityType(
        name,
        prefix,
        fields,
        capture=str(record.get("capture", "thin")),
        doc=str(record.get("doc", "")),
        every_change=record.get("every_change") is True,
    )


def _entity_field(entity: str, field: Mapping[str, Any]) -> EntityField:
    checks.check_field(entity, field)
    reference: Mapping[str, Any] = field.get("references") or {}
    return EntityField(
        name=field["name"],
        sql_type=checks.sql_type(entity, field),
        references=reference.get("entity", ""),
        part=bool(reference.get("part", False)),
        protected=bool(field.get("protected", False)),
        privacy=str(field.get("privacy", "")),
        normalize=str(field.get("normalize", "")),
    )


def _dependency_order(types: Mapping[str, EntityType]) -> list[str]:
    """Depth first over what roots point at; a cycle of plain references is cut, since those never block."""
    order: list[str] = []
    seen: set[str] = set()

    def root_name(name: str) -> str:
        parent = types[name].parent
        return parent.references if parent else name

    def visit(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        for reference in types[name].references:
            visit(root_name(reference.references))
        order.append(name)

    for name in types:
        visit(root_name(name))
    parts = {root: [n for n in types if n != root and root_name(n) == root] for root in order}
    return [entry for root in order for entry in (root, *parts[root])]
