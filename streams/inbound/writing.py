"""What a unit's events come to, written in the applier's transaction: rows, links, states, questions, corrections.

The applier's third step, after `reading` and `folding`; the ledger and the next offset follow in the same transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from psycopg import AsyncConnection

from schemas.fields import Json, Part
from streams.inbound import customs, part_links
from streams.inbound.entities import Entity, view
from streams.inbound.incoming import Unit
from streams.inbound.loaded import Loaded, Record
from streams.inbound.tracks import Folded, Track
from streams.rules import echoes
from streams.store import canon_writes, queries, waits, wishes
from streams.store.canon_writes import RowWrite, Written
from streams.store.wishes import Wish

Conn = AsyncConnection[Any]
Row = dict[str, Json]

_SQL = queries("inbound")


async def write(conn: Conn, unit: Unit, loaded: Loaded, folded: Folded, now: datetime) -> int:
    """Write it all; how many corrections were planned."""
    rows = [row for track in folded.tracks for row in rows_of(unit, loaded, track)]
    written = await canon_writes.write(conn, unit.org_id, rows)
    _read_back(unit, loaded, folded, written)
    moved = [track for track in folded.tracks if track.state_moved]
    await _save_links(conn, unit, folded, now)
    await part_links.save(conn, unit, loaded, folded, now)
    await _run(conn, unit, "save_states", [state_of(track) for track in moved], now)
    await _run(conn, unit, "move_times", folded.moved, now)
    await _run(conn, unit, "save_losers", folded.losers, now)
    await _save_questions(conn, unit, loaded, moved, now)
    await conn.execute(_SQL["close_reviews"], {**unit.scope, "ids": [t.record.external_id for t in moved], "now": now})
    corrections = [_correction(unit, t) for t in moved if needs_correction(loaded, t, written)]
    await wishes.add(conn, corrections, now=now)
    await _begin_anew(conn, unit, [t.record for t in moved if t.gone], now)
    return len(corrections)


async def _begin_anew(conn: Conn, unit: Unit, gone: Sequence[Record], now: datetime) -> None:
    """Of records that they deleted: the next write makes them anew."""
    if gone:
        links = [{"id": record.link_id, "at": record.state.at} for record in gone]
        await _run(conn, unit, "close_links", links, now)
        entities = sorted(record.entity_id or "" for record in gone)
        await conn.execute(_SQL["next_generation"], {**unit.scope, "ids": entities})


def rows_of(unit: Unit, loaded: Loaded, track: Track) -> Iterator[RowWrite]:
    """The rows of one entity that its events changed, the root first."""
    entity = track.entity
    if entity is None or entity.last is None:
        return
    origin, event = _origin(unit, loaded, track, entity), entity.last.event_id.hex()
    columns = {key: value for key, value in entity.write.items() if "/" not in key}
    if entity.marked is not None:
        columns |= _mark(unit, entity)
    custom = customs.of_row(unit, entity, "")
    if columns or entity.made or custom or entity.retimed:
        times = {name: entity.edited_at.get(name, entity.modified_at) for name in columns.keys() | entity.retimed}
        yield RowWrite(
            unit.root.name, entity.id, columns, entity.modified_at, origin, event, "", entity.made, times, custom
        )
    for part in unit.aggregate.parts:
        kept = entity.write.keys() | entity.write_custom.keys()
        for key in sorted(key for key in kept if key.startswith(f"{part.entity_type}/")):
            yield from _rows_of_part(part, key, entity, origin, event, customs.of_row(unit, entity, key))


def _rows_of_part(
    part: Part, key: str, entity: Entity, origin: str, event: str, custom: Row | None
) -> Iterator[RowWrite]:
    kind, part_id, value, at = part.entity_type, key.partition("/")[2], entity.write.get(key, {}), entity.edited_at[key]
    if value is None:
        if key in entity.living:
            yield RowWrite(kind, part_id, {"deleted_at": at.isoformat()}, at, origin, event)
    elif key in entity.living:
        yield RowWrite(kind, part_id, value, at, origin, event, custom=custom)
    else:
        made = {**value, part.parent: entity.id, "deleted_at": None}
        yield RowWrite(kind, part_id, made, at, origin, event, part.parent, insert=True, custom=custom)


def _origin(unit: Unit, loaded: Loaded, track: Track, entity: Entity) -> str:
    if entity.marked:
        return unit.connection.name  # they hold nothing of it any more, so there is nothing to tell them
    if entity.deleted:
        return str(loaded.rows[entity.id].root["origin"])  # who deleted it is still to be known
    return echoes.origin(unit.connection.name, track.open_differences, intent_open=entity.id in loaded.intents)


def _mark(unit: Unit, entity: Entity) -> Row:
    if not entity.marked:
        return {"deleted_at": None, "status": "active"}
    status = "archived" if unit.terms.delete == "archive" else "deleted"
    return {"deleted_at": entity.modified_at.isoformat(), "status": status}


def _read_back(unit: Unit, loaded: Loaded, folded: Folded, written: Written) -> None:
    """Take over what the database made of the values: a trigger or a type may have changed them."""
    if not written.differing:
        return
    tables = {}
    for (table, row_id), columns in written.differing.items():
        tables[row_id] = (table, columns)
    for track in folded.tracks:
        entity = track.entity
        if entity is None:
            continue
        if entity.id in tables:
            held = tables[entity.id][1]
            entity.document |= {name: value for name, value in held.items() if name in entity.document}
        for key in [key for key in entity.document if "/" in key and key.partition("/")[2] in tables]:
            held = tables[key.partition("/")[2]][1]
            part = entity.document[key]
            entity.document[key] = part | {name: value for name, value in held.items() if name in part}
        entity.seen = view(unit, loaded, entity.document)


def needs_correction(loaded: Loaded, track: Track, written: Written) -> bool:
    """Whether they are to get our state: they hold something else, or the database made something else of theirs."""
    asked = track.questions.keys() | loaded.questions.get(track.record.entity_id or "", set())
    if track.correct:
        return True
    return bool(written.differing) and bool(track.open_differences - asked)


def _correction(unit: Unit, track: Track) -> Wish:
    """They hold something else than we do now: the wish that they get our state."""
    return {
        "org_id": unit.org_id,
        "connection": unit.connection.name,
        "external_type": unit.aggregate.external_type,
        "entity_type": unit.root.name,
        "entity_id": track.record.entity_id or "",
        "state": "PENDING",
        "reason": "correct_remote",
    }


async def _save_links(conn: Conn, unit: Unit, folded: Folded, now: datetime) -> None:
    new = [track.record for track in folded.tracks if track.link_is_new]
    rows = [
        {"id": r.link_id, "external_id": r.external_id, "entity_id": r.entity_id, "made_by": r.made_by} for r in new
    ]
    await _run(conn, unit, "save_links", rows, now)
    gone = [t.record for t in folded.tracks if t.record.gone_at and not t.link_is_new]
    tombs: list[Row] = [{"external_id": r.external_id, "link": r.former_link, "at": r.gone_at} for r in gone]
    await _run(conn, unit, "save_gone", [tomb for tomb in tombs if tomb["link"] is None], now)
    await _run(conn, unit, "gone_again", [tomb for tomb in tombs if tomb["link"] is not None], now)
    linked = [record.entity_id for record in new if record.entity_id]
    if linked:
        await conn.execute(_SQL["settle_creates"], {**unit.scope, "ids": linked, "now": now})
    await waits.release(conn, unit.org_id, unit.connection.name, linked, now=now)
    changed = [t for t in folded.tracks if t.record.link_id and dict(t.record.unresolved) != t.unresolved]
    waiting = [{"id": t.record.link_id, "unresolved": t.unresolved} for t in changed]
    await _run(conn, unit, "save_unresolved", waiting, now)
    seen = [t.record.link_id for t in folded.tracks if t.record.link_id and not t.state_moved]
    if seen:
        await conn.execute(_SQL["touch_states"], {**unit.scope, "ids": seen, "now": now})


def state_of(track: Track) -> Row:
    """The link's state after all events."""
    state = track.record.state
    return {
        "link_id": track.record.link_id or track.record.former_link,
        "external_version": state.version,
        "external_updated_at": state.at,
        "heard_at": state.heard_at,
        "pushed_at": state.pushed_at,
        "base": state.base or {},
        "over": state.over,
        "spans": state.spans,
    }


async def _save_questions(conn: Conn, unit: Unit, loaded: Loaded, moved: Iterable[Track], now: datetime) -> None:
    asked: list[Row] = []
    settled: list[Row] = []
    for track in moved:
        entity_id = track.record.entity_id or ""
        if not (track.questions or loaded.questions.get(entity_id)):
            continue
        new, equal = questions_of(track, loaded.questions.get(entity_id, set()))
        asked += new
        held = track.entity.document if track.entity else {}
        settled += [{"entity_id": entity_id, "field": name, "value": held.get(name)} for name in equal]
    await _run(conn, unit, "save_questions", asked, now)
    await _run(conn, unit, "close_questions", settled, now)


def questions_of(track: Track, open_before: Collection[str]) -> tuple[list[Row], list[str]]:
    """What a person is asked about a record, and the fields of open questions on which both sides agree by now."""
    # A record that is there again answers the question about its delete.
    differing = track.open_differences | (frozenset() if track.alive_there else {"deleted_at"})
    asked = [question for name, question in track.questions.items() if name in differing]
    return asked, sorted(set(open_before) - differing)


async def _run(conn: Conn, unit: Unit, name: str, rows: Sequence[Mapping[str, Json]], now: datetime) -> None:
    if rows:
        await conn.execute(_SQL[name], {**unit.scope, "rows": orjson.dumps(rows).decode(), "now": now})
