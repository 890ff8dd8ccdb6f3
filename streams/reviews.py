"""Review items: what the pipeline could not do by itself and asks a person to look at.

Kinds are `constraint` (a rule of the user's own tables refused an event, and is named), `unlinked` (an entity without a
partner changed where only linked ones are pushed), and those of matching. Called by the CLI and the REST API.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from schemas.fields import Json
from schemas.problems import Problem
from streams import queues
from streams.queues import By
from streams.redrives import Republish
from streams.store import queries

Conn = AsyncConnection[Any]
Row = dict[str, Any]

_SQL = queries("reviews")


@dataclass(frozen=True, slots=True)
class Which:
    """Which items; None for any. `before` is the `id` of the last one on the page before."""

    connection: str | None = None
    kind: str | None = None
    closed: bool = False
    before: int | None = None
    limit: int = 100


async def listed(conn: Conn, org_id: str, which: Which) -> list[Row]:
    """Items, the newest first, without the records they are about; `can_retry`: there is an event to try again."""
    wanted = asdict(which)
    return await _rows(conn, "list", {"org": org_id, "id": None, "all": wanted.pop("closed"), **wanted})


async def show(conn: Conn, org_id: str, number: int) -> Row:
    """One item, closed or not. Raises Problem (`review_unknown`)."""
    values = {"org": org_id, "id": number, "connection": None, "kind": None, "all": True, "before": None, "limit": 1}
    found = await _rows(conn, "list", values)
    if not found:
        raise _unknown(org_id, number)
    return found[0]


async def payload(conn: Conn, by: By, number: int) -> Json:
    """Their record that an item is about: personal data, so every look is audited. Raises as `show` does."""
    async with conn.transaction():
        await show(conn, by.org_id, number)
        [row] = await _rows(conn, "payload", {"org": by.org_id, "id": number})
        await queues.audit(conn, by, "review.read", str(number))
    return row["payload"]


async def close(conn: Conn, by: By, number: int, note: str | None = None) -> None:
    """Close an item for good: its event is not applied. Polls count past it from then on.

    Raises:
        Problem: `review_unknown`, `review_closed`.
    """
    async with conn.transaction():
        row = await _open(conn, by, number)
        await conn.execute(_SQL["close"], {"id": number, "now": by.now, "actor": by.actor, "note": note})
        await queues.audit(conn, by, "review.close", str(number), kind=row["kind"], connection=row["connection"])


async def retry(conn: Conn, by: By, number: int, republish: Republish | None) -> None:
    """Publish the event of an item once more; the item closes when the event, or a later one, is applied.

    Args:
        republish: None where there is no Kafka.

    Raises:
        Problem: `review_unknown`, `review_closed`, `not_redrivable`, `kafka_unavailable` …
    """
    async with conn.transaction():
        row = await _open(conn, by, number)
        if row["value"] is None:
            way = f"`syncline push {row['subject']} --connection {row['connection']}` sends the record."
            raise Problem(
                "not_redrivable", "no event is kept with it", way if row["kind"] == "unlinked" else "Close it."
            )
        if republish is None:
            raise Problem("not_redrivable", "events of theirs can be redriven only where Kafka is at hand")
        await republish(by.org_id, [bytes(row["value"])])
        await queues.audit(conn, by, "review.retry", str(number), kind=row["kind"], connection=row["connection"])


async def _open(conn: Conn, by: By, number: int) -> Row:
    found = await _rows(conn, "lock", {"org": by.org_id, "id": number})
    if not found:
        raise _unknown(by.org_id, number)
    if found[0]["closed_at"] is not None:
        who = f" by {found[0]['closed_by']}" if found[0]["closed_by"] else ": a later event was applied"
        raise Problem("review_closed", f"the review item {number} was closed{who}", "There is nothing left to do.")
    return found[0]


def _unknown(org_id: str, number: int) -> Problem:
    return Problem(
        "review_unknown", f"{org_id} has no review item {number}", "See the numbers with `syncline reviews list`."
    )


async def _rows(conn: Conn, name: str, values: dict[str, Any]) -> list[Row]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL[name].encode(), values)
        return await cursor.fetchall()
