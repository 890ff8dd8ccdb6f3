"""What we know of the records a batch of events is about: links and states, locked; rows, locked; pushes on their way.

The applier's first step. One call reads one unit, every table once; `streams.inbound.folding` decides on the values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from psycopg import AsyncConnection, sql

from schemas.fields import Json
from streams.inbound import part_links
from streams.inbound.incoming import Incoming, Unit
from streams.inbound.loaded import Loaded, Record, State
from streams.rules import alternation, references, reopening
from streams.rules.references import Reference
from streams.rules.reopening import Lost, Span
from streams.rules.sides import Over
from streams.store import aggregates, queries

Conn = AsyncConnection[Any]
IsOurId = Callable[[str, str], bool]
"""(entity type, id) -> whether it looks like one of our ids of that type."""

_SQL = queries("inbound")


async def load(conn: Conn, unit: Unit, incoming: Sequence[Incoming], is_our_id: IsOurId) -> Loaded:
    """Read and lock what these events are about."""
    loaded = Loaded({each.event.external_id: Record(each.event.external_id) for each in incoming})
    await _load_links(conn, unit, loaded)
    new = [record for record in loaded.records.values() if record.link_id is None]
    await _load_closed_links(conn, unit, new)
    ours = await _own(conn, unit, new, incoming, is_our_id)
    known = {each for r in loaded.records.values() for each in (r.entity_id, r.former) if each} | set(ours.values())
    loaded.rows = await aggregates.read(
        conn, unit.aggregate, unit.org_id, known, lock=True, custom_of=unit.connection.name
    )
    await _load_refusals(conn, unit, new, ours, loaded)
    await _load_about(conn, unit, incoming, loaded, is_our_id)
    return loaded


async def adopt(conn: Conn, unit: Unit, loaded: Loaded, incoming: Sequence[Incoming], is_our_id: IsOurId) -> None:
    """Read and lock also the entities that records were matched with since."""
    more = {r.entity_id for r in loaded.records.values() if r.entity_id} - loaded.rows.keys()
    loaded.rows |= await aggregates.read(
        conn, unit.aggregate, unit.org_id, more, lock=True, custom_of=unit.connection.name
    )
    loaded.pushed = {}
    await _load_about(conn, unit, incoming, loaded, is_our_id)


async def _load_about(conn: Conn, unit: Unit, incoming: Sequence[Incoming], loaded: Loaded, is_our_id: IsOurId) -> None:
    """What else there is to know of the entities that were found."""
    entities = sorted(loaded.rows)
    if entities:
        await _load_intents(conn, unit, entities, loaded)
        await _load_removed_parts(conn, unit, incoming, loaded)
        await _load_ties(conn, unit, incoming, loaded)
        await _load_pushes(conn, unit, incoming, loaded)
        await _load_lost(conn, unit, incoming, loaded)
    await part_links.load(conn, unit, loaded)
    await _load_references(conn, unit, incoming, loaded, is_our_id)


async def _load_links(conn: Conn, unit: Unit, loaded: Loaded) -> None:
    by_link: dict[str, Record] = {}
    cursor = await conn.execute(_SQL["links"], {**unit.scope, "ids": sorted(loaded.records)})
    async for link_id, external_id, entity_id, metadata in cursor:
        record = by_link[link_id] = loaded.records[external_id]
        record.link_id, record.entity_id = link_id, entity_id
        record.unresolved = metadata.get("unresolved", {})
        record.refused = "" if entity_id else "unmatched"
    await _load_states(conn, unit, by_link)


async def _load_closed_links(conn: Conn, unit: Unit, new: Sequence[Record]) -> None:
    """When the last link of these was taken away, and by whom."""
    if not new:
        return
    by_link: dict[str, Record] = {}
    records = {record.external_id: record for record in new}
    cursor = await conn.execute(_SQL["unlinked"], {**unit.scope, "ids": sorted(records)})
    async for external_id, at, link_id, entity_id, by_us, by_them, came_back in cursor:
        record = records[external_id]
        record.unlinked_at, record.deleted_by_us, record.came_back = at, by_us, came_back
        if by_us or by_them:
            by_link[link_id], record.former, record.former_link = record, entity_id, link_id
            record.entity_id = entity_id if came_back else None
    await _load_states(conn, unit, by_link)


async def _load_states(conn: Conn, unit: Unit, by_link: Mapping[str, Record]) -> None:
    if not by_link:
        return
    cursor = await conn.execute(_SQL["states"], {**unit.scope, "ids": sorted(by_link)})
    async for link_id, version, at, heard_at, pushed_at, base, over, spans in cursor:
        by_link[link_id].state = State(version, at, heard_at, pushed_at, base or None, _over(over), _spans(spans))


def _over(stored: list[dict[str, Any]]) -> tuple[Over, ...]:
    return tuple(
        Over(
            each["base"],
            each["version"],
            _time(each["at"]),
            each["pushed_version"],
            _time(each["pushed_at"]),
            each["sure"],
        )
        for each in stored
    )


def _spans(stored: dict[str, Any]) -> dict[str, Span]:
    return {key: Span(_time(each["after"]), datetime.fromisoformat(each["by"])) for key, each in stored.items()}


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


async def _own(
    conn: Conn, unit: Unit, new: Iterable[Record], incoming: Iterable[Incoming], is_our_id: IsOurId
) -> dict[str, str]:
    """Records without a link that name an entity of ours, by an id we chose or a marker we left: their id -> ours."""
    without = [record.external_id for record in new]
    if unit.our_ids_are_theirs:
        return {theirs: theirs for theirs in without if is_our_id(unit.root.name, theirs)}
    if not (unit.aggregate.marker and without):
        return {}
    marked: dict[str, str] = {}
    for each in incoming:
        ours = each.payload.get(unit.aggregate.marker)
        if isinstance(ours, str) and each.event.external_id in without and is_our_id(unit.root.name, ours):
            marked.setdefault(ours, each.event.external_id)
    # An entity that is linked already is not meant: they copied the record, marker and all.
    taken = await _look_up(conn, unit, "their_ids", {(unit.root.name, ours) for ours in marked})
    return {theirs: ours for ours, theirs in marked.items() if (unit.root.name, ours) not in taken}


async def _load_refusals(conn: Conn, unit: Unit, new: list[Record], own: Mapping[str, str], loaded: Loaded) -> None:
    """Records without a link: those that are ours by their name, and those deleted here."""
    for record in new:
        if record.came_back and record.entity_id not in loaded.rows:
            record.came_back, record.entity_id = False, None
    if not own:
        return
    gone = {}
    for theirs, entity_id in own.items():
        if loaded.records[theirs].came_back:
            continue
        rows = loaded.rows.get(entity_id)
        if rows is None:
            gone[entity_id] = loaded.records[theirs]
        elif rows.deleted:
            loaded.records[theirs].refused = "deleted_here"
        else:
            loaded.records[theirs].entity_id = entity_id
    for _kind, entity_id in await _tombstones(conn, unit, sorted(gone)):
        gone[entity_id].refused = "deleted_here"


async def _load_intents(conn: Conn, unit: Unit, entities: Collection[str], loaded: Loaded) -> None:
    cursor = await conn.execute(_SQL["intents"], {**unit.scope, "ids": entities})
    async for entity_id, sent in cursor:
        loaded.intents[entity_id] = sent or {}
    cursor = await conn.execute(_SQL["questions"], {**unit.scope, "ids": entities})
    async for entity_id, name in cursor:
        loaded.questions.setdefault(entity_id, set()).add(name)


async def _load_removed_parts(conn: Conn, unit: Unit, incoming: Iterable[Incoming], loaded: Loaded) -> None:
    """When parts that they have or had, and we do not, were removed here; those we never had are not in the answer."""
    wanted: dict[str, dict[str, str]] = defaultdict(dict)
    for each in incoming:
        record = loaded.records[each.event.external_id]
        rows = loaded.rows.get(record.entity_id or "")
        if record.entity_id is None or rows is None:
            continue
        base = {key for key in record.state.base or {} if "/" in key}
        here = {f"{kind}/{row['id']}" for kind, parts in rows.parts.items() for row in parts}
        for key in (references.part_ids(unit.aggregate, each.payload) | base) - here:
            kind, _, part_id = key.partition("/")
            wanted[kind][part_id] = record.entity_id
    for kind, owners in wanted.items():
        statement = sql.SQL(
            "select id, greatest(modified_at, deleted_at) from {}"
            " where org_id = %s and id = any(%s) and deleted_at is not null"
        ).format(sql.Identifier("canon", kind))
        async for part_id, at in await conn.execute(statement, (unit.org_id, sorted(owners))):
            loaded.removed.setdefault(owners[part_id], {})[f"{kind}/{part_id}"] = at
        for (found, part_id), at in (await _tombstones(conn, unit, sorted(owners))).items():
            if found == kind:
                loaded.removed.setdefault(owners[part_id], {}).setdefault(f"{kind}/{part_id}", at)


async def _tombstones(conn: Conn, unit: Unit, ids: Sequence[str]) -> dict[Reference, datetime]:
    if not ids:
        return {}
    cursor = await conn.execute(_SQL["tombstones"], {**unit.scope, "ids": list(ids)})
    return {(kind, entity_id): at async for kind, entity_id, at in cursor}


async def _load_ties(conn: Conn, unit: Unit, incoming: Iterable[Incoming], loaded: Loaded) -> None:
    """Only where an event is of the very instant of the state that we know."""
    tied = {
        record.entity_id: record.state.at
        for each in incoming
        if (record := loaded.records[each.event.external_id]).entity_id and record.state.at == each.event.occurred_at
    }
    if tied:
        rows = _json([{"entity_id": entity_id, "at": at} for entity_id, at in tied.items()])
        cursor = await conn.execute(_SQL["received_last"], {**unit.scope, "rows": rows})
        loaded.received = {entity_id: at async for entity_id, at in cursor}


async def _load_pushes(conn: Conn, unit: Unit, incoming: Iterable[Incoming], loaded: Loaded) -> None:
    """Only of records that we push to at present: whether they keep what we write."""
    pushed = {r.entity_id for r in loaded.records.values() if r.state.pushed_at}
    ids = [each for each in sorted(loaded.rows) if each in pushed or each in loaded.intents]
    if not ids:
        return
    since = min(each.event.received_at for each in incoming) - alternation.WITHIN
    cursor = await conn.execute(_SQL["pushed_lately"], {**unit.scope, "ids": ids, "since": since})
    async for entity_id, changes in cursor:
        loaded.pushed.setdefault(entity_id, alternation.pushed(())).update(alternation.pushed(changes))


async def _load_lost(conn: Conn, unit: Unit, incoming: Sequence[Incoming], loaded: Loaded) -> None:
    """Only where an event is older than the state that we know, or than the one before it."""
    newest = {r.external_id: r.state.at for r in loaded.records.values()}
    late: set[str] = set()
    for each in incoming:
        theirs, at = each.event.external_id, each.event.occurred_at
        known = newest[theirs]
        if known is not None and at <= known and (entity_id := loaded.records[theirs].entity_id):
            late.add(entity_id)
        newest[theirs] = max(at, known or at)
    if not late:
        return
    since = min(each.event.received_at for each in incoming) - reopening.WITHIN
    values = {**unit.scope, "ids": sorted(late), "rules": sorted(reopening.RULES), "since": since}
    async for entity_id, name, value, at in await conn.execute(_SQL["lost_lately"], values):
        loaded.lost.setdefault(entity_id, []).append(Lost(name, value, at))
    loaded.shared = {entity_id async for (entity_id,) in await conn.execute(_SQL["linked_elsewhere"], values)}


async def _load_references(
    conn: Conn, unit: Unit, incoming: Iterable[Incoming], loaded: Loaded, is_our_id: IsOurId
) -> None:
    theirs: set[Reference] = set().union(*(references.in_payload(unit.aggregate, each.payload) for each in incoming))
    ours: set[Reference] = set().union(
        *(references.in_rows(unit.aggregate, rows.root, rows.parts) for rows in loaded.rows.values())
    )
    loaded.our_ids = await _look_up(conn, unit, "our_ids", theirs)
    if unit.our_ids_are_theirs:
        await _load_own_ids(conn, unit, theirs - loaded.our_ids.keys(), loaded, is_our_id)
    # What they refer to now is ours after the decision, and must be known both ways.
    ours |= {(kind, entity_id) for (kind, _), entity_id in loaded.our_ids.items()}
    loaded.their_ids = {(kind, ours_id): theirs_id for (kind, theirs_id), ours_id in loaded.our_ids.items()}
    loaded.their_ids |= await _look_up(conn, unit, "their_ids", ours)


async def _look_up(conn: Conn, unit: Unit, query: str, wanted: Iterable[Reference]) -> dict[Reference, str]:
    rows = [{"kind": k, "external_type": unit.external_type(k), "id": each} for k, each in sorted(wanted)]
    if not rows:
        return {}
    cursor = await conn.execute(_SQL[query], {**unit.scope, "rows": _json(rows)})
    return {(kind, one): other async for kind, one, other in cursor}


async def _load_own_ids(
    conn: Conn, unit: Unit, wanted: Iterable[Reference], loaded: Loaded, is_our_id: IsOurId
) -> None:
    """References to records that we made there and whose links are not written yet: they have our ids."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    for kind, theirs in sorted(wanted):
        if is_our_id(kind, theirs):
            by_kind[kind].append(theirs)
    for kind, ids in by_kind.items():
        statement = sql.SQL("select id from {} where org_id = %s and id = any(%s) and deleted_at is null").format(
            sql.Identifier("canon", kind)
        )
        async for (entity_id,) in await conn.execute(statement, (unit.org_id, ids)):
            loaded.our_ids[kind, entity_id] = entity_id


def _json(rows: Json) -> str:
    return orjson.dumps(rows).decode()
