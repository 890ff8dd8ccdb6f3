"""From a captured Kafka record to a `Change`: what was committed to one row. Pure.

Captured topics are `cdc.SCHEMA.TABLE`, keyed by the root's `sync_key`. Only inserts and updates carry a row that is to
be planned; of deletes only those count that are one half of a changed key (header `__debezium.newkey`), because a true
delete leaves a row in `sync.tombstone`. The other half is an insert with the header `__debezium.oldkey`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import orjson

from schemas.codec import Envelope, Row
from schemas.problems import Problem

Headers = Sequence[tuple[str, bytes]]

NEW_KEY = "__debezium.newkey"
OLD_KEY = "__debezium.oldkey"


@dataclass(frozen=True, slots=True)
class Change:
    """One committed change of one captured row.

    Args:
        schema: `canon` or `sync`.
        table: for canonical tables this is the entity type.
        gone: the row is no longer under this key: deleted, or its key changed.
        row: the captured columns after the change. Of a row that is gone only the key's columns are true (`org_id`,
            `id`, `sync_key`); Postgres does not tell the others, and they hold defaults.
        before: the captured columns before, where Postgres told them: the key changed, or the row is gone.
        sync_key: the Kafka key, `org/root id`.
        version: of the row; 0 where there is none to tell.
        origin: who made the change: `local`, `bulk` or a connection; "" where there is none to tell.
        origin_event: the inbound event it came from, if any.
        moved: one half of a changed key.
        new_root: for the half that is gone: where the header says the row went.
        old_root: for the half that came: the sync_key it had, or "" where the key did not change.
    """

    schema: str
    table: str
    gone: bool
    row: Row
    before: Row | None
    sync_key: str
    version: int
    origin: str
    origin_event: str | None
    moved: bool
    new_root: str
    old_root: str
    _envelope: Envelope = field(repr=False, compare=False)

    @property
    def op(self) -> Literal["c", "u", "d"]:
        """Insert, update or delete. Telling inserts from updates reads the rest of the record."""
        if self.gone:
            return "d"
        return "u" if self._envelope.rest()["op"] == "u" else "c"

    @property
    def committed_at_us(self) -> int:
        """When Postgres committed it, microseconds since 1970. Reads the rest of the record: ask for samples."""
        source = self._envelope.rest()["source"]
        return int(source.get("ts_us") or source["ts_ms"] * 1000)

    @property
    def entity_type(self) -> str:
        """The entity type: the table, or the one that a tombstone or link names; "" for a link without entity."""
        return self.table if self.schema == "canon" else self.row.get("entity_type") or ""

    @property
    def entity_id(self) -> str:
        """The entity's id; "" for a link without entity."""
        return (self.row["id"] if self.schema == "canon" or self.table == "tombstone" else self.row["entity_id"]) or ""

    @property
    def roots(self) -> tuple[str, ...]:
        """Every sync_key that this change concerns: two when it moved from one root to another."""
        return tuple(dict.fromkeys(key for key in (self.sync_key, self.old_root, self.new_root) if key))

    @property
    def counts(self) -> bool:
        """False for a true delete, which is told by its tombstone instead."""
        return self.moved or not self.gone


def change(topic: str, key: bytes | None, headers: Headers | None, envelope: Envelope) -> Change:
    """Read one captured record.

    Args:
        topic: `PREFIX.SCHEMA.TABLE`.
        key: the plain string key.
        headers: as Kafka gave them.
        envelope: the decoded value.

    Raises:
        Problem: `not_a_change` when it is none of ours; the record is unreadable.
    """
    row = envelope.after or envelope.before
    parts = topic.split(".")
    if row is None or key is None or len(parts) != 3:
        raise Problem("not_a_change", f"a record of {topic} has no row, no key or no table")
    before, after = envelope.before, envelope.after
    moved = {name: value for name, value in headers or () if name in (NEW_KEY, OLD_KEY)}
    sync_key = key.decode()
    told = after or {}
    return Change(
        schema=parts[1],
        table=parts[2],
        gone=after is None,
        row=row,
        before=before,
        sync_key=sync_key,
        version=told.get("version") or 0,
        origin=told.get("origin") or "",
        origin_event=told.get("origin_event"),
        moved=bool(moved),
        new_root=root(moved.get(NEW_KEY)),
        old_root=root(moved.get(OLD_KEY)) or _former(before, after, sync_key),
        _envelope=envelope,
    )


def root(header: bytes | None) -> str:
    """The sync_key in a key header: Connect writes the key's struct as JSON there; "" when it cannot be read."""
    try:
        named = orjson.loads(header or b"")
    except orjson.JSONDecodeError:
        return ""
    return str(named.get("sync_key", "")) if isinstance(named, dict) else ""


def _former(before: Row | None, after: Row | None, sync_key: str) -> str:
    if before is None or after is None:
        return ""
    former = before.get("sync_key") or ""
    return former if former != sync_key else ""
