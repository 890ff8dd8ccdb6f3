"""Records without a link find their entity: keys are read, locked and looked up; doubts are put before a person.

A step of the applier, between `waiting` and `folding` (design 10, rule R26). The locks make two systems that send the
same new person at one moment come one after the other, so that the second finds what the first made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from psycopg import AsyncConnection, sql

from schemas.fields import Document, Json
from streams.inbound import answers, reading, refusals
from streams.inbound.incoming import Incoming, Unit
from streams.inbound.loaded import Loaded, Record
from streams.inbound.reading import IsOurId
from streams.rules import mapping, matching
from streams.rules.matching import Answer, Candidate, Key, Match
from streams.store import aggregates, queries
from streams.store.canon import match_key

Conn = AsyncConnection[Any]
Row = dict[str, Json]

_SQL = queries("matching")


@dataclass(slots=True)
class Matched:
    """What came of it.

    Args:
        going_on: the events that may be folded, in order.
        doubtful: those that wait for a person, each with the review item that keeps it.
    """

    going_on: list[Incoming]
    doubtful: list[tuple[Incoming, Row]] = field(default_factory=list)


async def match(conn: Conn, unit: Unit, loaded: Loaded, incoming: Sequence[Incoming], is_our_id: IsOurId) -> Matched:
    """Find the entities of records without a link; `loaded` has their ids then, and their rows, locked."""
    newest = _unknown(loaded, incoming) if unit.aggregate.match else {}
    if not newest:
        return Matched(list(incoming))
    documents = {external_id: _document(unit, each) for external_id, each in newest.items()}
    keys = await _keys(conn, unit, documents)
    given = await answers.read(conn, unit, loaded, newest)
    if not (keys or given):
        return Matched(list(incoming))
    found = await _decide(conn, unit, documents, keys, given)
    adopted = {external_id: each.entity_id for external_id, each in found.items() if each.entity_id}
    for external_id, entity_id in adopted.items():
        loaded.records[external_id].entity_id = entity_id
        loaded.records[external_id].made_by = "person" if external_id in given else "match"
    if adopted:
        await reading.adopt(conn, unit, loaded, incoming, is_our_id)
    matched = Matched([])
    for each in incoming:
        one = found.get(each.event.external_id)
        if one is None or not one.doubt:
            matched.going_on.append(each)
        else:
            matched.doubtful.append((each, _review(unit, each, one)))
    return matched


def _unknown(loaded: Loaded, incoming: Iterable[Incoming]) -> dict[str, Incoming]:
    """The newest state of every record that nobody knows and that is there, in order of their arrival."""
    newest: dict[str, Incoming] = {}
    for each in incoming:
        record = loaded.records[each.event.external_id]
        if record.link_id or record.entity_id or record.refused:
            continue
        if record.external_id not in newest or newest[record.external_id].event.occurred_at <= each.event.occurred_at:
            newest[record.external_id] = each
    return {external_id: each for external_id, each in newest.items() if _is_there(loaded.records[external_id], each)}


def _is_there(record: Record, each: Incoming) -> bool:
    event = each.event
    return event.op != "delete" and (record.unlinked_at is None or event.occurred_at > record.unlinked_at)


def _document(unit: Unit, each: Incoming) -> Document:
    """What keys are made of and compared with: fields that are no references."""
    aggregate = unit.aggregate
    plain = replace(aggregate, fields=tuple(f for f in aggregate.fields if not f.references))
    return mapping.from_payload(
        plain, each.payload, known={}, our_id=lambda _kind, _id: None, new_id=lambda kind, place: f"{kind}_{place}"
    )


async def _keys(conn: Conn, unit: Unit, documents: Mapping[str, Document]) -> dict[str, list[Key]]:
    """Their ids -> the keys of the records that have any, in their order."""
    rows = [
        {"id": external_id, "rule": rule.name, "kind": unit.key_kinds[rule.name], "value": value}
        for external_id, document in documents.items()
        for rule in unit.aggregate.match
        for value in matching.values(rule, document)
    ]
    found: dict[str, list[Key]] = defaultdict(list)
    if rows:
        async for external_id, rule, key in await conn.execute(_SQL["keys"], {"rows": _json(rows)}):
            found[external_id].append((rule, key))
    return {external_id: found[external_id] for external_id in documents if external_id in found}


async def _decide(
    conn: Conn,
    unit: Unit,
    documents: Mapping[str, Document],
    keys: Mapping[str, Sequence[Key]],
    given: Mapping[str, Answer],
) -> dict[str, Match]:
    """Who the records are that have keys, or about which a person decided."""
    wanted = {key for mine in keys.values() for key in mine}
    rows = [{"rule": rule, "key": key} for rule, key in sorted(wanted)]
    await conn.execute(_SQL["lock"], {"org": unit.org_id, "rows": _json(rows)})
    named = await _named(conn, unit, wanted)
    ids = {entity_id for found in named.values() for entity_id in found}
    living = await _living(conn, unit, ids | {each.entity_id for each in given.values() if each.entity_id})
    twins = matching.twins(keys)
    decided: dict[str, Match] = {}
    taken: dict[str, str] = {}
    for external_id in documents:
        mine, answer = keys.get(external_id, ()), given.get(external_id)
        if not mine and answer is None:
            continue
        if answer is not None:
            decision = matching.answered(answer, living.get(answer.entity_id or ""))
        else:
            by_entity = matching.by_entity((key, entity_id) for key in mine for entity_id in named.get(key, ()))
            candidates = [replace(living[each], keys=by) for each, by in by_entity.items() if each in living]
            decision = matching.decide(unit.aggregate, unit.root, documents[external_id], candidates)
        twin = taken.setdefault(decision.entity_id, external_id) if decision.entity_id else external_id
        if twin == external_id and answer is None and (decision.entity_id or unit.creates):
            twin = twins.get(external_id, external_id)
        if twin != external_id and not decision.doubt:
            decision = Match(doubt="same_key_as", candidates=[{"external_id": twin}])
        decided[external_id] = decision
    return decided


async def _living(conn: Conn, unit: Unit, ids: Collection[str]) -> dict[str, Candidate]:
    """Those of these entities that are there, locked, each as a candidate that no key names yet."""
    if not ids:
        return {}
    entities = await aggregates.read(conn, unit.aggregate, unit.org_id, ids, lock=True)
    cursor = await conn.execute(_SQL["linked"], {**unit.scope, "ids": sorted(ids)})
    linked = {ours: theirs async for ours, theirs in cursor}
    return {
        entity_id: Candidate(entity_id, frozenset(), found.document(unit.aggregate), linked.get(entity_id))
        for entity_id, found in entities.items()
        if not found.deleted
    }


async def _named(conn: Conn, unit: Unit, keys: Iterable[Key]) -> dict[Key, list[str]]:
    """Living entities that these keys name."""
    by_rule: dict[str, list[str]] = defaultdict(list)
    for name, key in sorted(keys):
        by_rule[name].append(key)
    found: dict[Key, list[str]] = defaultdict(list)
    for rule in unit.aggregate.match:
        if rule.name not in by_rule:
            continue
        parents = {part.entity_type: part.parent for part in unit.aggregate.parts}
        statement = sql.SQL(NAMED).format(
            table=sql.Identifier("canon", rule.part or unit.root.name),
            root=sql.Identifier(parents[rule.part] if rule.part else "id"),
            key=match_key(unit.key_kinds[rule.name], sql.Identifier("t", rule.column)),
        )
        async for key, entity_id in await conn.execute(statement, (unit.org_id, by_rule[rule.name])):
            found[rule.name, key].append(entity_id)
    return found


NAMED = """
select distinct w.key, t.{root} from (select %s::text as org_id, unnest(%s::text[]) as key offset 0) w
join {table} t on {key} = w.key and t.org_id = w.org_id and t.deleted_at is null
order by 1, 2"""


def _review(unit: Unit, each: Incoming, decision: Match) -> Row:
    detail = {"reason": decision.doubt, "candidates": decision.candidates}
    return refusals.kept(unit, each, "match", detail)


def _json(rows: Sequence[Row]) -> str:
    return orjson.dumps(rows).decode()
