"""A lane's way to work: ready intents are taken, their aggregates read, the bytes frozen and committed.

Only then may a byte leave. What needs no call, waits for another, or is held by the guard is settled right here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from psycopg import AsyncConnection
from psycopg.rows import class_row

from connectors.contract import Client, Manifest, Op
from schemas.problems import Problem
from streams.outbound import guard
from streams.outbound.outcomes import bury, settled
from streams.outbound.waits import Dependencies
from streams.outbound.writes import Blocked, Claim, Event, Linked, NoCall, Plan, Planned, as_rows, freeze, plan_write
from streams.rules import references, retries
from streams.rules.retries import Park, Resolve
from streams.store import aggregates, push_events, queries, waits
from streams.store.aggregates import Rows
from streams.store.connections import Connection

LEASE = timedelta(seconds=90)
ABSENT = ("filtered_out", "never_there", "parent_not_synced", "merged_there")
"""Reasons not to call that leave the record unlinked: who waits for it waits in vain."""
_SQL = queries("outbound")
_MERGING = queries("merging")
_log = structlog.get_logger("outbound.claims")

Row = dict[str, Any]
Conn = AsyncConnection[Any]


class Claims:
    """Claims of one connection. Time is a parameter.

    Args:
        every_change: whether an entity type is event-like: every version of it is sent.
    """

    def __init__(
        self,
        connection: Connection,
        manifest: Manifest,
        slot: int,
        *,
        every_change: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._connection = connection
        self._manifest = manifest
        self._slot = slot
        self._every_change = every_change
        self._dependencies = Dependencies(connection, manifest)
        self._key = {"org": connection.org_id, "connection": connection.name}

    async def take(self, conn: Conn, client: Client, *, limit: int, now: datetime) -> tuple[int, list[Claim]]:
        """Claim up to `limit` intents and freeze their bytes; (number claimed, those that need a call).

        A claim that was committed and not frozen was not sent: whoever takes it over builds it anew.
        """
        async with conn.cursor(row_factory=class_row(Claim)) as cursor:
            values = self._key | {"now": now, "lease": now + LEASE, "slot": self._slot, "limit": limit}
            await cursor.execute(_SQL["claim"], values)
            claims = await cursor.fetchall()
        rows = self._recover(claims, now)
        fresh = [claim for claim in claims if not claim.resent]
        rows += await self._freeze(conn, fresh, client, now) if fresh else []
        if rows:
            await conn.execute(_SQL["settle"], self._key | {"rows": as_rows(rows), "now": now})
            told = {r["entity_id"]: _told(r) for r in rows if r["state"] == "DEAD"}
            await bury(conn, self._connection, [(c, told[c.entity_id]) for c in claims if c.entity_id in told], now)
            absent = [row["entity_id"] for row in rows if row["error_code"] in ABSENT]
            await waits.look_again(conn, self._connection.org_id, self._connection.name, absent, now=now)
        idle = {row["entity_id"] for row in rows}
        return len(claims), [claim for claim in claims if claim.entity_id not in idle]

    def _recover(self, claims: Sequence[Claim], now: datetime) -> list[Row]:
        """Creates whose worker is gone, where a repeat would not be safe."""
        rows = []
        for claim in claims:
            if not claim.resent or claim.resolve:
                continue
            match retries.left_over(claim.as_attempt(), manifest=self._manifest, now=now):
                case Resolve(at, how, token):
                    waits = {"not_before": at, "keep_bytes": True, "resolve": how, "resolve_token": token}
                    rows.append(settled(claim, "UNKNOWN") | waits)
                case Park():
                    rows.append(settled(claim, "PARKED", code="outcome_unknown") | {"keep_bytes": True})
                case _:
                    pass
        return rows

    async def _freeze(self, conn: Conn, fresh: list[Claim], client: Client, now: datetime) -> list[Row]:
        """Freeze what has to be sent; how the others are settled."""
        rows, events = await self._rows(conn, fresh)
        links = await self._links(conn, fresh, rows)
        plans, idle = self._plan(fresh, rows, events, links)
        blocked = [(claim, plan) for claim, plan in plans if isinstance(plan, Blocked)]
        writes = [(claim, plan) for claim, plan in plans if isinstance(plan, Planned)]
        if blocked:
            for waits in await self._dependencies.block(conn, blocked, now=now):
                idle.append(_waiting(waits.claim, waits.missing.entity_id, hopeless=waits.hopeless))
        if merged := await self._merged_there(conn, writes):
            idle += [settled(c, "DONE", done=True, code="merged_there") for c, _ in writes if c.entity_id in merged]
            writes = [(claim, planned) for claim, planned in writes if claim.entity_id not in merged]
        held = await guard.screen(conn, self._connection, writes, now=now)
        idle += [_held(claim, held[claim.entity_id]) for claim, _ in writes if claim.entity_id in held]
        frozen = []
        for claim, planned in writes:
            if claim.entity_id in held:
                continue
            try:
                body = client.build(planned.write)
            except Exception as error:  # noqa: BLE001  whatever is wrong with one record holds up no other
                idle.append(_unbuildable(claim, error))
                continue
            claim.version = rows[claim.entity_id].root.get("version") if claim.entity_id in rows else None
            frozen.append(freeze(claim, planned, body, events.get(claim.entity_id)) | {"counted_at": claim.counted_at})
        if frozen:
            await self._dependencies.later(conn, writes)
            await conn.execute(_SQL["freeze"], self._key | {"rows": as_rows(frozen), "now": now})
        return idle

    def _plan(
        self,
        fresh: Sequence[Claim],
        rows: Mapping[str, Rows],
        events: Mapping[str, Event],
        links: Mapping[str, Linked],
    ) -> tuple[list[tuple[Claim, Plan]], list[Row]]:
        """What each claim comes to, and the rows of those that come to nothing."""
        plans: list[tuple[Claim, Plan]] = []
        idle = []
        for claim in fresh:
            event = events.get(claim.entity_id)
            if event is None and self._every_change(claim.entity_type):
                idle.append(settled(claim, "DONE", done=True, code="no_new_version"))
                continue
            try:
                found = plan_write(
                    claim,
                    rows.get(claim.entity_id),
                    links,
                    connection=self._connection,
                    manifest=self._manifest,
                    event=event,
                )
            except Exception as error:  # noqa: BLE001  whatever is wrong with one record holds up no other
                idle.append(_unbuildable(claim, error))
                continue
            if isinstance(found, NoCall):
                passed = {"event_done": event.id, "more": True} if event else {}
                idle.append(settled(claim, "DONE", done=True, code=found.reason) | passed)
            else:
                plans.append((claim, found))
        return plans, idle

    async def _rows(self, conn: Conn, claims: Iterable[Claim]) -> tuple[dict[str, Rows], dict[str, Event]]:
        """The aggregates as they are now; of event-like types as they were at the next event."""
        wanted: dict[str, list[str]] = {}
        logged: list[tuple[str, int]] = []
        for claim in claims:
            if self._every_change(claim.entity_type):
                logged.append((claim.entity_id, claim.event_done))
            else:
                wanted.setdefault(claim.external_type, []).append(claim.entity_id)
        found: dict[str, Rows] = {}
        for external_type, ids in wanted.items():
            aggregate = self._manifest.aggregate(external_type)
            also = tuple(each["field"] for each in self._connection.filters.get(aggregate.root, ()))
            found |= await aggregates.read(
                conn, aggregate, self._connection.org_id, ids, also=also, custom_of=self._connection.name
            )
        events = await self._events(conn, logged) if logged else {}
        return found | {entity_id: event.rows for entity_id, event in events.items()}, events

    async def _events(self, conn: Conn, wanted: Sequence[tuple[str, int]]) -> dict[str, Event]:
        told = await push_events.next_events(conn, self._connection.org_id, self._connection.name, wanted)
        return {entity_id: Event(each.id, _as_rows_of(each)) for entity_id, each in told.items()}

    async def _links(self, conn: Conn, claims: Iterable[Claim], rows: Mapping[str, Rows]) -> dict[str, Linked]:
        """The links of the roots, of their parts and of what they refer to."""
        ids = {claim.entity_id for claim in claims} | self._references(claims, rows)
        cursor = await conn.execute(_SQL["links_and_states"], self._key | {"ids": sorted(ids)})
        return {
            entity_id: Linked(external_id, rev, base or {}, open_fields or {}, version, _unresolved(metadata))
            async for entity_id, external_id, rev, base, version, open_fields, metadata in cursor
        }

    def _references(self, claims: Iterable[Claim], rows: Mapping[str, Rows]) -> set[str]:
        found: set[str] = set()
        for claim in claims:
            if row := rows.get(claim.entity_id):
                aggregate = self._manifest.aggregate(claim.external_type)
                found.update(entity_id for _, entity_id in references.in_rows(aggregate, row.root, row.parts))
                items = (part.entity_type for part in aggregate.parts if part.external_id)
                found.update(str(each["id"]) for kind in items for each in row.parts.get(kind, ()))
        return found

    async def _merged_there(self, conn: Conn, writes: Sequence[tuple[Claim, Planned]]) -> set[str]:
        """What would be made anew although they have merged its record into that of another entity of ours."""
        ids = [claim.entity_id for claim, planned in writes if planned.write.op is Op.CREATE]
        if not ids:
            return set()
        cursor = await conn.execute(_MERGING["merged_entities"], self._key | {"ids": ids})
        return {entity_id async for (entity_id,) in cursor}

    async def give_back(self, conn: Conn, claims: Sequence[Claim], *, now: datetime) -> None:
        """Claims that were frozen and surely not sent: free for whoever comes first. Bytes sent before stay frozen."""
        rows = []
        for claim in claims:
            asked = {
                "resolve": claim.resolve,
                "resolve_token": claim.resolve_token,
                "resolve_tries": claim.resolve_tries,
            }
            state = "UNKNOWN" if claim.resolve else "RETRY" if claim.resent else "PENDING"
            rows.append(
                settled(claim, state) | {"keep_bytes": claim.resent, "free_try": True, "not_before": now, **asked}
            )
        await conn.execute(_SQL["settle"], self._key | {"rows": as_rows(rows), "now": now})

    async def next_due(self, conn: Conn) -> datetime | None:
        """When an intent of this lane is ready next."""
        row = await (await conn.execute(_SQL["next_due"], self._key)).fetchone()
        return row[0] if row else None


def _unresolved(noted: dict[str, list[str]] | None) -> dict[str, str]:
    return {place: theirs for place, (_, theirs) in (noted or {}).items()}


def _as_rows_of(event: push_events.NextEvent) -> Rows:
    deleted_at = event.modified_at.isoformat() if event.op == "delete" else event.row.get("deleted_at")
    return Rows({**event.row, "deleted_at": deleted_at, "modified_at": event.modified_at.isoformat()})


def _waiting(claim: Claim, entity_id: str, *, hopeless: bool) -> Row:
    cause = f"waiting for {entity_id}"
    if hopeless:
        return settled(claim, "DONE", done=True, code="parent_not_synced") | {"error_cause": cause}
    return settled(claim, "WAITING", code="waiting") | {"free_try": True, "error_cause": cause}


def _held(claim: Claim, hold: int) -> Row:
    return settled(claim, "HELD", code="mass_change") | {"free_try": True, "hold_id": hold}


def _told(row: Row) -> dict[str, str | None]:
    return {"error_code": row["error_code"], "error_cause": row["error_cause"]}


def _unbuildable(claim: Claim, error: Exception) -> Row:
    """A record that the mapping or the adapter cannot turn into a request: a dead letter until it changes."""
    told = (
        error if isinstance(error, Problem) else Problem("write_unbuildable", f"{type(error).__name__} in the adapter")
    )
    _log.error("write_unbuildable", type=claim.external_type, entity=claim.entity_id, code=told.code)
    return settled(claim, "DEAD", code=told.code) | {"error_cause": told.cause}
