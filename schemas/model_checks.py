"""What an entity type's schema must be, and which SQL type an Avro type becomes. Used by `schemas.model` only."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import fastavro.schema

from schemas.entity_types import EntityType
from schemas.problems import Problem

TYPE_NAME = re.compile(r"[a-z](?:[a-z_]{0,38}[a-z])?")
"""Also the prefix of ids, so what the TypeID specification allows; short enough for the names of indexes."""
FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,58}")
RECORD_ATTRIBUTES = {"type", "name", "namespace", "doc", "aliases", "fields", "prefix", "capture", "every_change"}
FIELD_ATTRIBUTES = {"name", "type", "default", "doc", "aliases", "references", "protected", "privacy", "normalize"}
ALLOWED = {"privacy": ("personal", "sensitive"), "normalize": ("phone", "email", "id", "name")}
SQL_TYPES = {
    "string": "text",
    "boolean": "boolean",
    "int": "integer",
    "long": "bigint",
    "double": "double precision",
    "bytes": "bytea",
    "date": "date",
    "timestamp-millis": "timestamp with time zone",
    "timestamp-micros": "timestamp with time zone",
    "uuid": "uuid",
}


def invalid(entity: str, cause: str, next_step: str) -> Problem:
    """A `model_invalid` problem about the file of `entity`."""
    return Problem("model_invalid", f"entity type `{entity}` ({entity}.avsc) {cause}", next_step)


def check_record(entity: str, record: Mapping[str, Any]) -> None:
    """The record as a whole; an unknown attribute is refused, since a misspelt `every_change` would lose versions."""
    if record.get("type") != "record":
        raise invalid(entity, "is no Avro record", 'Write one record with `"type": "record"`.')
    if record.get("name") != entity:
        raise invalid(entity, f"names its record `{record.get('name')}`", "Give file and record the same name.")
    if unknown := sorted(set(record) - RECORD_ATTRIBUTES):
        raise invalid(entity, f"has the unknown attribute `{unknown[0]}`", f"Known: {_list(RECORD_ATTRIBUTES)}.")
    for name in (entity, str(record.get("prefix", entity))):
        if not TYPE_NAME.fullmatch(name):
            raise invalid(entity, f"has the unusable name `{name}`", "Use a to z and `_`, at most 40 characters.")
    if record.get("capture", "thin") not in ("thin", "full"):
        raise invalid(entity, f"has capture `{record['capture']}`", "Use `thin` (the default) or `full`.")
    if not isinstance(record.get("every_change", False), bool):
        raise invalid(entity, f"has every_change `{record['every_change']}`", "Use true or false (the default).")
    try:
        fastavro.schema.parse_schema(dict(record), named_schemas={})
    except Exception as error:  # fastavro raises its own, KeyError, TypeError and ValueError
        raise invalid(entity, f"is no valid Avro schema ({error})", "Mend the schema.") from error


def check_field_names(entity: str, names: Collection[str], reserved: Collection[str]) -> None:
    """Names are usable, unique and not those of the common columns."""
    for name in names:
        if name in reserved:
            raise invalid(entity, f"has a field `{name}`, which every entity has", "Leave it out or rename it.")
        if not FIELD_NAME.fullmatch(name):
            raise invalid(entity, f"has the unusable field name `{name}`", "Use a to z, 0 to 9 and `_`.")


def check_field(entity: str, field: Mapping[str, Any]) -> None:
    """The attributes of one field; an unknown one is refused, since a misspelt `privacy` would publish the field."""
    name = field["name"]
    if unknown := sorted(set(field) - FIELD_ATTRIBUTES):
        raise invalid(
            entity, f"gives `{name}` the unknown attribute `{unknown[0]}`", f"Known: {_list(FIELD_ATTRIBUTES)}."
        )
    for attribute, values in ALLOWED.items():
        if field.get(attribute) is not None and field[attribute] not in values:
            raise invalid(entity, f"gives `{name}` {attribute} `{field[attribute]}`", f"Use one of {_list(values)}.")
    reference = field.get("references")
    if reference is not None and (not isinstance(reference, Mapping) or set(reference) - {"entity", "part"}):
        raise invalid(entity, f"has an unusable reference in `{name}`", 'Write {"entity": NAME, "part": true|false}.')
    part = bool(reference and reference.get("part"))
    nullable = isinstance(field["type"], list) and field["type"][0] == "null" and len(field["type"]) == 2
    if part and field["type"] != "string":
        raise invalid(entity, f"lets `{name}` be empty", 'The field that points at the root has the type "string".')
    if not part and not (nullable and "default" in field and field["default"] is None):
        raise invalid(entity, f"does not let `{name}` be empty", 'Use ["null", TYPE] with default null.')


def sql_type(entity: str, field: Mapping[str, Any]) -> str:
    """The Postgres type of a field, spelt as `format_type` does."""
    avro = field["type"][1] if isinstance(field["type"], list) else field["type"]
    if isinstance(avro, Mapping) and avro.get("logicalType") == "decimal":
        return f"numeric({avro['precision']},{avro.get('scale', 0)})"
    name = avro.get("logicalType", avro.get("type")) if isinstance(avro, Mapping) else avro
    if isinstance(name, str) and name in SQL_TYPES:
        return SQL_TYPES[name]
    known = _list({*SQL_TYPES, "decimal"})
    raise invalid(entity, f"gives `{field['name']}` the type {avro}, which no column holds", f"Use one of {known}.")


def check_references(types: Mapping[str, EntityType]) -> None:
    """Every reference has a target; parts have one parent, which is a root; prefixes are of one type each."""
    prefixes: dict[str, str] = {}
    for entity in types.values():
        other = prefixes.setdefault(entity.prefix, entity.name)
        if other != entity.name:
            raise invalid(entity.name, f"has the prefix of `{other}`", "Give each type a prefix of its own.")
        for field in entity.references:
            if field.references not in types:
                raise invalid(
                    entity.name, f"points at `{field.references}`, which does not exist", "Mend `references`."
                )
            if field.sql_type != "text":
                raise invalid(entity.name, f"keeps an id in `{field.name}`, which is no string", "Make it a string.")
            if field.part:
                _check_part(entity, types[field.references])
        if sum(field.part for field in entity.fields) > 1:
            raise invalid(entity.name, "is part of two types", "Choose one; make the other a plain reference.")


def _check_part(entity: EntityType, root: EntityType) -> None:
    if root.parent is not None:
        raise invalid(entity.name, f"is part of `{root.name}`, itself a part", "Make it part of the root.")
    # An event is one row: the version of a part, and what a root had for parts then, are in nobody's log.
    for one in (entity, root):
        if one.every_change:
            raise invalid(
                one.name,
                f"has every_change, and `{entity.name}` is part of `{root.name}`",
                "Make it a plain reference, or leave out every_change: aggregates are sent as they are now.",
            )


def _list(words: Collection[str]) -> str:
    return ", ".join(f"`{word}`" for word in sorted(words))
