"""Their merges: links follow the record that is left, and old ids stand for it ever after.

A step of the applier, before `reading`. No link is made while it works: whoever applies events of the type holds a
shared lock, a merge the exclusive one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from connectors.contract import MERGED_INTO
from schemas.fields import Json
from streams.inbound import fetching, refusals, tracks
from streams.inbound.incoming import Incoming, Unit
from streams.rules import merges
from streams.rules.merges import Alias, Step
from streams.store import queries

Conn = AsyncConnection[Any]
Row = dict[str, Json]

_SQL = queries("merging")


@dataclass(slots=True)
class Merged:
    """What came of it: events to go on with, under ids that are left; ledger entries; review items."""

    going_on: list[Incoming] = field(default_factory=list)
    entries: list[Row] = field(default_factory=list)
    reviews: list[Row] = field(default_factory=list)


async def apply(conn: Conn, unit: Unit, incoming: Sequence[Incoming], now: datetime) -> Merged:
    """Apply the merges among these events, in order of their time; the others go on under the ids that are left."""
    told = sorted((each for each in incoming if each.event.op == "merge"), key=lambda each: each.event.occurred_at)
    await conn.execute(_SQL["one_after_the_other" if told else "beside_each_other"], unit.scope)
    merged = Merged()
    for each in told:
        await _merge(conn, unit, each, merged, now)
    others = [each for each in incoming if each.event.op != "merge"]
    aliases = await _aliases(conn, unit, {each.event.external_id for each in others})
    for each in others:
        event, alias = each.event, aliases.get(each.event.external_id)
        if alias is None:
            merged.going_on.append(each)
        elif theirs := merges.stands_for(alias, event.occurred_at, deleted=event.op == "delete"):
            merged.going_on.append(replace(each, event=replace(event, external_id=theirs)))
        else:
            merged.entries.append(tracks.entry(event, "ignored", "merged_since"))
    return merged


async def _merge(conn: Conn, unit: Unit, each: Incoming, merged: Merged, now: datetime) -> None:
    event, old, left = each.event, each.event.external_id, str(each.payload[MERGED_INTO])
    aliases = await _aliases(conn, unit, {old, left})
    left = aliases[left].into if left in aliases else left
    cursor = await conn.execute(_SQL["links"], {**unit.scope, "ids": sorted({old, left})})
    links = {theirs: (link, entity) async for theirs, link, entity in cursor}
    (link, entity), (_, other) = links.get(old, (None, None)), links.get(left, (None, None))
    at, known = event.occurred_at, aliases.get(old)
    step = merges.decide(old, left, at, known, old_is_linked=link is not None, left_is_linked=left in links)
    if step in (Step.CIRCULAR, Step.KNOWN):
        merged.entries.append(tracks.entry(event, "ignored", step.value, entity))
        return
    values = {**unit.scope, "old": old, "into": left, "link": link, "at": at, "now": now, "event": event.event_id.hex()}
    if step is Step.RELINK:
        await conn.execute(_SQL["relink"], values)
        await conn.execute(_SQL["forget_times"], values)
        await fetching.want(conn, [fetching.wish(replace(event, external_id=left, op="hint"))], now)
    elif step is Step.ASK:
        await conn.execute(_SQL["close"], values)
        detail = {"into": left, "candidates": [{"entity_id": entity}, {"entity_id": other}]}
        merged.reviews.append(refusals.kept(unit, each, "merge", detail) | {"value": None})
    await conn.execute(_SQL["save"], {**values, "entity": entity if step is Step.ASK else None})
    await conn.execute(_SQL["shorten"], values)
    await conn.execute(_SQL["settle_reviews"], values)
    merged.entries.append(tracks.entry(event, "applied", step.value, entity))


async def _aliases(conn: Conn, unit: Unit, ids: Collection[str]) -> dict[str, Alias]:
    cursor = await conn.execute(_SQL["aliases"], {**unit.scope, "ids": sorted(ids)})
    return {old: Alias(into, at) async for old, into, at in cursor}
