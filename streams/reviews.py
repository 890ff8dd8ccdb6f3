"""Review items: what the pipeline could not do by itself and asks a person to look at.

Kinds are `constraint` (a rule of the user's own tables refused an event, and is named), `unlinked` (an entity without a
partner changed where only linked ones are pushed), and those of matching. Called by the CLI and the REST API.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from schemas.fields import Json
from schemas.problems import Problem
from streams import queues
from streams.queues import By
from streams.redrives import Republish
from streams.store import connections, queries

Conn = AsyncConnection[Any]
Row = dict[str, Any]

_SQL = queries("reviews")


@dataclass(frozen=True, slots=True)
class Which:
    """Which items; None for any. `after` is the `id` of the last one on the page before."""

    connection: str | None = None
    kind: str | None = None
    closed: bool = False
    after: int | None = None
    limit: int = 100


async def listed(conn: Conn, org_id: str, which: Which, *, now: datetime) -> list[Row]:
    """Items, what is due first, without the records they are about; `can_retry`: there is an event to try again."""
    wanted = asdict(which)
    return await _rows(conn, "list", {"org": org_id, "id": None, "now": now, "all": wanted.pop("closed"), **wanted})


async def show(conn: Conn, org_id: str, number: int, *, now: datetime) -> Row:
    """One item, closed or not. Raises Problem (`review_unknown`)."""
    values = {"org": org_id, "id": number, "connection": None, "kind": None, "all": True, "after": None, "limit": 1}
    found = await _rows(conn, "list", values | {"now": now})
    if not found:
        raise _unknown(org_id, number)
    return found[0]


async def payload(conn: Conn, by: By, number: int) -> Json:
    """Their record that an item is about: personal data, so every look is audited. Raises as `show` does."""
    async with conn.transaction():
        await show(conn, by.org_id, number, now=by.now)
        [row] = await _rows(conn, "payload", {"org": by.org_id, "id": number})
        await queues.audit(conn, by, "review.read", str(number))
    return row["payload"]


async def close(conn: Conn, by: By, number: int, note: str | None = None) -> None:
    """Close an item for good: its event is not applied. Polls count past it from then on.

    Raises:
        Problem: `review_unknown`, `review_closed`.
    """
    async with conn.transaction():
        row = await locked(conn, by, number)
        await conn.execute(_SQL["close"], {"id": number, "now": by.now, "actor": by.actor, "note": note})
        await queues.audit(conn, by, "review.close", str(number), kind=row["kind"], connection=row["connection"])


async def decide(conn: Conn, by: By, number: int, entity_id: str | None, note: str | None = None) -> None:
    """Say who a record is that only a person can match: that entity of ours, or, with None, somebody new.

    A worker applies the kept event accordingly (`streams.inbound.answers`), and whatever they say of the record after.

    Raises:
        Problem: `review_unknown`, `review_closed`, `review_decided`, `not_decidable`, `decision_invalid`, `id_unknown`,
            `link_taken`.
    """
    async with conn.transaction():
        row = await locked(conn, by, number)
        if row["kind"] != "match":
            raise Problem("not_decidable", f"the review item {number} is about no match", "Retry it, or close it.")
        connection = await connections.load_connection(conn, by.org_id, row["connection"])
        if entity_id is None and connection.option == 2:
            cause = f"nobody is made from records of {connection.name}: we are the source of truth"
            raise Problem("decision_invalid", cause, "Link it with one of ours, or close it.")
        await _check_entity(conn, by, row, entity_id)
        decision = "new" if entity_id is None else "link"
        values = {"id": number, "decision": decision, "entity": entity_id, "now": by.now, "actor": by.actor}
        await conn.execute(_SQL["decide"], values | {"note": note})
        detail = {"connection": row["connection"], "decision": decision, "entity_id": entity_id}
        await queues.audit(conn, by, "review.decide", str(number), **detail)


async def retry(conn: Conn, by: By, number: int, republish: Republish | None) -> None:
    """Publish the event of an item once more; the item closes when the event, or a later one, is applied.

    Args:
        republish: None where there is no Kafka.

    Raises:
        Problem: `review_unknown`, `review_closed`, `not_redrivable`, `kafka_unavailable` …
    """
    async with conn.transaction():
        row = await locked(conn, by, number)
        if row["value"] is None:
            way = f"`syncline push {row['subject']} --connection {row['connection']}` sends the record."
            raise Problem(
                "not_redrivable", "no event is kept with it", way if row["kind"] == "unlinked" else "Close it."
            )
        if republish is None:
            raise Problem("not_redrivable", "events of theirs can be redriven only where Kafka is at hand")
        await republish(by.org_id, [bytes(row["value"])])
        await queues.audit(conn, by, "review.retry", str(number), kind=row["kind"], connection=row["connection"])


async def locked(conn: Conn, by: By, number: int) -> Row:
    """An item that waits for a person, locked. Raises Problem (`review_unknown`, `review_closed`, `review_decided`)."""
    found = await _rows(conn, "lock", {"org": by.org_id, "id": number})
    if not found:
        raise _unknown(by.org_id, number)
    if found[0]["closed_at"] is not None:
        who = f" by {found[0]['closed_by']}" if found[0]["closed_by"] else ": a later event was applied"
        raise Problem("review_closed", f"the review item {number} was closed{who}", "There is nothing left to do.")
    if found[0]["decision"] is not None:
        cause = f"the review item {number} was decided by {found[0]['decided_by']}, and is about to be applied"
        raise Problem("review_decided", cause, "What was decided cannot be taken back.")
    return found[0]


async def give(conn: Conn, number: int, owner: str | None) -> None:
    """Whose item it is, in the caller's transaction."""
    await conn.execute(_SQL["give"], {"id": number, "owner": owner})


async def _check_entity(conn: Conn, by: By, row: Row, entity_id: str | None) -> None:
    """Nobody else may be that record, nor that record somebody else."""
    if entity_id is not None:
        table = sql.Identifier("canon", row["entity_type"])
        statement = sql.SQL("select 1 from {} where org_id = %s and id = %s and deleted_at is null for share")
        if not (await conn.execute(statement.format(table), (by.org_id, entity_id))).rowcount:
            cause = f"{by.org_id} has no living {row['entity_type']} {entity_id!r}"
            raise Problem("id_unknown", cause, "Give an id of ours, such as one of the candidates.")
    place = {"org": by.org_id, "connection": row["connection"], "external_type": row["external_type"]}
    about = {"external_id": row["subject"], "type": row["entity_type"], "entity": entity_id}
    for link in await queues.rows(conn, "links", place | about):
        if (link["external_id"], link["entity_id"]) not in ((row["subject"], entity_id), (row["subject"], None)):
            cause = f"{link['entity_id']} and {link['external_id']} of {row['connection']} are linked already"
            raise Problem("link_taken", cause, "See `syncline why`.")


def _unknown(org_id: str, number: int) -> Problem:
    return Problem(
        "review_unknown", f"{org_id} has no review item {number}", "See the numbers with `syncline reviews list`."
    )


async def _rows(conn: Conn, name: str, values: dict[str, Any]) -> list[Row]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL[name].encode(), values)
        return await cursor.fetchall()
