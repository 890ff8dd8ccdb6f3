"""The database side of a lane: claim and freeze before a call, settle and confirm after it.

Ready intents are taken, their aggregates read, the bytes frozen and committed. Only then may a byte leave. Results of
many calls are committed together, each guarded by its fence: a worker that lost its claim to another changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row

from connectors.contract import Client, Delivered, Manifest, Op, Outcome
from streams.outbound.writes import Claim, Linked, NoCall, as_rows, freeze, plan_write
from streams.rules.retries import Done, GiveUp, Next, Park, RetryAt, StopLane
from streams.store import aggregates, queries
from streams.store.aggregates import Rows
from streams.store.connections import Connection

LEASE = timedelta(seconds=90)
_SQL = queries("outbound")


@dataclass(slots=True)
class Result:
    """One attempt: the claim, what they said, what follows."""

    claim: Claim
    outcome: Outcome
    next: Next
    sent_at: datetime
    answered_at: datetime


class Claims:
    """Claims and results of one connection. Time is a parameter."""

    def __init__(self, connection: Connection, manifest: Manifest, slot: int) -> None:
        self._connection = connection
        self._manifest = manifest
        self._slot = slot
        self._key = {"org": connection.org_id, "connection": connection.name}

    async def take(
        self, conn: AsyncConnection, client: Client, *, limit: int, now: datetime
    ) -> tuple[int, list[Claim]]:
        """Claim up to `limit` intents and freeze their bytes; (number claimed, those that need a call).

        A claim that was committed and not frozen was not sent: whoever takes it over builds it anew.
        """
        async with conn.cursor(row_factory=class_row(Claim)) as cursor:
            values = self._key | {"now": now, "lease": now + LEASE, "slot": self._slot, "limit": limit}
            await cursor.execute(_SQL["claim"], values)
            claims = await cursor.fetchall()
        fresh = [claim for claim in claims if not claim.resent]
        idle = await self._freeze(conn, fresh, client, now) if fresh else set()
        return len(claims), [claim for claim in claims if claim.entity_id not in idle]

    async def _freeze(self, conn: AsyncConnection, fresh: list[Claim], client: Client, now: datetime) -> set[str]:
        """Freeze what has to be sent, settle what has not; ids of the latter."""
        rows, links = await self._read(conn, fresh)
        frozen, idle = [], []
        for claim in fresh:
            rows_now = rows.get(claim.entity_id)
            planned = plan_write(claim, rows_now, links, connection=self._connection, manifest=self._manifest)
            if isinstance(planned, NoCall):
                idle.append(_settled(claim, "DONE", done=True, code=planned.reason))
            else:
                frozen.append(freeze(claim, planned, client.build(planned.write)))
        if frozen:
            await conn.execute(_SQL["freeze"], self._key | {"rows": as_rows(frozen)})
        if idle:
            await conn.execute(_SQL["settle"], self._key | {"rows": as_rows(idle), "now": now})
        return {row["entity_id"] for row in idle}

    async def _read(self, conn: AsyncConnection, claims: list[Claim]) -> tuple[dict[str, Rows], dict[str, Linked]]:
        """The aggregates as they are now, and the links of their roots and of what they refer to."""
        rows = await self._rows(conn, claims)
        ids = {claim.entity_id for claim in claims} | self._references(claims, rows)
        cursor = await conn.execute(_SQL["links_and_states"], self._key | {"ids": sorted(ids)})
        return rows, {
            entity_id: Linked(external_id, rev, base or {}, frozenset(open_fields or ()))
            async for entity_id, external_id, rev, base, open_fields in cursor
        }

    async def _rows(self, conn: AsyncConnection, claims: Iterable[Claim]) -> dict[str, Rows]:
        wanted: dict[str, list[str]] = {}
        for claim in claims:
            wanted.setdefault(claim.external_type, []).append(claim.entity_id)
        found: dict[str, Rows] = {}
        for external_type, ids in wanted.items():
            aggregate = self._manifest.aggregate(external_type)
            found |= await aggregates.read(conn, aggregate, self._connection.org_id, ids)
        return found

    def _references(self, claims: Iterable[Claim], rows: dict[str, Rows]) -> set[str]:
        found: set[str] = set()
        for claim in claims:
            if root := rows.get(claim.entity_id):
                fields = self._manifest.aggregate(claim.external_type).fields
                found.update(root.root[f.canonical] for f in fields if f.references and root.root.get(f.canonical))
        return found

    async def commit(self, conn: AsyncConnection, results: list[Result], *, now: datetime) -> bool:
        """Record results in one transaction; whether one of the intents is to be sent again at once."""
        async with conn.transaction():
            settled = sorted((_settle_row(r) for r in results), key=lambda r: (r["external_type"], r["entity_id"]))
            cursor = await conn.execute(_SQL["settle"], self._key | {"rows": as_rows(settled), "now": now})
            states = {(external_type, entity_id): state async for external_type, entity_id, state in cursor}
            kept = [r for r in results if (r.claim.external_type, r.claim.entity_id) in states]
            await self._confirm(conn, [r for r in kept if isinstance(r.outcome, Delivered)], now)
            await self._bury(conn, [r for r in kept if isinstance(r.next, GiveUp)], now)
            if kept:
                rows = as_rows([_delivery_row(r) for r in kept])
                await conn.execute(_SQL["deliveries"], self._key | {"rows": rows, "now": now})
        return "PENDING" in states.values()

    async def _confirm(self, conn: AsyncConnection, delivered: list[Result], now: datetime) -> None:
        alive = [r for r in delivered if r.claim.op != Op.DELETE]
        gone = [r.claim.entity_id for r in delivered if r.claim.op == Op.DELETE]
        if alive:
            rows = as_rows([_confirm_row(r, r.outcome) for r in alive if isinstance(r.outcome, Delivered)])
            await conn.execute(_SQL["confirm"], self._key | {"rows": rows, "now": now})
        if gone:
            await conn.execute(_SQL["unlink"], self._key | {"ids": gone, "now": now})
        if positions := [self._position(r.claim) for r in delivered if r.claim.error_code]:
            await conn.execute(_SQL["close_dead_letters"], {"positions": positions, "now": now})

    async def _bury(self, conn: AsyncConnection, dead: list[Result], now: datetime) -> None:
        if dead:
            rows = [
                {"entity_id": r.claim.entity_id, "position": self._position(r.claim), **_error(r.outcome)} for r in dead
            ]
            await conn.execute(_SQL["dead_letters"], self._key | {"rows": as_rows(rows), "now": now})

    def _position(self, claim: Claim) -> str:
        return f"{self._connection.org_id}/{self._connection.name}/{claim.external_type}/{claim.entity_id}"

    async def next_due(self, conn: AsyncConnection) -> datetime | None:
        """When an intent of this lane is ready next."""
        row = await (await conn.execute(_SQL["next_due"], self._key)).fetchone()
        return row[0] if row else None

    async def pause(self, conn: AsyncConnection, reason: str) -> None:
        """Pause the lane until a person looks."""
        await conn.execute(_SQL["pause"], self._key | {"reason": reason})
        await conn.execute(
            "select pg_notify('sync_connection', %s)", (f"{self._connection.org_id}/{self._connection.name}",)
        )


def _error(outcome: Outcome) -> dict[str, str | None]:
    if isinstance(outcome, Delivered):
        return {"error_code": None, "error_cause": None}
    return {"error_code": outcome.error.code, "error_cause": outcome.error.cause}


def _settled(claim: Claim, state: str, *, done: bool = False, code: str | None = None) -> dict[str, Any]:
    return {
        "external_type": claim.external_type,
        "entity_id": claim.entity_id,
        "fence": claim.fence,
        "done": done,
        "state": state,
        "not_before": None,
        "keep_bytes": False,
        "free_try": False,
        "error_code": code,
        "error_cause": None,
    }


def _settle_row(result: Result) -> dict[str, Any]:
    """What becomes of the intent."""
    match result.next:
        case Done():
            row = _settled(result.claim, "DONE", done=True)
        case RetryAt(at, keep_bytes):
            row = _settled(result.claim, "RETRY") | {"not_before": at, "keep_bytes": keep_bytes}
        case GiveUp():
            row = _settled(result.claim, "DEAD")
        case Park():
            row = _settled(result.claim, "PARKED")
        case StopLane(keep_bytes):
            row = _settled(result.claim, "PENDING") | {"keep_bytes": keep_bytes, "free_try": True}
    return row | _error(result.outcome)


def _confirm_row(result: Result, outcome: Delivered) -> dict[str, Any]:
    claim = result.claim
    return {
        "external_type": claim.external_type,
        "entity_type": claim.entity_type,
        "entity_id": claim.entity_id,
        "sync_key": claim.sync_key,
        "external_id": outcome.external_id,
        "op": claim.op,
        "link_rev": claim.link_rev,
        "sent": claim.sent,
        "external_version": outcome.external_version,
        "external_updated_at": outcome.external_updated_at,
        "sent_at": result.sent_at,
    }


def _delivery_row(result: Result) -> dict[str, Any]:
    claim, outcome = result.claim, result.outcome
    told = _error(outcome)
    return {
        "external_type": claim.external_type,
        "entity_type": claim.entity_type,
        "entity_id": claim.entity_id,
        "external_id": outcome.external_id if isinstance(outcome, Delivered) else None,
        "op": claim.op,
        "outcome": told["error_code"] or "delivered",
        "status": outcome.status if isinstance(outcome, Delivered) else outcome.error.status,
        "cause": told["error_cause"],
        "changed": claim.changed,
        "attempt": claim.attempt,
        "idem_key": claim.idem_key,
        "seq": claim.claimed_seq,
        "committed_at": claim.committed_at,
        "planned_at": claim.planned_at,
        "claimed_at": claim.claimed_at,
        "sent_at": result.sent_at,
        "answered_at": result.answered_at,
    }
