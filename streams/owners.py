"""Who sees to what a person is asked: review items and conflicts can be given to somebody by name.

Place in the flow: the CLI and the REST API call these. By when it is due follows from when it was asked and the
connection's `review_within_s`; the lists and the counts of what is overdue ask `sync.due_at`.
"""

from __future__ import annotations

from schemas.problems import Problem
from streams import conflict_cases, queues, reviews
from streams.queues import By, Conn

LONGEST = 200
"""Characters of a name."""


async def assign_review(conn: Conn, by: By, number: int, owner: str | None) -> None:
    """Give an open item to somebody, or, with None, to nobody.

    Raises:
        Problem: `review_unknown`, `review_closed`, `review_decided`, `owner_invalid`.
    """
    _check(owner)
    async with conn.transaction():
        row = await reviews.locked(conn, by, number)
        await reviews.give(conn, number, owner)
        await queues.audit(conn, by, "review.assign", str(number), owner=owner, connection=row["connection"])


async def assign_conflict(conn: Conn, by: By, entity_id: str, connection: str | None, owner: str | None) -> list[str]:
    """Give the open questions about a record to somebody, or to nobody; the connections that ask.

    Raises:
        Problem: `conflict_unknown`, `conflict_closed`, `owner_invalid`.
    """
    _check(owner)
    async with conn.transaction():
        values = {"org": by.org_id, "entity": entity_id, "connection": connection, "owner": owner}
        given = await conflict_cases.rows(conn, "assign", values)
        if not given:
            raise await conflict_cases.none_open(conn, by.org_id, entity_id, connection)
        names = sorted({row["connection"] for row in given})
        await queues.audit(conn, by, "conflict.assign", entity_id, owner=owner, connections=names)
    return names


def _check(owner: str | None) -> None:
    if owner is not None and not (owner.strip() and owner.isprintable() and len(owner) <= LONGEST):
        raise Problem("owner_invalid", f"a name has 1 to {LONGEST} characters on one line", "Name a person or a team.")
