"""Links of parts: an item of a list that has an id of theirs is found by it again, whatever it holds.

A part's link has the item's external type and id, and `part` says of which record it is an item. All links of a batch's
entities are read at once. After the events, a part that they hold has a link to the item they last told of, and any
other link of the entity's parts is closed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
from psycopg import AsyncConnection

from schemas.fields import Document, Json, Part
from streams.inbound.incoming import Unit
from streams.rules import typeids
from streams.rules.mapping import Reading
from streams.store import queries

if TYPE_CHECKING:
    from streams.inbound.loaded import Loaded
    from streams.inbound.tracks import Folded, Track

Conn = AsyncConnection[Any]
Row = dict[str, Json]

_SQL = queries("inbound")


@dataclass(frozen=True, slots=True)
class PartLink:
    """A link of a part; `key` is the part's, `record` their record that holds the item."""

    id: str
    key: str
    external_type: str
    external_id: str
    record: str


def kinds(unit: Unit) -> dict[str, Part]:
    """The part types whose items have ids of theirs."""
    return {part.entity_type: part for part in unit.aggregate.parts if part.external_id}


async def load(conn: Conn, unit: Unit, loaded: Loaded) -> None:
    """Read the links of the parts of all entities that were found."""
    if not (kinds(unit) and loaded.rows):
        return
    keys = [f"{unit.org_id}/{entity_id}" for entity_id in sorted(loaded.rows)]
    types = [part.external_type for part in kinds(unit).values()]
    found: dict[str, list[PartLink]] = defaultdict(list)
    cursor = await conn.execute(_SQL["part_links"], {**unit.scope, "keys": keys, "types": types})
    async for sync_key, kind, part_id, *told in cursor:
        found[sync_key.partition("/")[2]].append(PartLink(told[0], f"{kind}/{part_id}", *told[1:]))
    loaded.part_links = dict(found)


def known(loaded: Loaded, track: Track) -> dict[tuple[str, str], str]:
    """The parts that the items of a record are linked with: (part type, their id) -> the part's id."""
    found = loaded.part_links.get(track.record.entity_id or "", ())
    own = (link for link in found if link.record == track.record.external_id)
    return {(link.key.partition("/")[0], link.external_id): link.key.partition("/")[2] for link in own}


def note(unit: Unit, track: Track, reading: Reading, before: Document) -> None:
    """Remember which items an event that counts told of, and which of them were news.

    The event that brings our own push back counts, too: it tells the ids of the items that we sent without.

    Args:
        before: what they held before it, as far as we know.
    """
    track.items_told = True
    for key, theirs in reading.their_ids(unit.aggregate).items():
        kind, _, part_id = key.partition("/")
        track.part_ids.pop((kind, theirs), None)
        track.part_ids[kind, theirs] = part_id  # the latest of a part comes last
        if reading.document[key] != before.get(key):
            track.changed_parts.add(key)


async def save(conn: Conn, unit: Unit, loaded: Loaded, folded: Folded, now: datetime) -> None:
    """Close the links that hold no longer, make the new ones, and write the states of what changed."""
    if not kinds(unit):
        return
    gone: list[Row] = []
    new: list[Row] = []
    states: list[Row] = []
    for track in folded.tracks:
        if track.entity is not None and (track.items_told or track.gone):
            _sort(unit, loaded, track, gone, new, states)
    for name, rows in (("close_links", gone), ("save_part_links", new), ("save_states", states)):
        if rows:
            await conn.execute(_SQL[name], {**unit.scope, "rows": orjson.dumps(rows).decode(), "now": now})


def _sort(unit: Unit, loaded: Loaded, track: Track, gone: list[Row], new: list[Row], states: list[Row]) -> None:
    record, base = track.record, track.record.state.base or {}
    wanted = {} if track.gone else dict(_held(track, base))
    links = {}
    for link in loaded.part_links.get(record.entity_id or "", ()):
        if link.record == record.external_id and wanted.get(link.key) == link.external_id:
            links[link.key] = link.id
        else:
            gone.append({"id": link.id, "at": record.state.at})
    at = record.state.at
    if at is None:
        raise AssertionError("a state that moved has a time")
    for key, theirs in sorted(wanted.items()):
        if key not in links:
            part = kinds(unit)[key.partition("/")[0]]
            links[key] = typeids.derived("link", at, record.link_id or "", key, theirs)
            new.append(_link(unit, track, part, key, theirs) | {"id": links[key]})
        elif key not in track.changed_parts:
            continue
        states.append(_state(links[key], base[key], at))


def _held(track: Track, base: Document) -> Iterator[tuple[str, str]]:
    for (kind, theirs), part_id in track.part_ids.items():
        if base.get(f"{kind}/{part_id}") is not None:
            yield f"{kind}/{part_id}", theirs


def _link(unit: Unit, track: Track, part: Part, key: str, theirs: str) -> Row:
    return {
        "external_type": part.external_type,
        "external_id": theirs,
        "part": track.record.external_id,
        "entity_type": part.entity_type,
        "entity_id": key.partition("/")[2],
        "sync_key": f"{unit.org_id}/{track.record.entity_id}",
    }


def _state(link_id: str, content: Json, at: datetime) -> Row:
    return {
        "link_id": link_id,
        "external_version": None,
        "external_updated_at": at,
        "heard_at": at,
        "pushed_at": None,
        "base": content,
        "over": [],
        "spans": {},
    }
