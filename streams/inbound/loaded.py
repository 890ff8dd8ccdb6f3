"""What we know of the records that a batch of events is about, as `streams.inbound.reading` finds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from schemas.fields import Document, Json
from streams.inbound.part_links import PartLink
from streams.rules.alternation import Pushed
from streams.rules.references import Reference
from streams.rules.reopening import Lost, Span
from streams.rules.sides import Over
from streams.store.aggregates import Rows


@dataclass(slots=True)
class State:
    """A row of `link_state`; `heard_at` is the part of `at` that events told."""

    version: str | None = None
    at: datetime | None = None
    heard_at: datetime | None = None
    pushed_at: datetime | None = None
    base: Document | None = None
    over: tuple[Over, ...] = ()
    spans: Mapping[str, Span] = field(default_factory=dict)

    @property
    def untimed_push_at(self) -> datetime | None:
        """When the last push was sent that their answer put no time on: `at` does not cover it."""
        timed = self.at is not None and (self.heard_at is None or self.at > self.heard_at)
        return None if timed else self.pushed_at


@dataclass(slots=True)
class Record:
    """One of their records.

    Args:
        link_id: of its link; None when it has none.
        entity_id: the entity it is linked with, or is by its id; None when there is none.
        unresolved: references of it that waited for their target when it was last applied.
        unlinked_at: when its last link was taken away.
        deleted_by_us: it was taken away because we deleted the record there.
        came_back: it was taken away because they deleted the record; if it is there again, it is that entity.
        former: the entity that the link stood for, if one of us deleted the record; `former_link` is that link.
        gone_at: when they deleted it, of a record that we never knew: what happened there before must not make it.
        refused: why it must not make or change an entity.
        made_by: who finds its entity, for a link that it gets.
    """

    external_id: str
    link_id: str | None = None
    entity_id: str | None = None
    state: State = field(default_factory=State)
    unresolved: Mapping[str, Json] = field(default_factory=dict)
    unlinked_at: datetime | None = None
    deleted_by_us: bool = False
    came_back: bool = False
    former: str | None = None
    former_link: str | None = None
    gone_at: datetime | None = None
    refused: str = ""
    made_by: str = "inbound"


@dataclass(slots=True)
class Loaded:
    """All of it.

    Args:
        rows: entity id -> its rows.
        removed: entity id -> part key -> when that part was removed here.
        intents: entity id -> the document of a push on its way, or {} for one that is only wanted.
        questions: entity id -> fields with an open question.
        pushed: entity id -> what our pushes lately replaced, where there were any.
        lost: entity id -> values that lately lost by their time, where an event comes late.
        shared: of those, entities that other connections have, too.
        received: entity id -> when the last event of the instant we know was received.
        part_links: entity id -> links of its parts.
        our_ids, their_ids: other entities, by (entity type, id of the one side) -> id of the other.
    """

    records: dict[str, Record]
    rows: dict[str, Rows] = field(default_factory=dict)
    removed: dict[str, dict[str, datetime]] = field(default_factory=dict)
    intents: dict[str, Document] = field(default_factory=dict)
    questions: dict[str, set[str]] = field(default_factory=dict)
    pushed: dict[str, Pushed] = field(default_factory=dict)
    received: dict[str, datetime] = field(default_factory=dict)
    lost: dict[str, list[Lost]] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)
    our_ids: dict[Reference, str] = field(default_factory=dict)
    their_ids: dict[Reference, str] = field(default_factory=dict)
    part_links: dict[str, list[PartLink]] = field(default_factory=dict)

    def our_id(self, kind: str, theirs: str) -> str | None:
        """Our id of another entity."""
        return self.our_ids.get((kind, theirs))

    def their_id(self, kind: str, ours: str) -> str | None:
        """Their id of another entity."""
        return self.their_ids.get((kind, ours))
