"""Which of the records that we know a whole reading of a type did not bring.

That they are absent says little: the list may be cut, filtered, or late. Each becomes a wish to read it, and only what
is missing then, twice, is deleted.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from datetime import datetime
from hashlib import blake2b
from typing import Any

from psycopg import AsyncConnection

from streams.inbound import fetching
from streams.store import queries
from streams.store.connections import Connection

BATCH = 1000

Conn = AsyncConnection[Any]

_SQL = queries("fetches")


class Brought:
    """The ids that a reading brought, in 8 bytes each."""

    def __init__(self) -> None:
        self._ids = array("Q")
        self._sorted = True

    def add(self, ids: Iterable[str]) -> None:
        """Note ids."""
        self._ids.extend(_short(each) for each in ids)
        self._sorted = False

    def __contains__(self, external_id: str) -> bool:
        if not self._sorted:
            self._ids, self._sorted = array("Q", sorted(self._ids)), True
        wanted = _short(external_id)
        at = bisect_left(self._ids, wanted)
        return at < len(self._ids) and self._ids[at] == wanted


def _short(external_id: str) -> int:
    digest = blake2b(external_id.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest)


async def doubt_missing(
    conn: Conn, connection: Connection, external_type: str, brought: Brought, *, began: datetime, now: datetime
) -> int:
    """Wish for the linked records that are not in `brought`; how many.

    Args:
        began: when the reading began: what was linked later may not have been there yet.
    """
    scope = {"org": connection.org_id, "connection": connection.name, "type": external_type}
    after, count = "", 0
    while True:
        cursor = await conn.execute(_SQL["linked"], scope | {"after": after, "began": began, "limit": BATCH})
        ids = [external_id async for (external_id,) in cursor]
        if not ids:
            return count
        missing = [each for each in ids if each not in brought]
        await fetching.want(conn, [fetching.missing(connection, external_type, each) for each in missing], now)
        after, count = ids[-1], count + len(missing)
