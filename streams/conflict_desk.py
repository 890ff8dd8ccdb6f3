"""A person decides a conflict: field by field ours, theirs or a third value.

Place in the flow: the CLI and the REST API call `resolve` with what `streams.conflict_cases` showed. Until then ours
stands here, theirs there, and pushes leave the field alone. A decision is an ordinary change of ours, so that capture
brings it to every system, or, where ours stays, the wish that they get it. Values are in no problem and no audit row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import psycopg
from psycopg import AsyncConnection

from schemas.fields import Document, Json
from schemas.model import Model
from schemas.problems import Problem
from streams import conflict_cases, edits, queues
from streams.conflict_cases import DELETE, Asked, Case
from streams.edits import Held
from streams.queues import By
from streams.store import connections, queries, wishes
from streams.store.connections import Connection

Conn = AsyncConnection[Any]
Row = dict[str, Any]

LOCK_TIMEOUT = "500ms"
"""Shorter than the second after which Postgres looks for a deadlock: no other transaction is ended for ours."""
TRIES = 6

_SQL = queries("conflicts")


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of one field: `ours`, `theirs`, or `value`, with the value."""

    take: Literal["ours", "theirs", "value"]
    value: Json = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A person's decision about one record at one connection.

    Args:
        seen: `Case.seen` of what the person looked at.
        take: for every open field that `choices` does not name; None leaves those open.
        connection: may be left out where only one asks.
    """

    seen: str
    choices: Mapping[str, Choice]
    take: Literal["ours", "theirs"] | None = None
    connection: str | None = None
    note: str | None = None


class Moved(Problem):
    """The question is not the one that the person saw; `case` is the one it is now."""

    def __init__(self, case: Case) -> None:
        super().__init__(
            "conflict_moved",
            f"the conflict about {case.entity_id} at {case.connection} is not as you saw it: a side has changed since",
            "Look at it again and decide with the new `seen`.",
        )
        self.case = case

    def as_json(self) -> dict[str, Any]:
        """The problem, with the conflict as it is now."""
        return super().as_json() | {"conflict": self.case.as_json()}


async def resolve(conn: Conn, by: By, entity_id: str, answer: Answer, model: Model) -> Row:
    """Decide; what is decided is written, kept and passed on in one transaction.

    Returns:
        `entity_id`, `connection`, `resolved` (field -> ours, theirs or value), `left` (fields that stay open).

    Raises:
        Moved: another state than the person saw.
        Problem: `conflict_unknown`, `conflict_closed`, `connection_ambiguous`, `field_not_asked`, `choice_invalid`,
            `record_busy`, and those of `streams.edits.write`.
    """
    return await unhurried(conn, entity_id, lambda: _resolve(conn, by, entity_id, answer, model))


async def unhurried(conn: Conn, entity_id: str, act: Callable[[], Awaitable[Row]]) -> Row:
    """Act on a record in a transaction, again while somebody else holds it. Raises Problem (`record_busy`)."""
    for _ in range(TRIES):
        with contextlib.suppress(psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            async with conn.transaction():
                await conn.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'".encode())
                return await act()
    raise Problem("record_busy", f"another transaction holds {entity_id}", "Try again in a moment.")


async def _resolve(conn: Conn, by: By, entity_id: str, answer: Answer, model: Model) -> Row:
    asks, _ = await _the_case(conn, by, entity_id, answer.connection, model)
    place = {"org": by.org_id, "entity": entity_id, "connection": asks.connection}
    types = await _lock(conn, by, asks, place, model)
    case, held = await _the_case(conn, by, entity_id, asks.connection, model)
    if case.seen != answer.seen:
        raise Moved(case)
    chosen = _chosen(case, answer)
    connection = await connections.load_connection(conn, by.org_id, case.connection)
    await _write(conn, by, held, chosen, connection, model)
    await _close(conn, by, case, chosen, answer.note)
    if held.alive and any(choice.take != "theirs" for _, choice in chosen):
        anew = any(asked.field == DELETE and choice.take == "ours" for asked, choice in chosen)
        await _pass_on(conn, by, case, connection, types, created_anew=anew)
    told = {asked.field: choice.take for asked, choice in chosen}
    await queues.audit(conn, by, "conflict.resolve", entity_id, connection=case.connection, resolved=told)
    left = sorted({asked.field for asked in case.fields} - told.keys())
    return {"entity_id": entity_id, "connection": case.connection, "resolved": told, "left": left}


async def _lock(conn: Conn, by: By, case: Case, place: Row, model: Model) -> list[str]:
    """Links, then rows, then questions, as the applier does; their types that the record is linked as."""
    links = await conflict_cases.rows(conn, "lock_link", place | {"entity_type": case.entity_type})
    await edits.read(conn, model, by.org_id, case.entity_type, [case.entity_id], lock=True)
    await conn.execute(_SQL["lock"], place)
    return [row["external_type"] for row in links]


async def _the_case(conn: Conn, by: By, entity_id: str, connection: str | None, model: Model) -> tuple[Case, Held]:
    found = await conflict_cases.with_rows(conn, by.org_id, model, entity_id, connection)
    if not found:
        raise await conflict_cases.none_open(conn, by.org_id, entity_id, connection)
    if len(found) > 1:
        names = ", ".join(case.connection for case, _ in found)
        raise Problem("connection_ambiguous", f"{entity_id} is asked about at {names}", "Name one of them.")
    return found[0]


def _chosen(case: Case, answer: Answer) -> list[tuple[Asked, Choice]]:
    asked = {each.field: each for each in case.fields}
    for name, choice in answer.choices.items():
        if name not in asked:
            raise Problem(
                "field_not_asked", "a field that is named is not in question", f"Asked are: {', '.join(sorted(asked))}."
            )
        if name == DELETE and choice.take == "value":
            raise Problem("choice_invalid", "they deleted the record: it is kept or deleted", "Take ours or theirs.")
    chosen = {name: answer.choices.get(name) or (Choice(answer.take) if answer.take else None) for name in asked}
    decided = [(asked[name], choice) for name, choice in chosen.items() if choice is not None]
    if not decided:
        raise Problem("choice_invalid", "nothing is chosen", "Take a side, or give a value for a field.")
    return decided


async def _write(
    conn: Conn, by: By, held: Held, chosen: Sequence[tuple[Asked, Choice]], connection: Connection, model: Model
) -> None:
    """Our rows after the decision. The link's base holds theirs already, so that only what differs from it is sent."""
    changes: Document = {}
    for asked, choice in chosen:
        if choice.take != "ours" and asked.field != DELETE:
            changes[asked.field] = asked.theirs if choice.take == "theirs" else choice.value
    await edits.write(conn, model, by.org_id, held, changes, by.now)
    if any(asked.field == DELETE and choice.take == "theirs" for asked, choice in chosen):
        status = "archived" if connection.delete_policy == "archive" else "deleted"
        await edits.delete(conn, by.org_id, held, status, by.now)


async def _close(conn: Conn, by: By, case: Case, chosen: Sequence[tuple[Asked, Choice]], note: str | None) -> None:
    closed = [{"id": asked.id, "resolution": choice.take} for asked, choice in chosen]
    values = {"now": by.now, "actor": by.actor, "note": note}
    await conn.execute(_SQL["close"], values | {"rows": _json(closed)})
    lost = [_loser(asked, choice) for asked, choice in chosen if _loses(asked, choice)]
    await keep_losers(conn, by, case.connection, case.entity_type, case.entity_id, lost)


async def keep_losers(
    conn: Conn, by: By, connection: str, entity_type: str, entity_id: str, losers: Sequence[Row]
) -> None:
    """Keep values that a person let lose: `field`, `base`, `ours`, `theirs`, `winner`, their times, `event_id`."""
    if losers:
        place = {"org": by.org_id, "connection": connection, "entity_type": entity_type, "entity": entity_id}
        values = place | {"rows": _json(losers), "now": by.now, "actor": by.actor}
        await conn.execute(_SQL["save_losers"], values)


def _loses(asked: Asked, choice: Choice) -> bool:
    return asked.field == DELETE or choice.take == "value" or not edits.same(asked.ours, asked.theirs)


def _loser(asked: Asked, choice: Choice) -> Row:
    return {
        "field": asked.field,
        "base": asked.base,
        "ours": asked.ours,
        "theirs": asked.theirs,
        "winner": "neither" if choice.take == "value" else choice.take,
        "ours_at": asked.ours_at,
        "theirs_at": asked.theirs_at,
        "event_id": asked.event_id,
    }


async def _pass_on(
    conn: Conn, by: By, case: Case, connection: Connection, types: Sequence[str], *, created_anew: bool
) -> None:
    """They get ours. Other systems have it, or hear of it by capture."""
    if connection.state == "disconnected":
        return
    place = {"org": by.org_id, "entity": case.entity_id, "connection": connection.name}
    if created_anew:
        await conn.execute(_SQL["unlink"], place | {"entity_type": case.entity_type, "now": by.now})
    raised = [queues.wish(connection, each, case.entity_type, case.entity_id, "correct_remote") for each in types]
    await wishes.add(conn, raised, now=by.now)
    if created_anew:
        await conn.execute(_SQL["next_generation"], place)


def _json(rows: Sequence[Row]) -> str:
    return orjson.dumps(rows).decode()
