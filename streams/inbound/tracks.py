"""Records while their events are folded, and what the folding comes to. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from schemas.events import InboundEvent
from schemas.fields import Document, Json
from streams.inbound.entities import Entity
from streams.inbound.incoming import Incoming, Unit
from streams.inbound.loaded import Loaded, Record
from streams.rules import echoes, mapping, matching, payloads, reopening, typeids
from streams.rules.mapping import Reading
from streams.rules.reopening import Lost
from streams.rules.sides import Agreed, Decision, Ours

Row = dict[str, Json]


@dataclass(slots=True)
class Track:
    """One record while its events are folded.

    Args:
        part_ids: (part type, their id of an item) -> the id of our part.
        items_told: an event that counts told of the items they hold.
        changed_parts: keys of parts whose items are not as they were.
    """

    record: Record
    entity: Entity | None = None
    link_is_new: bool = False
    state_moved: bool = False
    received_at: datetime | None = None
    questions: dict[str, Row] = field(default_factory=dict)
    unresolved: dict[str, Json] = field(default_factory=dict)
    correct: bool = False
    alive_there: bool = False
    part_ids: dict[tuple[str, str], str] = field(default_factory=dict)
    items_told: bool = False
    changed_parts: set[str] = field(default_factory=set)
    gone: bool = False

    def agreed(self, loaded: Loaded) -> Agreed:
        """What its link knows."""
        state = self.record.state
        in_flight = loaded.intents.get(self.record.entity_id or "", {})
        return Agreed(
            state.base, state.version, state.at, self.received_at, state.untimed_push_at, in_flight, state.over
        )

    @property
    def open_differences(self) -> frozenset[str]:
        """Outward-mapped fields in which they hold something else than we do, after all events."""
        return echoes.unheld(self.entity.seen, self.record.state.base or {}) if self.entity else frozenset()


@dataclass(slots=True)
class Folded:
    """The outcome of all events of a unit, before anything is written."""

    tracks: list[Track]
    entries: list[Row] = field(default_factory=list)
    losers: list[Row] = field(default_factory=list)
    moved: list[Row] = field(default_factory=list)

    def note(self, track: Track, each: Incoming, decision: Decision, ours: Ours) -> None:
        """The losers and questions of a decision; `ours` is as it was before it."""
        entity_id, event_id = track.record.entity_id or track.record.former, each.event.event_id.hex()
        for loser in decision.losers:
            times = {"ours_at": ours.edited_at.get(loser.field, ours.modified_at), "theirs_at": each.written_at}
            if loser.field in decision.times:
                times[f"{loser.winner}_at"] = decision.times[loser.field]
            values = {"base": loser.base, "ours": loser.ours, "theirs": loser.theirs}
            named = {"entity_id": entity_id, "field": loser.field, "winner": loser.winner, "rule": loser.rule}
            self.losers.append(named | values | times | {"event_id": event_id})
        for question in decision.questions:
            values = {"base": question.base, "ours": question.ours, "theirs": question.theirs}
            named = {"entity_id": entity_id, "field": question.field, "rule": question.rule, "event_id": event_id}
            track.questions[question.field] = named | values


def read(unit: Unit, loaded: Loaded, track: Track, each: Incoming) -> Reading:
    """An event's payload as a document. Raises Problem for what cannot be read."""
    event, aggregate = each.event, unit.aggregate
    if event.op == "delete":
        return Reading({})

    def alike(kind: str, one: Document, other: Document) -> bool:
        # Before we know what they hold, a key that is spelled differently is the same part, and not a second one.
        return matching.alike(unit.part_keys.get(kind, {}), one, other)

    # An item without our id is first sought in what they held: that is the form in which they know it.
    known = (track.entity.document if track.entity else {}) | (track.record.state.base or {})
    reading = mapping.read(
        aggregate,
        payloads.with_whole_parts(aggregate, each.payload),
        known=known,
        our_id=loaded.our_id,
        new_id=lambda kind, place: typeids.derived(kind, event.received_at, event.event_id, kind, str(place)),
        part_ids=track.part_ids,
        alike=alike if track.record.state.base is None else None,
    )
    payloads.check_times(reading.document, unit.times)
    return reading


def entry(event: InboundEvent, decision: str, reason: str, entity_id: str | None = None) -> Row:
    """A line of the ledger."""
    return {
        "event_id": event.event_id.hex(),
        "org_id": event.org_id,
        "connection": event.connection,
        "external_type": event.external_type,
        "external_id": event.external_id,
        "entity_id": entity_id,
        "source": event.source,
        "decision": decision,
        "reason": reason,
        "occurred_at": event.occurred_at,
        "received_at": event.received_at,
    }


def retime(losers: Iterable[Row], moved: Iterable[Row]) -> None:
    """Put right the times of lines of the conflict log; the statement `move_times` does it to those that are stored."""
    for row, each in ((row, each) for each in moved for row in losers):
        if (row["entity_id"], row["field"]) == (each["entity_id"], each["field"]):
            for side, time in (("ours", "ours_at"), ("theirs", "theirs_at")):
                if row[side] == each["value"] and row.get(time) == each["by"]:
                    row[time] = each["at"]


def lost(row: Row) -> Lost | None:
    """What a line of the conflict log says has lost by its time; the statement `lost_lately` reads the stored ones."""
    if row["rule"] not in reopening.RULES or row["winner"] == "neither":
        return None
    side = "theirs" if row["winner"] == "ours" else "ours"
    return Lost(row["field"], row[side], row[f"{side}_at"])
