"""What becomes of a unit's events: each is decided in order on the state the one before left, the result written once.

The applier's second step, between `reading` and `writing`. Pure: values in, values out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

from schemas.events import InboundEvent
from schemas.fields import Json
from streams.inbound import customs, entities, late_events, part_links, tracks
from streams.inbound.entities import Entity
from streams.inbound.incoming import Incoming, Unit
from streams.inbound.loaded import Loaded, Record
from streams.inbound.tracks import Folded, Track
from streams.rules import alternation, conflicts, echoes, references, reopening, typeids
from streams.rules.mapping import Reading
from streams.rules.sides import Agreed, Decision, Kind

READ_BEFORE = timedelta(minutes=1)
"""How long after we deleted a record a poll may still show what it read before."""


def fold(unit: Unit, loaded: Loaded, incoming: Iterable[Incoming]) -> Folded:
    """Decide every event."""
    return _Fold(unit, loaded).run(incoming)


class _Fold:
    def __init__(self, unit: Unit, loaded: Loaded) -> None:
        self._unit, self._loaded = unit, loaded
        self._tracks = {key: self._track(record) for key, record in loaded.records.items()}
        self._folded = Folded(list(self._tracks.values()))

    def run(self, incoming: Iterable[Incoming]) -> Folded:
        for each in incoming:
            track = self._tracks[each.event.external_id]
            kind, reason = self._one(track, each)
            self._folded.entries.append(tracks.entry(each.event, kind, reason, track.record.entity_id))
        return self._folded

    def _track(self, record: Record) -> Track:
        entity_id = record.entity_id or ""
        rows = self._loaded.rows.get(entity_id)
        received = self._loaded.received.get(entity_id)
        track = Track(record, received_at=received, unresolved=dict(record.unresolved))
        if rows is not None:
            track.entity = entities.of_rows(self._unit, self._loaded, rows)
            track.part_ids = part_links.known(self._loaded, track)
        return track

    def _one(self, track: Track, each: Incoming) -> tuple[str, str]:
        """Fold one event; the ledger's decision and reason."""
        unit, loaded, folded = self._unit, self._loaded, self._folded
        if late_events.was_deleted_since(track, each.event):
            return late_events.before_delete(unit, loaded, folded, track, each)
        if refusal := self._refusal(track, each.event):
            late_events.keep(unit, loaded, folded, track, each)
            return "ignored", refusal
        if track.entity is None:
            return self._create(track, each)
        ours, agreed, reading = track.entity.ours(), track.agreed(loaded), tracks.read(unit, loaded, track, each)
        theirs = each.theirs(reading.document)
        decision = conflicts.decide(ours, theirs, agreed, unit.terms)
        lately = loaded.pushed.get(track.entity.id, Counter())
        decision = alternation.stop(decision, ours, theirs, agreed, lately)
        if decision.revive:
            decision = reopening.revive(decision, ours, theirs, agreed, unit.terms, track.record.state.spans)
        if decision.reason == "stale" and not theirs.deleted:
            decision = late_events.reopen(unit, loaded, folded, track, ours, theirs, agreed) or decision
        if decision.kind is not Kind.DROP:
            self._advance(track, each, decision, reading)
            folded.note(track, each, decision, ours)
        if customs.count(decision, theirs, agreed):
            part_links.note(unit, track, reading, agreed.base or {})
            customs.keep(unit, track.entity, each, reading)
        return echoes.ledger_entry(decision), decision.reason

    def _refusal(self, track: Track, event: InboundEvent) -> str:
        record = track.record
        if record.refused:
            return record.refused
        if track.entity is not None and not (record.came_back and record.link_id is None):
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
        return "" if self._unit.creates or record.came_back else "option_2"

    def _create(self, track: Track, each: Incoming) -> tuple[str, str]:
        event, reading = each.event, tracks.read(self._unit, self._loaded, track, each)
        theirs = each.theirs(reading.document)
        decision = conflicts.decide(None, theirs, Agreed(), self._unit.terms)
        entity_id = typeids.derived(self._unit.root.prefix, event.received_at, event.event_id)
        track.entity = Entity(entity_id, {}, {}, each.written_at, made=True)
        part_links.note(self._unit, track, reading, {})
        self._advance(track, each, decision, reading)
        customs.keep(self._unit, track.entity, each, reading)
        return "applied", "created"

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
        entity.take(decision, event, at)
        track.correct = track.correct or decision.remote_needs_correction
        if decision.hidden:
            return  # of an older state than the newest: neither alive nor gone by it
        track.gone = decision.gone
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


def _is_soon(event: InboundEvent, closed_at: datetime | None) -> bool:
    return closed_at is not None and event.received_at < closed_at + READ_BEFORE
