"""Writes that wait for the link of another entity: noted, and told apart from those that wait in vain.

They are released by whoever makes the link, see `streams.store.waits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from psycopg import AsyncConnection

from connectors.contract import Manifest
from streams.outbound.writes import Blocked, Claim, Planned
from streams.rules import dependencies
from streams.rules.dependencies import Missing, Parent
from streams.store import aggregates, queries, wishes
from streams.store.connections import Connection
from streams.store.wishes import Wish

_SQL = queries("waits")
Conn = AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Waits:
    """What becomes of one blocked write: it waits (`hopeless` False), or there is nothing to wait for as things are."""

    claim: Claim
    missing: Missing
    hopeless: bool


class Dependencies:
    """Dependencies of one connection's writes. Time is a parameter."""

    def __init__(self, connection: Connection, manifest: Manifest) -> None:
        self._connection = connection
        self._manifest = manifest
        self._key = {"org": connection.org_id, "connection": connection.name}

    async def block(self, conn: Conn, blocked: Sequence[tuple[Claim, Blocked]], *, now: datetime) -> Sequence[Waits]:
        """Note what each waits for, and wish for the parents that nobody has wished for yet."""
        parents = await self._parents(conn, {each.entity_id: each for _, b in blocked for each in b.missing})
        told: list[Waits] = []
        wanted: set[Missing] = set()
        for claim, block in blocked:
            verdicts = {each: dependencies.verdict(parents[each.entity_id]) for each in block.missing}
            wanted.update(each for each, verdict in verdicts.items() if verdict == "plan")
            never = next((each for each, verdict in verdicts.items() if verdict == "never"), None)
            told.append(Waits(claim, never or block.missing[0], never is not None))
        await self._note(conn, [(w.claim, m) for w, (_, b) in zip(told, blocked, strict=True) for m in b.missing])
        await wishes.add(conn, [self._wish(each) for each in sorted(wanted, key=lambda m: m.entity_id)], now=now)
        return told

    async def later(self, conn: Conn, planned: Sequence[tuple[Claim, Planned]]) -> None:
        """Note references that writes had to leave out: they are sent once more when these are linked."""
        await self._note(conn, [(claim, each) for claim, write in planned for each in write.later])

    async def _parents(self, conn: Conn, missing: Mapping[str, Missing]) -> Mapping[str, Parent]:
        scope = {each.entity_type: self._manifest.for_root(each.entity_type) for each in missing.values()}
        rows = [
            {"entity_id": each.entity_id, "external_type": found.external_type}
            for each in missing.values()
            if (found := scope[each.entity_type])
        ]
        cursor = await conn.execute(_SQL["parents"].encode(), {**self._key, "rows": orjson.dumps(rows).decode()})
        stands = {entity_id: (state, reason) async for entity_id, state, reason in cursor}
        living: set[str] = set()
        for aggregate in filter(None, scope.values()):
            ids = [each.entity_id for each in missing.values() if each.entity_type == aggregate.root]
            found_rows = await aggregates.read(conn, aggregate, self._connection.org_id, ids)
            living.update(entity_id for entity_id, row in found_rows.items() if not row.deleted)
        return {
            each.entity_id: Parent(
                in_scope=scope[each.entity_type] is not None and bool(self._connection.gates.get(each.entity_type)),
                exists=each.entity_id in living,
                pushes_unlinked=self._connection.option != 3,
                state=stands.get(each.entity_id, (None, None))[0],
                reason=stands.get(each.entity_id, (None, None))[1],
            )
            for each in missing.values()
        }

    async def _note(self, conn: Conn, waits: Sequence[tuple[Claim, Missing]]) -> None:
        if not waits:
            return
        rows = {
            (each.entity_id, claim.entity_id): {
                "waits_for": each.entity_id,
                "entity_id": claim.entity_id,
                "external_type": claim.external_type,
                "field": each.field,
                "required": each.on_missing == "wait",
                "reason": "waiting" if each.on_missing == "wait" else "second_pass",
            }
            for claim, each in waits
        }
        await conn.execute(_SQL["wait"].encode(), {**self._key, "rows": orjson.dumps(list(rows.values())).decode()})

    def _wish(self, each: Missing) -> Wish:
        aggregate = self._manifest.for_root(each.entity_type)
        live = self._connection.is_live(each.entity_type)
        return {
            "org_id": self._connection.org_id,
            "connection": self._connection.name,
            "external_type": aggregate.external_type if aggregate else "",
            "entity_type": each.entity_type,
            "entity_id": each.entity_id,
            "state": "PENDING" if live else "HELD",
            "reason": "needed_by_another" if live else f"gate_{self._connection.gates.get(each.entity_type)}",
        }
