"""Which metrics the database gives, and how each is read. Labels are organisations, connections, types, codes only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from streams import capture
from streams.store import accounting, budgets, publication, queries

_SQL = queries("metrics")

Conn = AsyncConnection[Any]
Row = dict[str, Any]
Samples = dict[str, Mapping[tuple[str, ...], float]]
"""Metric name -> values by its labels."""

SCOPE = ("org", "connection")
AGE = "syncline_metrics_age_seconds"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric; the text of a counter adds `_total` to its name."""

    help: str
    labels: tuple[str, ...]
    counter: bool = False


def _total(told: str, *labels: str) -> Family:
    return Family(told, (*SCOPE, *labels), counter=True)


def _now(told: str, *labels: str) -> Family:
    return Family(told, (*SCOPE, *labels))


FAMILIES: Mapping[str, Family] = {
    "syncline_connection": _now("1 for the state a connection is in", "state"),
    "syncline_intents": _now("Records that are not in step, by the state of their intent", "external_type", "state"),
    "syncline_queue_age_seconds": _now("Age of the oldest change they do not have, by its intent's state", "state"),
    "syncline_dead_letters": _now("Open dead letters", "source"),
    "syncline_events_waiting": _now("Events of theirs that cannot be applied yet", "external_type", "reason"),
    "syncline_event_age_seconds": _now("Age of the oldest event that waits", "external_type", "reason"),
    "syncline_mass_holds": _now("Mass changes that wait for a person", "entity_type", "kind"),
    "syncline_breaker_open": _now("1 for each worker that does not call a system that does not answer", "slot"),
    "syncline_deliveries": _total("Calls that were to bring a record over, by outcome", "entity_type", "outcome"),
    "syncline_success_ratio": _now("Share of the calls of today and yesterday (UTC) that were successful"),
    "syncline_sync_duration_seconds": _total("Seconds spent in calls"),
    "syncline_entities_synced": _total("Calls after which they held what we wanted", "entity_type"),
    "syncline_bytes_transferred": _total("Bytes of the bodies of calls"),
    "syncline_conflicts_resolved": _total("Values on which both sides differed, decided by rule or person"),
    "syncline_errors_encountered": _total("Calls that failed"),
    "syncline_retry_attempts": _total("Calls that were not the first of their write"),
    "syncline_conflicts_open": _now("Fields that wait for a person's decision", "entity_type"),
    "syncline_conflict_age_seconds": _now("Age of the oldest field that waits for a decision", "entity_type"),
    "syncline_reviews_open": _now("Review items that wait for a person", "kind"),
    "syncline_conflicts_overdue": _now("Fields that should have been decided by now", "entity_type"),
    "syncline_reviews_overdue": _now("Review items that should have been seen to by now", "kind"),
    "syncline_routes": _total("Where changes went, per root", "entity_type", "verdict", "reason"),
    "syncline_account": _now("The books: seen, planned, excluded; wished, confirmed, pending, parked, dead", "account"),
    "syncline_unreconciled": _now("Changes that are nowhere, by the identity that shows it", "identity"),
    "syncline_budget_limit": _now("Calls that a system allows in a period, learned or chosen", "source"),
    "syncline_budget_used": _now("Calls of the present period that are spent", "source"),
    "syncline_budget_period_seconds": _now("Length of the period", "source"),
    "syncline_budget_blocked": _now("1 while a system wants no call at all"),
    "syncline_slot_lag_bytes": Family("WAL since what the connector has confirmed", ()),
    "syncline_slot_safe_bytes": Family("WAL that may still be written before the slot is in danger", ()),
    "syncline_slot_active": Family("1 while a connector reads the slot", ()),
    "syncline_capture_safe": Family("1 while everything that is not captured yet is still there", ()),
}
"""Everything that is read here, by name."""


async def queues(conn: Conn, now: datetime) -> Samples:
    """What waits, for whatever reason."""
    intents: dict[tuple[str, ...], float] = {}
    ages: dict[tuple[str, ...], float] = {}
    for row in await _rows(conn, "intents"):
        scope = row["org_id"], row["connection"]
        intents[*scope, row["external_type"], row["state"]] = row["count"]
        if row["state"] in ("PENDING", "RETRY", "WAITING", "UNKNOWN", "SENDING") and row["oldest"]:
            age = max(0.0, (now - row["oldest"]).total_seconds())
            ages[*scope, row["state"]] = max(age, ages.get((*scope, row["state"]), 0.0))
    waiting = await _rows(conn, "waiting_events")
    return {
        "syncline_connection": {_key(row, "state"): 1 for row in await _rows(conn, "connections")},
        "syncline_intents": intents,
        "syncline_queue_age_seconds": ages,
        "syncline_dead_letters": {_key(row, "source"): row["count"] for row in await _rows(conn, "dead_letters")},
        "syncline_events_waiting": {_key(row, "external_type", "reason"): row["count"] for row in waiting},
        "syncline_event_age_seconds": {
            _key(row, "external_type", "reason"): max(0.0, (now - row["oldest"]).total_seconds()) for row in waiting
        },
        "syncline_mass_holds": {
            _key(row, "entity_type", "kind"): row["count"] for row in await _rows(conn, "mass_holds")
        },
        "syncline_breaker_open": {_key(row, "slot"): 1 for row in await _rows(conn, "breakers")},
        **await _for_people(conn, now),
    }


async def _for_people(conn: Conn, now: datetime) -> Samples:
    conflicts, reviews = await _rows(conn, "conflicts", now=now), await _rows(conn, "reviews", now=now)
    ages = {_key(row, "entity_type"): max(0.0, (now - row["oldest"]).total_seconds()) for row in conflicts}
    return {
        "syncline_conflicts_open": {_key(row, "entity_type"): row["count"] for row in conflicts},
        "syncline_conflict_age_seconds": ages,
        "syncline_reviews_open": {_key(row, "kind"): row["count"] for row in reviews},
        "syncline_conflicts_overdue": {_key(row, "entity_type"): row["overdue"] for row in conflicts},
        "syncline_reviews_overdue": {_key(row, "kind"): row["overdue"] for row in reviews},
    }


async def totals(conn: Conn, now: datetime) -> Samples:
    """What was done since the beginning."""
    rows = await _rows(conn, "deliveries", yesterday=now.astimezone(UTC).date() - timedelta(days=1))
    good = [row for row in rows if row["outcome"] == "delivered"]
    lately, well = _sum(rows, "lately"), _sum(good, "lately")
    return {
        "syncline_deliveries": {_key(row, "entity_type", "outcome"): row["calls"] for row in rows},
        "syncline_success_ratio": {key: well.get(key, 0) / calls for key, calls in lately.items() if calls},
        "syncline_sync_duration_seconds": _sum(rows, "seconds"),
        "syncline_entities_synced": {_key(row, "entity_type"): row["calls"] for row in good},
        "syncline_bytes_transferred": _sum(rows, "bytes"),
        "syncline_errors_encountered": _sum(
            [row | {"calls": 0} if row["outcome"] == "delivered" else row for row in rows], "calls"
        ),
        "syncline_retry_attempts": _sum(rows, "retries"),
        "syncline_routes": {
            _key(row, "entity_type", "verdict", "reason"): row["roots"] for row in await _rows(conn, "routes")
        },
    }


async def books(conn: Conn, now: datetime) -> Samples:
    """Whether everything adds up; reads all intents and what was decided."""
    account: dict[tuple[str, ...], float] = {}
    missing: dict[tuple[str, ...], float] = {}
    for scope, book in (await accounting.accounts(conn, now=now)).items():
        for side in (book.routes, book.wishes):
            account |= {(*scope, name): getattr(side, name) for name in side.__dataclass_fields__}
        missing |= {(*scope, identity): count for identity, count in book.differences.items()}
    return {
        "syncline_account": account,
        "syncline_unreconciled": missing,
        "syncline_conflicts_resolved": _sum(await _rows(conn, "losing_values"), "resolved"),
    }


async def budget_use(conn: Conn, now: datetime) -> Samples:
    """What systems allow, and how much of it is spent."""
    found: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for org in sorted({row["org_id"] for row in await _rows(conn, "connections")}):
        for use in await budgets.usage(conn, org, now=now):
            scope = org, use["connection"]
            found["syncline_budget_blocked"][scope] = int(use["blocked_until"] is not None)
            if use["limit"] is not None:
                key = (*scope, use["source"])
                found["syncline_budget_limit"][key] = use["limit"]
                found["syncline_budget_used"][key] = use["used"]
                found["syncline_budget_period_seconds"][key] = use["period"]
    return dict(found)


async def capture_state(conn: Conn, now: datetime) -> Samples:
    """How far capture is behind, and whether anything is about to be lost."""
    del now
    slot = capture.read_slot(await (await conn.execute(capture.SLOT, (publication.NAME,))).fetchone())
    if slot is None:
        return {"syncline_capture_safe": {(): 0}, "syncline_slot_active": {(): 0}}
    told: Samples = {
        "syncline_capture_safe": {(): int(slot.safe)},
        "syncline_slot_active": {(): int(slot.active)},
        "syncline_slot_lag_bytes": {(): slot.lag_bytes},
    }
    return told if slot.safe_wal_size is None else told | {"syncline_slot_safe_bytes": {(): slot.safe_wal_size}}


async def _rows(conn: Conn, name: str, **values: object) -> list[Row]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL[name].encode(), values or None)
        return await cursor.fetchall()


def _key(row: Row, *labels: str) -> tuple[str, ...]:
    return (row["org_id"], row["connection"], *(str(row[label]) for label in labels))


def _sum(rows: list[Row], column: str) -> dict[tuple[str, ...], float]:
    """Per connection."""
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for row in rows:
        found[row["org_id"], row["connection"]] += row[column]
    return dict(found)
