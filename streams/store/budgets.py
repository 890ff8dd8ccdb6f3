"""The rate budget of a connection as it is stored: one row, changed by who has seen its last version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from streams.rules import budgets
from streams.rules.budgets import Account, Quota
from streams.store import queries
from streams.store.connections import Connection

_SQL = queries("budgets")

Conn = AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Row:
    """The account of one connection, as its budgets share it; see `streams.outbound.budgets.Shared`."""

    pool: AsyncConnectionPool
    connection: Connection
    now: Callable[[], datetime]

    async def load(self) -> tuple[Account, int]:
        """The account and its version."""
        async with self.pool.connection() as conn:
            return await load(conn, self.connection.org_id, self.connection.name, self.connection.budget)

    async def save(self, account: Account, version: int) -> int | None:
        """Save it; the new version, None when another was faster."""
        async with self.pool.connection() as conn:
            place = self.connection.org_id, self.connection.name
            return await save(conn, *place, account, version, self.now())


async def load(conn: Conn, org_id: str, connection: str, budget: Mapping[str, float]) -> tuple[Account, int]:
    """The account of a connection and its version; version 0 when there is none yet.

    Args:
        budget: what a person set, see `connections.Connection`.
    """
    cursor = await conn.execute(_SQL["load"], {"org": org_id, "connection": connection})
    row = await cursor.fetchone()
    if row is None:
        return budgets.bounded(Account(), budget), 0
    return _account(row[:-1], budget), row[-1]


async def save(conn: Conn, org_id: str, connection: str, account: Account, version: int, now: datetime) -> int | None:
    """Store an account that was made from this version; the new version, None when another was faster."""
    learned, chosen = account.learned, account.chosen
    values = {
        "org": org_id,
        "connection": connection,
        "call_limit": learned and learned.limit,
        "period_s": learned and learned.period_s,
        "raise_to": learned and learned.raise_to,
        "raise_at": _when(learned.raise_at) if learned else None,
        "spent": orjson.dumps(learned.spent if learned else ()).decode(),
        "chosen_spent": orjson.dumps(chosen.spent if chosen else ()).decode(),
        "blocked_until": _when(account.blocked_until),
        "version": version,
        "now": now,
    }
    cursor = await conn.execute(_SQL["save"], values)
    row = await cursor.fetchone()
    return row[0] if row else None


async def usage(conn: Conn, org_id: str, *, now: datetime) -> list[dict[str, Any]]:
    """The budgets of an organisation: `connection`, `source` (learned or chosen), `limit` calls per `period` seconds,
    `used` and `remaining` of them now, `blocked_until` (None when calls may be made).

    A connection with both has two entries; one that was told to wait and nothing else has one without a limit.
    """
    cursor = await conn.execute(_SQL["usage"], {"org": org_id})
    at, found = now.timestamp(), list[dict[str, Any]]()
    for name, budget, *row in await cursor.fetchall():
        account = _account(row, budget) if row[4] is not None else budgets.bounded(Account(), budget)
        blocked = _when(account.blocked_until) if account.blocked_until > at else None
        quotas = [(source, quota) for source in ("learned", "chosen") if (quota := getattr(account, source))]
        for source, quota in quotas:
            settled = quota.settled(at)
            used = settled.used(at)
            found.append(
                {
                    "connection": name,
                    "source": source,
                    "limit": settled.limit,
                    "period": settled.period_s,
                    "used": used,
                    "remaining": 0 if blocked else max(0, settled.limit - used),
                    "blocked_until": blocked,
                }
            )
        if blocked and not quotas:
            nothing = dict.fromkeys(("source", "limit", "period", "used"))
            found.append({"connection": name, **nothing, "remaining": 0, "blocked_until": blocked})
    return found


def _account(row: Sequence[Any], budget: Mapping[str, float]) -> Account:
    call_limit, period_s, raise_to, raise_at, spent, chosen_spent, blocked_until = row
    learned = None
    if call_limit is not None:
        learned = Quota(call_limit, period_s, _spent(spent), raise_to, raise_at or 0.0)
    kept = Account(learned, Quota(1, 1.0, _spent(chosen_spent)), blocked_until or 0.0)
    return budgets.bounded(kept, budget)


def _spent(entries: Sequence[Sequence[float]]) -> tuple[tuple[float, int], ...]:
    return tuple((float(until), int(calls)) for until, calls in entries)


def _when(at: float) -> datetime | None:
    return datetime.fromtimestamp(at, UTC) if at else None
