"""Rows of `sync.credential`: sealed on the way in, opened on the way out.

Names: the adapter's secret settings (`apiKey`), `webhook_token`, and `webhook_secret/N`, of which two live at a time
while a secret is being rotated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row
from pydantic import SecretStr

from schemas.problems import Problem
from streams import vault

WEBHOOK_TOKEN = "webhook_token"  # noqa: S105 - the name of one
WEBHOOK_SECRET = "webhook_secret/"  # noqa: S105 - the name of several


@dataclass(frozen=True, slots=True)
class Named:
    """What may be shown of a credential."""

    name: str
    key_id: str
    not_after: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    key_id: str
    wrapped_key: bytes
    sealed: bytes
    not_after: datetime | None


async def put(
    conn: AsyncConnection[Any],
    key: vault.Key,
    place: vault.Place,
    value: SecretStr,
    *,
    not_after: datetime | None = None,
) -> None:
    """Set one credential; an older value of that name is overwritten."""
    stored = vault.seal(key, place, value)
    await conn.execute(
        """insert into sync.credential (org_id, connection, name, key_id, wrapped_key, sealed, not_after)
           values (%s, %s, %s, %s, %s, %s, %s)
           on conflict (org_id, connection, name) do update
           set key_id = excluded.key_id, wrapped_key = excluded.wrapped_key, sealed = excluded.sealed,
               not_after = excluded.not_after, created_at = now()""",
        (place.org_id, place.connection, place.name, stored.key_id, stored.wrapped_key, stored.sealed, not_after),
    )


async def get(conn: AsyncConnection[Any], key: vault.Key, place: vault.Place) -> SecretStr:
    """One credential.

    Raises:
        Problem: `credential_missing`, or what `vault.unseal` raises.
    """
    rows = await _rows(conn, place.org_id, place.connection, place.name)
    if not rows:
        raise Problem(
            "credential_missing",
            f"the connection {place.connection} has no credential named {place.name}",
            "Set it with `syncline connect`.",
        )
    return _open(key, place, rows[0])


async def adapter_secrets(conn: AsyncConnection[Any], key: vault.Key, place: vault.Place) -> Mapping[str, SecretStr]:
    """All secret settings of the connection's adapter, by name; the name in `place` does not matter."""
    rows = await _rows(conn, place.org_id, place.connection, "%")
    names = [row for row in rows if row.name != WEBHOOK_TOKEN and not row.name.startswith(WEBHOOK_SECRET)]
    return {row.name: _open(key, place, row) for row in names}


async def webhook_secrets(
    conn: AsyncConnection[Any], key: vault.Key, place: vault.Place, now: datetime
) -> list[SecretStr]:
    """The webhook secrets that are valid at `now`, newest first; the name in `place` does not matter."""
    rows = await _rows(conn, place.org_id, place.connection, f"{WEBHOOK_SECRET}%")
    live = [row for row in rows if row.not_after is None or row.not_after > now]
    return [_open(key, place, row) for row in sorted(live, key=_number, reverse=True)]


async def newest_webhook_secret(conn: AsyncConnection[Any], key: vault.Key, place: vault.Place) -> SecretStr:
    """The webhook secret to give to the other side. Raises Problem (`credential_missing`)."""
    return (await newest_webhook(conn, key, place))[1]


async def newest_webhook(conn: AsyncConnection[Any], key: vault.Key, place: vault.Place) -> tuple[str, SecretStr]:
    """The same with its name."""
    rows = sorted(await _rows(conn, place.org_id, place.connection, f"{WEBHOOK_SECRET}%"), key=_number)
    name = rows[-1].name if rows else f"{WEBHOOK_SECRET}1"
    return name, await get(conn, key, place.named(name))


async def rotate_webhook_secret(
    conn: AsyncConnection[Any], key: vault.Key, place: vault.Place, value: SecretStr, *, not_after: datetime
) -> str:
    """Make `value` the newest webhook secret; the one before lives until `not_after`, all older ones go. Its name."""
    rows = sorted(await _rows(conn, place.org_id, place.connection, f"{WEBHOOK_SECRET}%"), key=_number)
    for row in rows[:-1]:
        await conn.execute(
            "delete from sync.credential where org_id = %s and connection = %s and name = %s",
            (place.org_id, place.connection, row.name),
        )
    for row in rows[-1:]:
        await conn.execute(
            "update sync.credential set not_after = %s where org_id = %s and connection = %s and name = %s",
            (not_after, place.org_id, place.connection, row.name),
        )
    name = f"{WEBHOOK_SECRET}{_number(rows[-1]) + 1 if rows else 1}"
    await put(conn, key, place.named(name), value)
    return name


async def list_names(conn: AsyncConnection[Any], org_id: str, connection: str) -> list[Named]:
    """What a connection has, never the values."""
    async with conn.cursor(row_factory=class_row(Named)) as cursor:
        await cursor.execute(
            """select name, key_id, not_after, created_at from sync.credential
               where org_id = %s and connection = %s order by name""",
            (org_id, connection),
        )
        return await cursor.fetchall()


async def keep_only(conn: AsyncConnection[Any], place: vault.Place, names: Collection[str]) -> None:
    """Forget the adapter secrets that are not in `names`; what belongs to the webhook stays."""
    await conn.execute(
        """delete from sync.credential
           where org_id = %s and connection = %s and name <> all(%s) and name <> %s and not starts_with(name, %s)""",
        (place.org_id, place.connection, list(names), WEBHOOK_TOKEN, WEBHOOK_SECRET),
    )


async def drop_webhook_secrets(conn: AsyncConnection[Any], org_id: str, connection: str) -> None:
    """Forget what webhooks are signed with; nothing verifies any more."""
    await conn.execute(
        "delete from sync.credential where org_id = %s and connection = %s and starts_with(name, %s)",
        (org_id, connection, WEBHOOK_SECRET),
    )


async def destroy(conn: AsyncConnection[Any], org_id: str, connection: str) -> None:
    """Forget every credential of a connection for good."""
    await conn.execute("delete from sync.credential where org_id = %s and connection = %s", (org_id, connection))


async def _rows(conn: AsyncConnection[Any], org_id: str, connection: str, name: str) -> list[_Row]:
    async with conn.cursor(row_factory=class_row(_Row)) as cursor:
        await cursor.execute(
            """select name, key_id, wrapped_key, sealed, not_after from sync.credential
               where org_id = %s and connection = %s and (name = %s or name like %s) order by name""",
            (org_id, connection, name, name if name.endswith("%") else ""),
        )
        return await cursor.fetchall()


def _open(key: vault.Key, place: vault.Place, row: _Row) -> SecretStr:
    return vault.unseal(key, place.named(row.name), vault.Sealed(row.key_id, row.wrapped_key, row.sealed))


def _number(row: _Row) -> int:
    return int(row.name.removeprefix(WEBHOOK_SECRET))
