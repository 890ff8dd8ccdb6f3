"""Documents and field maps: the values that mapping, comparison and conflict rules work on.

A **document** is one aggregate (a root entity and its parts) as flat JSON: `field -> value` for the root's fields and
`part_type/part_id -> {field: value}` for each part, for example::

    {"first_name": "Ann", "birth_date": "1990-04-01", "email/email_01h…": {"address": "ann@example.org"}}

Values are JSON: text, numbers, booleans, None; dates and times as ISO 8601 text. A missing key means *absent* (this
system does not have the field), None means *empty*; the two are never the same.

A **field map** is data in an adapter's manifest. `streams.rules.mapping` turns documents into their payloads and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as default
from typing import Any, Literal

from schemas import forms
from schemas.forms import Form

Json = Any
Document = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Field:
    """One canonical field and where it is in their payload.

    Args:
        canonical: column name in the canonical table.
        external: dotted path in their payload, for example `address.city`.
        references: entity type this field points at; its value is their id of that entity on the outside.
        on_missing: what happens while the entity it points at is unknown there: `wait` until it is linked, send without
            and once more `later`, or `leave` it out (a soft reference).
        forms: how they write its value, see `schemas.forms`; of a reference, their id. Empty: as we hold it.

    Raises:
        Problem: `form_unknown`, `forms_contradict`.
    """

    canonical: str
    external: str
    references: str = ""
    on_missing: Literal["wait", "later", "leave"] = "later"
    forms: tuple[Form, ...] = ()

    def __post_init__(self) -> None:
        forms.check(self.canonical, self.forms)


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of part, nested as a list in their payload.

    Args:
        entity_type: canonical type of the part, for example `email`.
        parent: the part's column that points at the root, for example `person_id`.
        external: dotted path of the list in their payload, for example `emails`.
        fields: fields of one part, paths relative to the list's item.
        id_field: key in the item that carries our part id, when they keep it; empty when they keep none.
        external_id: dotted path in the item of their id of it; empty when their items have none. It need only be unique
            in its record.
        external_type: their name of such items, with `external_id`; what the item's link is found by.
        bookkeeping: dotted paths in the item that they keep for themselves, such as `updated_at`: no field of anybody.
    """

    entity_type: str
    parent: str
    external: str
    fields: tuple[Field, ...]
    id_field: str = "id"
    external_id: str = ""
    external_type: str = ""
    bookkeeping: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MatchRule:
    """A key by which a record of theirs without a link is found among our entities.

    Args:
        column: canonical column that holds it; the model says how it is normalised.
        part: type of the parts that have the column; empty for the root.
        agree: columns of the root that must not contradict: people share addresses and phones.
    """

    column: str
    part: str = ""
    agree: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As people read it: `email.address`, `national_id`."""
        return f"{self.part}.{self.column}" if self.part else self.column


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One kind of external record: which root entity and which parts it is made of.

    Args:
        external_type: their name of it; one connection has each at most once.
        root: canonical type of the root entity.
        fields: the root's fields.
        parts: the kinds of parts it holds.
        archive: what an archived record holds there, payload key -> value; empty when they cannot archive.
        marker: payload key that carries our id of the root in records we made; empty when they keep none.
        match: keys by which records are matched; without any, a record without a link is a new one.
        bookkeeping: dotted paths in the payload that they keep for themselves: no field of anybody.
        exhaustive: a complete record names every field it has. A custom field that is missing in one is gone there;
            else it only was not mentioned, and stays.
    """

    external_type: str
    root: str
    fields: tuple[Field, ...]
    parts: tuple[Part, ...] = ()
    archive: Mapping[str, Json] = default(default_factory=dict, hash=False)
    marker: str = ""
    match: tuple[MatchRule, ...] = ()
    bookkeeping: tuple[str, ...] = ()
    exhaustive: bool = False

    def __hash__(self) -> int:
        # What is cached by it is asked for every record; all fields of all parts would be gone through each time.
        return hash((self.external_type, self.root))
