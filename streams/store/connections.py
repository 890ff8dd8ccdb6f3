"""Connections as the pipeline reads them: one organisation's account in one external system, without its secrets.

Readers are the planner, the dispatcher, the polls, the gateway and the CLI. What changes a connection is in
`streams.connections`, which also raises `epoch` and notifies `sync_connection`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg import AsyncConnection
from psycopg.rows import class_row

from schemas.problems import Problem

Json = Any
Gate = Literal["staging", "matched", "populated", "live"]
State = Literal["active", "paused", "disconnected"]


@dataclass(frozen=True, slots=True)
class Connection:
    """One row of `sync.connection`; field names are column names.

    Args:
        settings: the adapter's plain settings; whatever is secret is in `sync.credential`.
        conflict_policies: root entity type -> who wins its conflicts, see `rules.policies`.
        poll_interval_s: seconds between two polls of one external type.
        poll_intervals: external type -> the same, where it has an interval of its own.
        full_read_every_s: seconds between two polls that read all there is; 0: never but without a checkpoint.
        filters: root entity type -> conditions that the row must fulfil to be there, see `rules.filters`.
        on_leave: what becomes of their record when ours no longer fulfils them.
        fields: root entity type -> `include` or `exclude` with the names of fields and part types.
        concurrency: calls at once; None takes the manifest's.
        guard: bounds of the mass-change guard per type and 10 minutes (`deletes`, `updates`); None switches one off.
        review_within_s: how long what it asks of a person may wait.
        budget: `calls` per `per_s` seconds as a person set it; empty: learned from their answers.
        gates: root entity type -> how far it is; a type that is not named is out of scope.
        epoch: + 1 whenever something changes that decides what is sent.
    """

    org_id: str
    name: str
    system: str
    url: str
    auth: str | None
    settings: Mapping[str, Json]
    option: int
    mode: str
    delete_policy: str
    conflict_policy: str
    conflict_policies: Mapping[str, Mapping[str, Json]]
    retry_policy: str
    poll_interval_s: float
    poll_intervals: Mapping[str, float]
    full_read_every_s: float
    allow_http: bool
    allow_private: bool
    http2: bool
    compress: bool
    filters: Mapping[str, Sequence[Mapping[str, Json]]]
    on_leave: Literal["keep", "archive", "delete"]
    fields: Mapping[str, Mapping[str, Sequence[str]]]
    concurrency: int | None
    guard: Mapping[str, int | None]
    budget: Mapping[str, float]
    gates: Mapping[str, Gate]
    state: State
    state_reason: str | None
    epoch: int
    created_at: datetime
    review_within_s: float = 604_800.0

    def is_live(self, entity_type: str) -> bool:
        """Whether changes of `entity_type` flow."""
        return self.gates.get(entity_type) == "live"

    def interval_s(self, external_type: str) -> float:
        """Seconds between two polls of a type."""
        return float(self.poll_intervals.get(external_type, self.poll_interval_s))


_COLUMNS = """org_id, name, system, url, auth, settings, option, mode, delete_policy, conflict_policy,
              conflict_policies, retry_policy, poll_interval_s, poll_intervals, full_read_every_s, allow_http,
              allow_private, http2, compress, filters, on_leave, fields, concurrency, guard, budget, gates, state,
              state_reason, epoch, created_at, review_within_s"""


async def list_active(conn: AsyncConnection[Any], org_id: str | None = None) -> list[Connection]:
    """The connections that work (state `active`), of one organisation or of all, by organisation and name."""
    return await _select(
        conn, "where state = 'active' and (%(org)s::text is null or org_id = %(org)s)", {"org": org_id}
    )


async def list_all(conn: AsyncConnection[Any], org_id: str | None = None) -> list[Connection]:
    """All connections, disconnected ones too, of one organisation or of all, by organisation and name."""
    return await _select(conn, "where %(org)s::text is null or org_id = %(org)s", {"org": org_id})


async def load_connection(conn: AsyncConnection[Any], org_id: str, name: str, *, lock: bool = False) -> Connection:
    """One connection; `lock` takes its row FOR UPDATE.

    Raises:
        Problem: `connection_unknown`.
    """
    rows = await _select(conn, "where org_id = %(org)s and name = %(name)s", {"org": org_id, "name": name}, lock=lock)
    if not rows:
        raise Problem(
            "connection_unknown",
            f"the organisation {org_id} has no connection named {name!r}",
            "See the names with `syncline connections list`.",
        )
    return rows[0]


async def _select(
    conn: AsyncConnection[Any], condition: str, values: dict[str, str | None], *, lock: bool = False
) -> list[Connection]:
    suffix = " for update" if lock else ""
    async with conn.cursor(row_factory=class_row(Connection)) as cursor:
        # Only the constants of this module are put together here; every value is a parameter.
        statement = f"select {_COLUMNS} from sync.connection {condition} order by org_id, name{suffix}"  # noqa: S608
        await cursor.execute(statement.encode(), values)
        return await cursor.fetchall()
