"""Keys with which programs call the gateway: made, found again by their hash, revoked.

A key belongs to one organisation, perhaps to one connection of it, and opens what its scopes name. It is shown once;
a database that leaks holds nothing that opens anything.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from schemas.problems import Problem
from streams.store import connection_changes, connections, queries

PREFIX = "slk_"
"""Tells scanners of leaked secrets what it is."""
EVENTS = "events"
"""Scope: bring events."""
USED_EVERY = timedelta(minutes=1)
_NAMES = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

_SQL = queries("api_keys")
Conn = AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose key it is; `connection` None: for all of the organisation."""

    org_id: str
    connection: str | None
    name: str


async def create(
    conn: Conn, org: str, name: str, secret: str, *, connection: str | None, by: str, now: datetime
) -> None:
    """Keep the hash of a new key, and an audit row.

    Args:
        secret: the whole key as it will be sent.

    Raises:
        Problem: `name_invalid`, `key_exists`, `connection_unknown`.
    """
    if not _NAMES.fullmatch(name):
        raise Problem(
            "name_invalid", "a key's name has up to 63 of a-z, 0-9, - and _, and begins with a letter or digit"
        )
    async with conn.transaction():
        if connection is not None:
            await connections.load_connection(conn, org, connection)
        row = {"hash": digest(secret), "org": org, "name": name, "connection": connection, "by": by, "now": now}
        try:
            await conn.execute(_SQL["add"], row)
        except psycopg.errors.UniqueViolation:
            raise Problem(
                "key_exists",
                f"there is or was a key named {name}",
                "Choose another name: names tell keys apart for good.",
            ) from None
        await connection_changes.audit(conn, org, by, "key.create", name, {"connection": connection})


async def list_all(conn: Conn, org: str) -> list[dict[str, Any]]:
    """What may be shown of an organisation's keys, revoked ones too."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL["listed"], {"org": org})
        return await cursor.fetchall()


async def revoke(conn: Conn, org: str, name: str, *, by: str, now: datetime) -> None:
    """End a key at once; revoking it again changes nothing. Raises Problem (`key_unknown`)."""
    async with conn.transaction():
        if not (await conn.execute(_SQL["revoke"], {"org": org, "name": name, "now": now})).rowcount:
            raise Problem("key_unknown", f"there is no key named {name}", "See `syncline keys list`.")
        await connection_changes.audit(conn, org, by, "key.revoke", name)


async def holder(conn: Conn, given: str, scope: str, now: datetime) -> Holder | None:
    """Whose key this is, None when it is nobody's, revoked, or not for this scope."""
    hashed = digest(given)
    row = await (await conn.execute(_SQL["holder"], {"hash": hashed})).fetchone()
    if row is None or scope not in row[3]:
        return None
    if row[4] is None or row[4] < now - USED_EVERY:
        await conn.execute(_SQL["used"], {"hash": hashed, "now": now})
    return Holder(*row[:3])


def digest(secret: str) -> bytes:
    """What is kept of a key; it has 256 random bits, so a plain hash tells nothing."""
    return hashlib.sha256(secret.encode(errors="replace")).digest()
