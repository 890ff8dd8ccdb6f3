"""Events that come too late to say what their record holds now, and yet tell something. Pure.

Those that a delete overtook, and those that show that a value was there earlier than we believed.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from schemas.events import InboundEvent
from streams.inbound import entities, tracks
from streams.inbound.incoming import Incoming, Unit
from streams.inbound.loaded import Loaded
from streams.inbound.tracks import Folded, Track
from streams.rules import echoes, overtaken, reopening
from streams.rules.field_conflicts import same
from streams.rules.sides import Agreed, Decision, Kind, Ours, Theirs


def was_deleted_since(track: Track, event: InboundEvent) -> bool:
    """Whether they have deleted the record after what the event tells of it."""
    record, at = track.record, track.record.state.at
    gone = track.gone or (record.came_back and record.link_id is None)
    known = track.entity is not None and at is not None
    return gone and known and event.op != "delete" and event.occurred_at < (at or event.occurred_at)


def before_delete(unit: Unit, loaded: Loaded, folded: Folded, track: Track, each: Incoming) -> tuple[str, str]:
    """Decide an edit that comes after the delete of the record: it makes no link, and nobody alive."""
    entity, state = track.entity, track.record.state
    if entity is None:
        raise AssertionError("what was deleted had an entity")
    ours = replace(entity.ours(), deleted=False)
    theirs, agreed = each.theirs(tracks.read(unit, loaded, track, each).document), track.agreed(loaded)
    # Of each field it is newer than what we know, or older: the two decisions touch none in common.
    older = reopen(unit, loaded, folded, track, ours, theirs, agreed)
    newer = overtaken.before_delete(ours, theirs, agreed, unit.terms, state.spans)
    found = [each for each in (newer, older) if each is not None and each.kind is not Kind.DROP]
    for decision in found:
        entity.take(decision, each.event, each.written_at)
        folded.note(track, each, decision, ours)
    if newer in found:
        told = {key: value for key, value in theirs.document.items() if same(key, theirs.document, newer.base)}
        state.spans = reopening.noted(state.spans, told, state.base or {}, None, each.written_at)
        state.base, track.state_moved = newer.base, True
    decision = found[0] if found else newer
    return echoes.ledger_entry(decision), decision.reason


def keep(unit: Unit, loaded: Loaded, folded: Folded, track: Track, each: Incoming) -> None:
    """What they said of a record that is gone, and that we hear too late, is in the log: the entity may live."""
    record = track.record
    rows = loaded.rows.get(record.former or "")
    if rows is None or each.event.op == "delete":
        return
    ours = entities.of_rows(unit, loaded, rows).ours()
    theirs = each.theirs(tracks.read(unit, loaded, track, each).document)
    folded.note(track, each, overtaken.log_only(ours, theirs, record.state.base or {}), ours)


def reopen(
    unit: Unit, loaded: Loaded, folded: Folded, track: Track, ours: Ours, theirs: Theirs, agreed: Agreed
) -> Decision | None:
    """What an event that is too old for anything else tells of the times of what they hold."""
    state, entity_id = track.record.state, track.record.entity_id or ""
    losers = (tracks.lost(row) for row in folded.losers if row["entity_id"] == entity_id)
    lost = [*loaded.lost.get(entity_id, ()), *(each for each in losers if each)]
    shared = entity_id in loaded.shared
    found = reopening.reopen(ours, theirs, agreed, unit.terms, state.spans, lost, shared=shared)
    if found is None:
        return None
    state.spans, track.state_moved = found.spans, True
    rows = [{"entity_id": entity_id, **asdict(each)} for each in found.moved]
    folded.moved += rows
    tracks.retime(folded.losers, rows)
    return found.decision
