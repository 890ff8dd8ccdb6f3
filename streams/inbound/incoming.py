"""Events on their way through the applier, and the work that belongs together: one connection, one kind of record."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from connectors.contract import CreateTier, Manifest
from schemas.entity_types import KEY_KINDS, EntityType
from schemas.events import InboundEvent
from schemas.fields import Aggregate, Document, Json
from schemas.model import Model
from streams import merging
from streams.rules import clocks, policies
from streams.rules.clock_errors import IN_TIME, Measured
from streams.rules.payloads import Times
from streams.rules.sides import Terms, Theirs
from streams.store.connections import Connection

_NOTHING = timedelta()
_TIMES = {"date": "date", "timestamp with time zone": "timestamp"}


@dataclass(frozen=True, slots=True)
class Incoming:
    """One event and where it was found.

    Args:
        payload: the event's payload, read; empty for a delete.
        position: `topic/partition/offset`.
        raw: the Kafka record's value, for the dead letters.
        ahead: how far their clock is ahead of ours, as measured.
        verdict: of a delete that was held, why it is not any more: `approved`, `dropped` or `overtaken`.
    """

    event: InboundEvent
    payload: Mapping[str, Json] = field(default_factory=dict)
    position: str | None = None
    raw: bytes = b""
    ahead: timedelta = _NOTHING
    verdict: str = ""

    def as_row(self) -> dict[str, Json]:
        """What the tables of events that cannot be applied yet keep of it; `Waiting` reads it back."""
        event = self.event
        return {
            "event_id": event.event_id.hex(),
            "external_id": event.external_id,
            "value": base64.b64encode(self.raw).decode(),
            "position": self.position,
            "occurred_at": event.occurred_at,
            "received_at": event.received_at,
        }

    @property
    def written_at(self) -> datetime:
        """Their time by our clock, never far in our future: a fast clock must not win for ever."""
        return clocks.bounded(self.event.occurred_at - self.ahead, self.event.received_at)

    def theirs(self, document: Document) -> Theirs:
        """The side of a conflict that it is, read as this document."""
        event = self.event
        return Theirs(
            document,
            event.occurred_at,
            self.written_at,
            event.external_version,
            event.received_at,
            deleted=event.op == "delete",
        )


@dataclass(frozen=True, slots=True)
class Unit:
    """One connection's records of one type: what is loaded, decided and written together."""

    connection: Connection
    manifest: Manifest
    aggregate: Aggregate
    root: EntityType
    terms: Terms
    times: Times
    ahead: timedelta = _NOTHING
    """How far their clock is ahead of ours."""
    key_kinds: Mapping[str, str] = field(default_factory=dict)
    """Name of each of the aggregate's match rules -> how its values are normalised."""
    part_keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Part type -> its columns that are keys -> how their values are normalised."""

    @property
    def org_id(self) -> str:
        """The organisation."""
        return self.connection.org_id

    @property
    def creates(self) -> bool:
        """Whether a record without an entity makes one: not where we are the source of truth (option 2)."""
        return self.connection.option != 2

    @property
    def our_ids_are_theirs(self) -> bool:
        """Whether a record that has an id of ours is the entity of that id: we chose it when we made the record."""
        return self.manifest.create_tier is CreateTier.CLIENT_ID

    def external_type(self, entity_type: str) -> str:
        """Their name of one of our types; empty when they do not have it."""
        found = self.manifest.for_root(entity_type)
        return found.external_type if found else ""

    @property
    def scope(self) -> dict[str, str]:
        """The parameters that most statements share."""
        return {
            "org": self.org_id,
            "connection": self.connection.name,
            "type": self.aggregate.external_type,
            "entity_type": self.root.name,
        }


def unit_of(
    connection: Connection, manifest: Manifest, external_type: str, model: Model, clock: Measured = IN_TIME
) -> Unit:
    """The unit of one external type; `clock` is how far theirs was measured to be from ours.

    Raises:
        KeyError: the system or the model has no such type.
        Problem: `resolver_unknown`, `resolver_broken`.
    """
    aggregate = manifest.aggregate(external_type)
    root = model[aggregate.root]
    parts = {part.entity_type for part in aggregate.parts if any(f.protected for f in model[part.entity_type].fields)}
    protected = {f.name for f in root.fields if f.protected} | parts
    terms = Terms(
        protected=frozenset(protected),
        tolerance=clock.doubt,
        clock_error=clock.error,
        delete=connection.delete_policy,
        since=None if connection.option == 2 else connection.created_at,
        **policies.of_type(connection.conflict_policy, connection.conflict_policies.get(root.name, {}), merging.find),
    )
    times = {("", f.name): kind for f in root.fields if (kind := _TIMES.get(f.sql_type))}
    for part in aggregate.parts:
        columns = model[part.entity_type].fields
        times |= {(part.entity_type, f.name): kind for f in columns if (kind := _TIMES.get(f.sql_type))}
    kinds = {r.name: model[r.part or root.name].field(r.column).normalize for r in aggregate.match}
    names = [part.entity_type for part in aggregate.parts]
    keys = {name: {f.name: f.normalize for f in model[name].fields if f.normalize in KEY_KINDS} for name in names}
    return Unit(connection, manifest, aggregate, root, terms, times, clock.ahead, kinds, keys)
