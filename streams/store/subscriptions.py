"""Rows of `sync.subscription`: what we have subscribed at which system, and when to look at it again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row

from streams.store import queries

_SQL = queries("subscriptions")
Conn = AsyncConnection[Any]
State = Literal["wanted", "active", "failing", "no_public_url", "leaving"]


@dataclass(frozen=True, slots=True)
class Row:
    """One of them. `since`: of the state; `failures`: looks in a row that failed."""

    connection: str
    org_id: str
    external_id: str | None
    secret_name: str | None
    state: State
    failures: int
    since: datetime

    @property
    def place(self) -> dict[str, str]:
        """Whose it is, as the statements name it."""
        return {"connection": self.connection, "org": self.org_id}


async def expect(conn: Conn, systems: Collection[str], *, now: datetime) -> None:
    """Have a row for every connection to these systems."""
    await conn.execute(_SQL["expect"], {"systems": list(systems), "now": now})


async def claim(conn: Conn, *, now: datetime, until: datetime) -> Row | None:
    """One that is due, ours alone until `until`; None when none is."""
    async with conn.cursor(row_factory=class_row(Row)) as cursor:
        await cursor.execute(_SQL["claim"].encode(), {"now": now, "until": until})
        return await cursor.fetchone()


async def made(conn: Conn, row: Row, external_id: str, secret_name: str) -> bool:
    """Write down what they have made; False when nobody wants it any more."""
    values = {**row.place, "external_id": external_id, "secret_name": secret_name}
    found = await (await conn.execute(_SQL["made"], values)).fetchone()
    return found is not None and found[0] != "leaving"


async def looked(
    conn: Conn, row: Row, state: State, *, now: datetime, due: datetime, cause: str | None = None, failures: int = 0,
    gone: bool = False,
) -> None:  # fmt: skip
    """What a look came to; `gone`: they hold none of ours any more."""
    values = {"state": state, "cause": cause, "failures": failures, "now": now, "due": due, "gone": gone}
    await conn.execute(_SQL["looked"], {**row.place, **values})


async def look_again(conn: Conn, org_id: str, connection: str, *, now: datetime) -> None:
    """Look at it now: secret, types or address have changed, or a connection has come back."""
    await conn.execute(_SQL["look_again"], {"connection": connection, "org": org_id, "now": now})


async def leave(conn: Conn, org_id: str, connection: str, *, now: datetime) -> bool:
    """Have it removed; whether there is something to remove."""
    values = {"connection": connection, "org": org_id, "now": now}
    return bool((await conn.execute(_SQL["leave"], values)).rowcount)


async def forget(conn: Conn, row: Row) -> bool:
    """It is removed; False when the connection has come back meanwhile."""
    return bool((await conn.execute(_SQL["forget"], row.place)).rowcount)


async def shown(conn: Conn, org_id: str) -> dict[str, dict[str, Any]]:
    """Connection -> how its subscription is."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL["shown"].encode(), {"org": org_id})
        return {row.pop("connection"): row for row in await cursor.fetchall()}
