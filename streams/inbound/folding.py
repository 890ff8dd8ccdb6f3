"""What becomes of a unit's events: each is decided in order on the state the one before left, the result written once.

The applier's second step, between `reading` and `writing`. Pure: values in, values out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

from schemas.events import InboundEvent
from schemas.fields import Document, Json
from streams.inbound import customs, part_links
from streams.inbound.incoming import Incoming, Unit
from streams.inbound.reading import Loaded, Record
from streams.rules import alternation, conflicts, echoes, mapping, matching, payloads, references, reopening, typeids
from streams.rules.custom_fields import Custom
from streams.rules.mapping import Reading
from streams.rules.reopening import Lost
from streams.rules.sides import Agreed, Decision, Kind, Ours, Theirs, merged
from streams.store.aggregates import Rows

Row = dict[str, Json]


READ_BEFORE = timedelta(minutes=1)
"""How long after we deleted a record a poll may still show what it read before."""


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
    made: bool = False
    write: Document = field(default_factory=dict)
    custom: dict[str, Custom] = field(default_factory=dict)
    write_custom: dict[str, Custom] = field(default_factory=dict)
    retimed: set[str] = field(default_factory=set)
    marked: bool | None = None
    last: InboundEvent | None = None


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
    recreate: bool = False


@dataclass(slots=True)
class Folded:
    """The outcome of all events of a unit, before anything is written."""

    tracks: list[Track]
    entries: list[Row] = field(default_factory=list)
    losers: list[Row] = field(default_factory=list)
    moved: list[Row] = field(default_factory=list)


def fold(unit: Unit, loaded: Loaded, incoming: Iterable[Incoming]) -> Folded:
    """Decide every event."""
    return _Fold(unit, loaded).run(incoming)


def view(unit: Unit, loaded: Loaded, document: Document) -> Document:
    """Ours as their system can represent it."""
    return mapping.view(unit.aggregate, document, loaded.their_id)


class _Fold:
    def __init__(self, unit: Unit, loaded: Loaded) -> None:
        self._unit, self._loaded = unit, loaded
        self._tracks = {key: self._track(record) for key, record in loaded.records.items()}
        self._folded = Folded(list(self._tracks.values()))

    def run(self, incoming: Iterable[Incoming]) -> Folded:
        for each in incoming:
            track = self._tracks[each.event.external_id]
            kind, reason = self._one(track, each)
            self._enter(each.event, track, kind, reason)
        return self._folded

    def _track(self, record: Record) -> Track:
        entity_id = record.entity_id or ""
        rows = self._loaded.rows.get(entity_id)
        received = self._loaded.received.get(entity_id)
        track = Track(record, received_at=received, unresolved=dict(record.unresolved))
        if rows is not None:
            track.entity = _entity(self._unit, self._loaded, entity_id, rows)
            track.part_ids = part_links.known(self._loaded, track)
        return track

    def _one(self, track: Track, each: Incoming) -> tuple[str, str]:
        """Fold one event; the ledger's decision and reason."""
        if refusal := self._refusal(track, each.event):
            return "ignored", refusal
        if track.entity is None:
            return self._create(track, each)
        ours, agreed, reading = self._ours(track.entity), self._agreed(track), self._read(track, each)
        theirs = self._theirs(each, reading)
        decision = conflicts.decide(ours, theirs, agreed, self._unit.terms)
        lately = self._loaded.pushed.get(track.entity.id, Counter())
        decision = alternation.stop(decision, ours, theirs, agreed, lately)
        if decision.reason == "stale" and not theirs.deleted:
            decision = self._reopen(track, ours, theirs, agreed) or decision
        if decision.kind is not Kind.DROP:
            self._advance(track, each, decision, reading)
            self._note(track, each, decision, ours)
        if customs.count(decision, theirs, agreed):
            part_links.note(self._unit, track, reading, agreed.base or {})
            customs.keep(self._unit, track.entity, each, reading)
        return echoes.ledger_entry(decision), decision.reason

    def _refusal(self, track: Track, event: InboundEvent) -> str:
        record = track.record
        if record.refused:
            return record.refused
        if track.entity is not None:
            return ""
        if record.link_id is not None:
            return "deleted_here"
        if record.deleted_by_us and (event.source == "webhook" or _is_soon(event, record.unlinked_at)):
            return "deleted_here"  # by their clock it may be later; only what is read there tells that it is back
        if event.op == "delete":
            record.gone_at = max(event.occurred_at, record.gone_at or event.occurred_at)
            record.unlinked_at = max(record.gone_at, record.unlinked_at or record.gone_at)
            return "unknown_here"
        if record.unlinked_at is not None and event.occurred_at <= record.unlinked_at:
            return "unlinked_since"
        return "" if self._unit.creates else "option_2"

    def _create(self, track: Track, each: Incoming) -> tuple[str, str]:
        event, reading = each.event, self._read(track, each)
        theirs = self._theirs(each, reading)
        decision = conflicts.decide(None, theirs, Agreed(), self._unit.terms)
        entity_id = typeids.derived(self._unit.root.prefix, event.received_at, event.event_id)
        track.entity = Entity(entity_id, {}, {}, each.written_at, made=True)
        part_links.note(self._unit, track, reading, {})
        self._advance(track, each, decision, reading)
        customs.keep(self._unit, track.entity, each, reading)
        return "applied", "created"

    def _reopen(self, track: Track, ours: Ours, theirs: Theirs, agreed: Agreed) -> Decision | None:
        """What an event that is too old for anything else tells of the times of what they hold."""
        state, entity_id = track.record.state, track.record.entity_id or ""
        losers = (lost(row) for row in self._folded.losers if row["entity_id"] == entity_id)
        values = [*self._loaded.lost.get(entity_id, ()), *(each for each in losers if each)]
        shared = entity_id in self._loaded.shared
        found = reopening.reopen(ours, theirs, agreed, self._unit.terms, state.spans, values, shared=shared)
        if found is None:
            return None
        state.spans, track.state_moved = found.spans, True
        rows = [{"entity_id": entity_id, **asdict(each)} for each in found.moved]
        self._folded.moved += rows
        retime(self._folded.losers, rows)
        return found.decision

    def _ours(self, entity: Entity) -> Ours:
        hidden = {k: v for k, v in entity.document.items() if k not in entity.seen and "/" not in k and v is not None}
        return Ours(
            entity.seen,
            entity.modified_at,
            entity.version,
            dict(entity.edited_at),
            hidden,
            deleted=entity.deleted,
            deleted_there=entity.deleted_there,
        )

    def _agreed(self, track: Track) -> Agreed:
        state = track.record.state
        in_flight = self._loaded.intents.get(track.record.entity_id or "", {})
        return Agreed(
            state.base, state.version, state.at, track.received_at, state.untimed_push_at, in_flight, state.over
        )

    def _theirs(self, each: Incoming, reading: Reading) -> Theirs:
        event = each.event
        return Theirs(
            reading.document,
            event.occurred_at,
            each.written_at,
            event.external_version,
            event.received_at,
            deleted=event.op == "delete",
        )

    def _read(self, track: Track, each: Incoming) -> Reading:
        event, aggregate = each.event, self._unit.aggregate
        if event.op == "delete":
            return Reading({})
        # An item without our id is first sought in what they held: that is the form in which they know it.
        known = (track.entity.document if track.entity else {}) | (track.record.state.base or {})
        reading = mapping.read(
            aggregate,
            payloads.with_whole_parts(aggregate, each.payload),
            known=known,
            our_id=self._loaded.our_id,
            new_id=lambda kind, place: typeids.derived(kind, event.received_at, event.event_id, kind, str(place)),
            part_ids=track.part_ids,
            alike=self._alike if track.record.state.base is None else None,
        )
        payloads.check_times(reading.document, self._unit.times)
        return reading

    def _alike(self, kind: str, one: Document, other: Document) -> bool:
        """Before we know what they hold, a key that is spelled differently is the same part, and not a second one."""
        return matching.alike(self._unit.part_keys.get(kind, {}), one, other)

    def _advance(self, track: Track, each: Incoming, decision: Decision, reading: Reading) -> None:
        """The state after a decision that was not to drop the event."""
        record, entity, event = track.record, track.entity, each.event
        if entity is None:
            raise AssertionError("only what has an entity is decided")
        if record.link_id is None:
            record.link_id, track.link_is_new = typeids.derived("link", event.received_at, event.event_id), True
        record.entity_id, track.state_moved = entity.id, True
        state = record.state
        at = each.written_at if decision.since is None else min(each.written_at, decision.since - each.ahead)
        if not decision.hidden and event.op != "delete":
            known = state.at - each.ahead if state.at else None
            state.spans = reopening.noted(state.spans, reading.document, state.base, known, at)
        state.base = decision.base
        if decision.over is not None:
            state.over = decision.over
        if not decision.hidden:
            track.received_at, state.version = event.received_at, event.external_version
            if not state.untimed_push_at:
                state.pushed_at = None  # what is heard from here on comes after a push whose time they told
            state.at = state.heard_at = event.occurred_at
        _write(entity, decision, each.event, at)
        track.correct = track.correct or decision.remote_needs_correction
        track.recreate = decision.recreate
        if decision.hidden:
            return  # of an older state than the newest: neither alive nor gone by it
        track.alive_there = event.op != "delete"
        if track.alive_there:
            track.questions.pop("deleted_at", None)
            track.unresolved = self._keep_unresolved(track, each, reading)

    def _keep_unresolved(self, track: Track, each: Incoming, reading: Reading) -> dict[str, Json]:
        """References to records we do not know yet. Ours must not go out over them: what they hold counts as ours."""
        missing = references.unresolved(self._unit.aggregate, each.payload, self._loaded.our_id)
        base, entity = track.record.state.base, track.entity
        if base is not None and entity is not None:
            base |= {name: entity.document.get(name) for name in missing}
        within = references.unresolved_in_items(self._unit.aggregate, reading.items, self._loaded.our_id)
        for key, name in (place.split(".") for place in within):
            if base is not None and entity is not None and base.get(key) and entity.document.get(key):
                base[key] = base[key] | {name: entity.document[key].get(name)}
        return {name: list(reference) for name, reference in (missing | within).items()}

    def _note(self, track: Track, each: Incoming, decision: Decision, ours: Ours) -> None:
        entity_id, event_id = track.record.entity_id, each.event.event_id.hex()
        for loser in decision.losers:
            ours_at = decision.times.get(loser.field) or ours.edited_at.get(loser.field, ours.modified_at)
            values = {"base": loser.base, "ours": loser.ours, "theirs": loser.theirs}
            times = {"ours_at": ours_at, "theirs_at": each.written_at}
            named = {"entity_id": entity_id, "field": loser.field, "winner": loser.winner, "rule": loser.rule}
            self._folded.losers.append(named | values | times | {"event_id": event_id})
        for question in decision.questions:
            values = {"base": question.base, "ours": question.ours, "theirs": question.theirs}
            named = {"entity_id": entity_id, "field": question.field, "rule": question.rule, "event_id": event_id}
            track.questions[question.field] = named | values

    def _enter(self, event: InboundEvent, track: Track, kind: str, reason: str) -> None:
        entity_id = track.record.entity_id
        self._folded.entries.append(entry(event, kind, reason, entity_id))


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


def _is_soon(event: InboundEvent, closed_at: datetime | None) -> bool:
    return closed_at is not None and event.received_at < closed_at + READ_BEFORE


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


def _entity(unit: Unit, loaded: Loaded, entity_id: str, rows: Rows) -> Entity:
    document = rows.document(unit.aggregate)
    removed = loaded.removed.get(entity_id, {})
    edited_at = {
        f"{kind}/{row['id']}": datetime.fromisoformat(row["modified_at"])
        for kind, parts in rows.parts.items()
        for row in parts
    }
    times = rows.root["field_times"]
    default = times.get("", rows.root["modified_at"])
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
        deleted_there=rows.deleted and rows.root["origin"] == unit.connection.name,
        custom=rows.custom(unit.connection.name),
    )


def _write(entity: Entity, decision: Decision, event: InboundEvent, at: datetime) -> None:
    made = {loser.field for loser in decision.losers if loser.winner == "neither"}
    for key in decision.taken:
        written = decision.times.get(key, at)
        if "/" in key or key in made:
            entity.edited_at[key] = max(entity.edited_at.get(key, written), written)
        else:
            entity.edited_at[key] = written
        if "/" not in key:
            entity.modified_at = max(entity.modified_at, written)
    entity.edited_at |= decision.times
    entity.retimed |= decision.times.keys()
    write = {key: _with_hidden(entity, key, value) for key, value in decision.write.items()}
    entity.document = merged(entity.document, write)
    entity.seen = merged(entity.seen, decision.write)  # what is theirs, they can represent
    entity.write |= write
    if decision.delete or decision.revive:
        entity.deleted = entity.deleted_there = entity.marked = decision.delete
        entity.modified_at = max(entity.modified_at, at)
    if decision.taken or decision.times or decision.delete or decision.revive or entity.made:
        entity.last = event


def _with_hidden(entity: Entity, key: str, value: Json) -> Json:
    """A part as they told it, with what of ours they cannot represent: a reference to something they lack."""
    ours, seen = entity.document.get(key), entity.seen.get(key)
    if "/" not in key or not (value and ours and seen):
        return value
    hidden = {name: held for name, held in ours.items() if held is not None and seen.get(name) is None}
    return value | {name: held for name, held in hidden.items() if value.get(name) is None}


def open_differences(track: Track) -> frozenset[str]:
    """Outward-mapped fields in which they hold something else than we do, after all events."""
    return echoes.unheld(track.entity.seen, track.record.state.base or {}) if track.entity else frozenset()
