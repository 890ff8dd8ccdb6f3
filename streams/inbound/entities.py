"""An entity while events are folded into it: what it holds, what of it is to be written."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from schemas.events import InboundEvent
from schemas.fields import Document, Json
from streams.inbound.incoming import Unit
from streams.inbound.loaded import Loaded
from streams.rules import echoes, mapping
from streams.rules.custom_fields import Custom
from streams.rules.sides import Decision, Ours, merged
from streams.store.aggregates import Rows


@dataclass(slots=True)
class Entity:
    """An entity while events are folded into it.

    Args:
        document: every mapped field, as it is here.
        seen: the same as their system can represent it.
        living: part keys that have a living row.
        write: fields and parts that changed.
        custom: part key, or an empty text for the root -> their custom fields.
        write_custom: those that changed.
        retimed: root fields of which only the time changed.
        made: it has no row yet.
        marked: set when it is to be marked as deleted (True) or no longer (False).
    """

    id: str
    document: Document
    seen: Document
    modified_at: datetime
    version: int = 0
    edited_at: dict[str, datetime] = field(default_factory=dict)
    living: frozenset[str] = frozenset()
    deleted: bool = False
    deleted_there: bool = False
    deleted_elsewhere: bool = False
    made: bool = False
    write: Document = field(default_factory=dict)
    custom: dict[str, Custom] = field(default_factory=dict)
    write_custom: dict[str, Custom] = field(default_factory=dict)
    retimed: set[str] = field(default_factory=set)
    marked: bool | None = None
    last: InboundEvent | None = None

    def ours(self) -> Ours:
        """The side of a conflict that it is, as it stands."""
        hidden = {k: v for k, v in self.document.items() if k not in self.seen and "/" not in k and v is not None}
        return Ours(
            self.seen,
            self.modified_at,
            self.version,
            dict(self.edited_at),
            hidden,
            deleted=self.deleted,
            deleted_there=self.deleted_there,
            deleted_elsewhere=self.deleted_elsewhere,
        )

    def take(self, decision: Decision, event: InboundEvent, at: datetime) -> None:
        """Take over what a decision about an event writes; `at` is when that was written."""
        made = {loser.field for loser in decision.losers if loser.winner == "neither"}
        for key in decision.taken:
            written = decision.times.get(key, at)
            if "/" in key or key in made:
                self.edited_at[key] = max(self.edited_at.get(key, written), written)
            else:
                self.edited_at[key] = written
            if "/" not in key:
                self.modified_at = max(self.modified_at, written)
        self.edited_at |= decision.times
        self.retimed |= decision.times.keys()
        write = {key: _with_hidden(self, key, value) for key, value in decision.write.items()}
        self.document = merged(self.document, write)
        self.seen = merged(self.seen, decision.write)  # what is theirs, they can represent
        self.write |= write
        if decision.delete or decision.revive:
            self.deleted = self.deleted_there = self.marked = decision.delete
            self.deleted_elsewhere = False
            self.modified_at = max(self.modified_at, at)
        if decision.taken or decision.times or decision.delete or decision.revive or self.made:
            self.last = event


def of_rows(unit: Unit, loaded: Loaded, rows: Rows) -> Entity:
    """An entity as it is here."""
    entity_id, document = str(rows.root["id"]), rows.document(unit.aggregate)
    removed = loaded.removed.get(entity_id, {})
    edited_at = {
        f"{kind}/{row['id']}": datetime.fromisoformat(row["modified_at"])
        for kind, parts in rows.parts.items()
        for row in parts
    }
    times = rows.root["field_times"]
    default, origin = times.get("", rows.root["modified_at"]), rows.root["origin"]
    fields = {key: datetime.fromisoformat(times.get(key, default)) for key in document if "/" not in key}
    return Entity(
        entity_id,
        document,
        view(unit, loaded, document),
        datetime.fromisoformat(rows.root["modified_at"]),
        rows.root["version"],
        removed | edited_at | fields,
        frozenset(edited_at),
        deleted=rows.deleted,
        deleted_there=rows.deleted and origin == unit.connection.name,
        deleted_elsewhere=rows.deleted and origin not in (*echoes.OURS, unit.connection.name),
        custom=rows.custom(unit.connection.name),
    )


def view(unit: Unit, loaded: Loaded, document: Document) -> Document:
    """Ours as their system can represent it."""
    return mapping.view(unit.aggregate, document, loaded.their_id)


def _with_hidden(entity: Entity, key: str, value: Json) -> Json:
    """A part as they told it, with what of ours they cannot represent: a reference to something they lack."""
    ours, seen = entity.document.get(key), entity.seen.get(key)
    if "/" not in key or not (value and ours and seen):
        return value
    hidden = {name: held for name, held in ours.items() if held is not None and seen.get(name) is None}
    return value | {name: held for name, held in hidden.items() if value.get(name) is None}
