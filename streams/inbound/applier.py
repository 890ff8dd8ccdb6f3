"""The applier: a batch of events, decided and written in the caller's transaction, each exactly once (rule R19).

    ledger → units (connection, type) → reading, folding, writing in a savepoint → ledger, dead letters, reviews

What one event alone is to blame for, it alone suffers: a unit that fails is halved until the event stands by itself;
then it becomes a dead letter, or, where a rule of the user's own tables refused it, a review item that names the rule,
or, where somebody has its row, it waits. What else passes by waiting (a deadlock, a lost connection) is raised, and the
caller tries the whole batch again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
import psycopg
import structlog
from psycopg import AsyncConnection

from connectors.contract import Manifest
from schemas.fields import Json
from schemas.model import Model
from schemas.problems import Problem
from streams.inbound import (
    dead_letters,
    fetching,
    folding,
    matching,
    merging,
    reading,
    refusals,
    staging,
    their_deletes,
    tracks,
    waiting,
    writing,
)
from streams.inbound.incoming import Incoming, Unit, unit_of
from streams.rules import typeids
from streams.rules.clock_errors import Measured
from streams.store import clock_errors, connections, queries
from streams.store.connections import Connection

Conn = AsyncConnection[Any]
Row = dict[str, Json]

LOCK_TIMEOUT = "500ms"
"""How long we wait for a row that somebody else has. Shorter than the second after which Postgres looks for a deadlock,
so that it is never the user's own transaction that is ended in one."""

_SQL = queries("inbound")
_log = structlog.get_logger("inbound.apply")


@dataclass(slots=True)
class Applied:
    """What a batch came to.

    Args:
        decisions: (connection, decision) -> events. `held` ones are not in the ledger: they will be read again when
            their connection works or their type is live; nor are `waiting` ones, see `streams.inbound.waiting`.
        corrections: pushes that were planned because they hold something else than we do now.
    """

    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)
    corrections: int = 0
    entries: list[Row] = field(default_factory=list)
    dead: list[Row] = field(default_factory=list)
    reviews: list[Row] = field(default_factory=list)
    wishes: list[Row] = field(default_factory=list)

    def enter(self, entries: Iterable[Row]) -> None:
        """Note ledger entries."""
        for each in entries:
            self.entries.append(each)
            self.decisions[each["connection"], each["decision"]] += 1


class Applier:
    """Applies events. Stateless but for its collaborators.

    Args:
        manifest: system name -> manifest; Problem when there is no such adapter.
    """

    def __init__(self, model: Model, manifest: Callable[[str], Manifest], now: Callable[[], datetime]) -> None:
        self._model = model
        self._manifest = manifest
        self._now = now

    async def apply(self, conn: Conn, incoming: Sequence[Incoming]) -> Applied:
        """Apply a batch inside the caller's transaction, which is one of the applier's role.

        Raises:
            psycopg.OperationalError: what passes by waiting; the transaction is to be rolled back and tried again.
        """
        applied = Applied()
        await conn.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'".encode())
        for unit, events in await self._units(conn, await _fresh(conn, incoming), applied):
            await self._isolate(conn, unit, events, applied)
        await self._save(conn, applied)
        return applied

    async def _units(
        self, conn: Conn, incoming: Iterable[Incoming], applied: Applied
    ) -> list[tuple[Unit, list[Incoming]]]:
        """The events by connection and type, referenced types before those that refer to them."""
        known = await _connections(conn, {each.event.org_id for each in incoming})
        grouped: dict[tuple[str, str, str], list[Incoming]] = defaultdict(list)
        for each in incoming:
            if each.event.external_type:
                grouped[each.event.org_id, each.event.connection, each.event.external_type].append(each)
            else:
                _bury(applied, each, Problem("webhook_unreadable", "the adapter cannot read the webhook's body"))
        senders = {(org_id, name) for org_id, name, _ in grouped}
        clocks = {sender: await clock_errors.measured(conn, *sender) for sender in sorted(senders)}
        units = []
        for (org_id, name, external_type), events in grouped.items():
            try:
                unit = self._unit(known.get((org_id, name)), name, external_type, clocks[org_id, name])
            except Problem as problem:
                for each in events:
                    _bury(applied, each, problem)
                continue
            if held := _held(unit):
                applied.decisions[name, "held"] += len(events)
                _log.info(
                    "events_held", org=org_id, connection=name, type=external_type, reason=held, count=len(events)
                )
                continue
            readable = _readable(unit, events, applied)
            if (gate := unit.connection.gates[unit.root.name]) != "live":
                staged = [each for each in readable if each.event.op != "merge"]
                await staging.stage(conn, unit, staged, self._now())
                applied.enter(tracks.entry(each.event, "staged", f"gate_{gate}") for each in staged)
                readable = [each for each in readable if each.event.op == "merge"]
            units.append((unit, readable))
        return sorted(units, key=_order)

    def _unit(self, connection: Connection | None, name: str, external_type: str, clock: Measured) -> Unit:
        if connection is None:
            raise Problem("connection_unknown", f"there is no connection named {name}", "Connect it, then redrive.")
        try:
            return unit_of(connection, self._manifest(connection.system), external_type, self._model, clock)
        except KeyError:
            raise Problem(
                "type_unknown",
                f"the adapter {connection.system} has no type {external_type!r}, or the model lacks what it maps to",
                "Upgrade the adapter or add the entity type, then redrive.",
            ) from None

    async def _isolate(self, conn: Conn, unit: Unit, events: list[Incoming], applied: Applied) -> None:
        """Apply events together, or, where that fails by the fault of one, in halves."""
        if not events:
            return
        try:
            async with conn.transaction():
                entries, reviews, corrections, waits = await self._apply_unit(conn, unit, events)
        except Exception as error:
            locked = isinstance(error, psycopg.errors.LockNotAvailable)
            if refusals.passes_by_waiting(error) and not locked:
                raise
            if len(events) == 1 and locked:
                await waiting.put_off(conn, unit, events[0], self._now())
                applied.decisions[unit.connection.name, "waiting"] += 1
                return
            if len(events) == 1:
                _refuse(unit, events[0], error, applied)
                return
            half = len(events) // 2
            await self._isolate(conn, unit, events[:half], applied)
            await self._isolate(conn, unit, events[half:], applied)
        else:
            applied.enter(entries)
            applied.reviews += reviews
            applied.corrections += corrections
            if waits:
                applied.decisions[unit.connection.name, "waiting"] += waits

    async def _apply_unit(
        self, conn: Conn, unit: Unit, events: list[Incoming]
    ) -> tuple[list[Row], list[Row], int, int]:
        merged = await merging.apply(conn, unit, events, self._now())
        going_on = merged.going_on
        loaded = await reading.load(conn, unit, going_on, self._is_our_id)
        known = await waiting.hold(conn, unit, loaded, going_on, self._now())
        allowed, dropped = await their_deletes.screen(conn, unit, loaded, known, self._now())
        matched = await matching.match(conn, unit, loaded, allowed, self._is_our_id)
        folded = folding.fold(unit, loaded, matched.going_on)
        corrections = await writing.write(conn, unit, loaded, folded, self._now())
        doubts = [
            tracks.entry(each.event, "parked", f"match {item['detail']['reason']}") for each, item in matched.doubtful
        ]
        reviews = [item for _, item in matched.doubtful]
        entries = merged.entries + folded.entries + doubts + dropped
        return entries, merged.reviews + reviews, corrections, len(going_on) - len(allowed) - len(dropped)

    def _is_our_id(self, entity_type: str, text: str) -> bool:
        found = self._model.types.get(entity_type)
        return found is not None and typeids.is_well_formed(text, found.prefix)

    async def _save(self, conn: Conn, applied: Applied) -> None:
        now = self._now()
        if applied.entries:
            cursor = await conn.execute(_SQL["enter"], {"rows": _json(applied.entries), "now": now})
            if cursor.rowcount != len(applied.entries):
                # Another transaction applied one of them since we looked: ours must not count it again.
                raise psycopg.errors.SerializationFailure("an event was applied by another worker at the same moment")
        taken = [e for e in applied.entries if e["decision"] in ("applied", "merged")]
        if polled := [e for e in taken if e["source"] == "poll"]:
            await conn.execute(_SQL["recovered"], {"rows": _json(polled)})
        if applied.reviews:
            await conn.execute(_SQL["reviews"], {"rows": _json(applied.reviews), "now": now})
        await fetching.want(conn, applied.wishes, now)
        await dead_letters.write(conn, applied.dead, now)


async def _fresh(conn: Conn, incoming: Sequence[Incoming]) -> list[Incoming]:
    """Those that nobody applied yet, each once."""
    first = {each.event.event_id: each for each in reversed(incoming)}
    redriven = [event_id for event_id, each in first.items() if each.event.source == "redrive"]
    cursor = await conn.execute(_SQL["seen"], {"ids": list(first), "redriven": redriven, "unstage": True})
    async for (event_id,) in cursor:
        first.pop(bytes(event_id), None)
    return [each for each in incoming if first.get(each.event.event_id) is each]


async def _connections(conn: Conn, orgs: Iterable[str]) -> dict[tuple[str, str], Connection]:
    return {(c.org_id, c.name): c for org in sorted(orgs) for c in await connections.list_all(conn, org)}


def _held(unit: Unit) -> str:
    """Why a unit's events are left alone: they stay in the external system, and are read again if it is chosen."""
    if unit.connection.state == "disconnected":
        return "disconnected"
    return "" if unit.connection.gates.get(unit.root.name) else "not_chosen"


def _readable(unit: Unit, events: Iterable[Incoming], applied: Applied) -> list[Incoming]:
    """The events that hold a whole record, with their payloads read; the others are accounted for at once."""
    found = []
    for each in events:
        event = each.event
        try:
            payload = refusals.payload_of(event)
        except Problem as problem:
            if problem.code == "incomplete_event" and fetching.is_wish(event):
                applied.wishes.append(fetching.wish(event))
                applied.enter([tracks.entry(event, "ignored", "fetching")])
            else:
                _bury(applied, each, problem)
            continue
        found.append(Incoming(event, payload, each.position, each.raw, unit.ahead, each.verdict))
    return found


def _order(item: tuple[Unit, list[Incoming]]) -> tuple[str, str, int]:
    unit = item[0]
    return unit.org_id, unit.connection.name, unit.manifest.aggregates.index(unit.aggregate)


def _refuse(unit: Unit, each: Incoming, error: Exception, applied: Applied) -> None:
    """One event cannot be applied: a review item if a rule of the user's tables says so, else a dead letter."""
    if isinstance(error, psycopg.IntegrityError | psycopg.errors.RaiseException):
        rule = refusals.rule_of(error)
        applied.reviews.append(refusals.review(unit, each, error))
        applied.enter([tracks.entry(each.event, "parked", f"constraint {rule}")])
        return
    _bury(applied, each, dead_letters.problem_of(error))


def _bury(applied: Applied, each: Incoming, problem: Problem) -> None:
    applied.dead.append(dead_letters.of_event(each, problem))
    if "\x00" not in each.event.external_type + each.event.external_id:  # which the ledger could not hold
        applied.enter([tracks.entry(each.event, "parked", problem.code)])


def _json(rows: Sequence[Row]) -> str:
    return orjson.dumps(rows).decode()
