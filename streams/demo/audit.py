"""What was lost, doubled or echoed: our rows against their records, and against what they were sent. Read only."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

from connectors.contract import Manifest
from schemas.fields import Aggregate
from streams.demo.world import Emulated
from streams.rules import mapping
from streams.store import aggregates

SHOWN = 5


@dataclass(slots=True)
class Audit:
    """The counts of one comparison; `examples` name some of what is wrong, by id and field."""

    compared: int = 0
    lost: int = 0
    doubled: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep an example."""
        if len(self.examples) < SHOWN:
            self.examples.append(text)


async def compare(dsn: str, org_id: str, theirs: Emulated, manifest: Manifest) -> Audit:
    """Compare every living root with its record there, field by field; a difference is a change that was lost."""
    audit = Audit()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        for aggregate in manifest.aggregates:
            ids = await aggregates.living(conn, aggregate.root, org_id)
            ours = await aggregates.read(conn, aggregate, org_id, ids)
            links = await _links(conn, org_id, aggregate)
            records = theirs.records(aggregate.external_type)
            for entity_id, rows in ours.items():
                audit.compared += 1
                _compare_one(audit, aggregate, entity_id, rows, records.get(links.get(entity_id, entity_id)))
            if surplus := records.keys() - {links.get(each, each) for each in ids}:
                audit.doubled += len(surplus)
                audit.note(f"{aggregate.external_type} {min(surplus)} is there and not here")
    audit.doubled += _created_twice(audit, theirs)
    return audit


def sync_compare(dsn: str, org_id: str, theirs: Emulated, manifest: Manifest) -> Audit:
    """`compare` for callers without an event loop."""
    return asyncio.run(compare(dsn, org_id, theirs, manifest))


async def _links(conn: psycopg.AsyncConnection, org_id: str, aggregate: Aggregate) -> Mapping[str, str]:
    cursor = await conn.execute(
        "select entity_id, external_id from sync.external_link"
        " where org_id = %s and external_type = %s and deleted_at is null and entity_id is not null",
        (org_id, aggregate.external_type),
    )
    return {entity_id: external_id async for entity_id, external_id in cursor}


def _compare_one(
    audit: Audit, aggregate: Aggregate, entity_id: str, rows: aggregates.Rows, record: Mapping[str, Any] | None
) -> None:
    if record is None:
        audit.lost += 1
        audit.note(f"{entity_id} is not there")
        return
    ours = rows.document(aggregate)
    held = mapping.from_payload(
        aggregate, record["data"], known=ours, our_id=lambda _, theirs: theirs, new_id=lambda kind, at: f"{kind}_{at}"
    )
    if differing := mapping.differences(ours, held) | mapping.differences(held, ours):
        audit.lost += 1
        audit.note(f"{entity_id} differs in {', '.join(sorted(differing))}")


def _created_twice(audit: Audit, theirs: Emulated) -> int:
    """Records for which more than one creating submission was stored."""
    creates: dict[str, dict[str, int]] = theirs.counts()["creates"]
    twice = [key for of_type in creates.values() for key, count in of_type.items() if count > 1]
    for key in twice:
        audit.note(f"{key} was created more than once")
    return len(twice)


def pushes_of(theirs: Emulated, entity_ids: frozenset[str], after: int) -> Counter[str]:
    """How often each of these records was sent through the API since call number `after`, repeats included."""
    return Counter(key for call in theirs.writes(after) for key in call["keys"] if key in entity_ids)
