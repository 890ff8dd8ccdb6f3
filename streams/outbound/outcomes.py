"""What became of a lane's calls, committed: intent, link, state, dead letter and delivery in one transaction.

Every result is guarded by its claim's fence: a worker that lost its claim to another changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from connectors.contract import Accepted, Delivered, Op, Outcome
from streams import metrics
from streams.outbound.writes import Claim, as_rows
from streams.rules.retries import Done, GiveUp, Next, Park, Refetch, Resolve, RetryAt, StopLane
from streams.store import deliveries, queries, waits
from streams.store.connections import Connection

_SQL = queries("outbound")

Row = dict[str, Any]
Conn = AsyncConnection[Any]


@dataclass(slots=True)
class Result:
    """One attempt: the claim, what they said, what follows."""

    claim: Claim
    outcome: Outcome
    next: Next
    sent_at: datetime
    answered_at: datetime


class Outcomes:
    """Results of one connection. Time is a parameter."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._key = {"org": connection.org_id, "connection": connection.name}

    async def commit(self, conn: Conn, results: Sequence[Result], *, now: datetime) -> bool:
        """Record results in one transaction; whether one of the intents is to be sent again at once."""
        async with conn.transaction():
            rows = sorted((_settle_row(r) for r in results), key=lambda r: (r["external_type"], r["entity_id"]))
            cursor = await conn.execute(_SQL["settle"], self._key | {"rows": as_rows(rows), "now": now})
            states = {(external_type, entity_id): state async for external_type, entity_id, state in cursor}
            kept = [r for r in results if (r.claim.external_type, r.claim.entity_id) in states]
            released = await self._confirm(conn, [r for r in kept if isinstance(r.outcome, Delivered)], now)
            dead = [r for r in kept if isinstance(r.next, GiveUp) and r.claim.event_claimed is None]
            await bury(conn, self._connection, [(r.claim, _error(r.outcome)) for r in dead], now)
            told = [_delivery_row(r) for r in kept]
            await deliveries.record(conn, self._connection.org_id, self._connection.name, told, now=now)
        metrics.recorded(self._connection, told)
        return released or "PENDING" in states.values()

    async def _confirm(self, conn: Conn, delivered: Sequence[Result], now: datetime) -> bool:
        """Links and states of what they hold now; whether something that waited for a link is wanted."""
        alive = [r for r in delivered if r.claim.op != Op.DELETE]
        gone = [r.claim.entity_id for r in delivered if r.claim.op == Op.DELETE]
        if alive:
            rows = as_rows([_confirm_row(r, r.outcome) for r in alive if isinstance(r.outcome, Delivered)])
            await conn.execute(_SQL["confirm"], self._key | {"rows": rows, "now": now})
        if gone:
            await conn.execute(_SQL["unlink"], self._key | {"ids": gone, "now": now})
        if positions := [position(self._connection, r.claim) for r in delivered if r.claim.error_code]:
            await conn.execute(_SQL["close_dead_letters"], {"positions": positions, "now": now})
        made = [r.claim.entity_id for r in alive if r.claim.op == Op.CREATE]
        return await waits.release(conn, self._connection.org_id, self._connection.name, made, now=now) > 0


async def bury(
    conn: Conn, connection: Connection, dead: Sequence[tuple[Claim, dict[str, str | None]]], now: datetime
) -> None:
    """Dead letters of writes that nobody can fulfil as they are: (claim, error code and cause)."""
    if dead:
        rows = [{"entity_id": c.entity_id, "position": position(connection, c), **told} for c, told in dead]
        values = {"org": connection.org_id, "connection": connection.name, "rows": as_rows(rows), "now": now}
        await conn.execute(_SQL["dead_letters"], values)


def position(connection: Connection, claim: Claim) -> str:
    """Where a dead letter of a push comes from: the intent's key."""
    return f"{connection.org_id}/{connection.name}/{claim.external_type}/{claim.entity_id}"


def settled(claim: Claim, state: str, *, done: bool = False, code: str | None = None) -> Row:
    """The row of the `settle` statement for a claim that was not sent; whoever sends adds what he knows."""
    return {
        "external_type": claim.external_type,
        "entity_id": claim.entity_id,
        "fence": claim.fence,
        "done": done,
        "called": False,
        "state": state,
        "not_before": None,
        "keep_bytes": False,
        "free_try": False,
        "error_code": code,
        "error_cause": None,
    }


def _settle_row(result: Result) -> Row:
    """What becomes of the intent."""
    claim = result.claim
    event = {"event_done": claim.event_claimed, "more": True} if claim.event_claimed is not None else {}
    match result.next:
        case Done():
            row = settled(claim, "DONE", done=True) | {"called": True, **event}
        case RetryAt(at, keep_bytes, free):
            row = settled(claim, "RETRY") | {"not_before": at, "keep_bytes": keep_bytes, "free_try": free}
        case Resolve(at, how, token, tries):
            waits = {"not_before": at, "resolve": how, "resolve_token": token, "resolve_tries": tries}
            row = settled(claim, "UNKNOWN") | {**waits, "keep_bytes": True, "free_try": True}
        case Refetch(at):
            row = settled(claim, "RETRY") | {"not_before": at}
        case GiveUp():
            # of an event-like type the order is kept: nothing passes by the version they refused
            row = settled(claim, "PARKED" if event else "DEAD")
        case Park():
            row = settled(claim, "PARKED") | {"keep_bytes": True}
        case StopLane(keep_bytes):
            row = settled(claim, "PENDING") | {"keep_bytes": keep_bytes, "free_try": True}
            if claim.resolve:
                row |= {"resolve": claim.resolve, "resolve_token": claim.resolve_token, "state": "UNKNOWN"}
    return row | _error(result.outcome)


def _error(outcome: Outcome) -> dict[str, str | None]:
    match outcome:
        case Delivered():
            return {"error_code": None, "error_cause": None}
        case Accepted():
            return {"error_code": "accepted", "error_cause": "they took it and will tell later what became of it"}
        case _:
            return {"error_code": outcome.error.code, "error_cause": outcome.error.cause}


def _confirm_row(result: Result, outcome: Delivered) -> Row:
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


def _delivery_row(result: Result) -> Row:
    claim, outcome = result.claim, result.outcome
    told = _error(outcome)
    return {
        "external_type": claim.external_type,
        "entity_type": claim.entity_type,
        "entity_id": claim.entity_id,
        "sync_key": claim.sync_key,
        "external_id": outcome.external_id if isinstance(outcome, Delivered) else None,
        "op": claim.op,
        "outcome": told["error_code"] or "delivered",
        "status": outcome.error.status if hasattr(outcome, "error") else outcome.status,
        "cause": told["error_cause"],
        "reason": claim.reason,
        "before": claim.before,
        "sent": claim.sent,
        "version": claim.version,
        "modified_at": claim.modified_at,
        "changed": claim.changed,
        "bytes": 0 if claim.resolve else len(claim.body or b""),
        "attempt": claim.attempt,
        "idem_key": claim.idem_key,
        "seq": claim.event_claimed or claim.claimed_seq,
        "committed_at": claim.committed_at,
        "planned_at": claim.planned_at,
        "claimed_at": claim.claimed_at,
        "sent_at": result.sent_at,
        "answered_at": result.answered_at,
    }
