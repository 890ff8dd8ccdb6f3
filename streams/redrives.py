"""Dead letters tried again or dropped, one of them or all of a kind.

Each source has its own way back: a push wishes for the current state, a change of ours plans its root, an event of
theirs is published again. Called by the CLI and the REST API, like `streams.queues`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from connectors.contract import Manifest
from schemas.model import Model
from schemas.problems import Problem
from streams import queues
from streams.outbound.planner import Planner, Touched
from streams.queues import By, Conn, Row
from streams.store import connections, queries, wishes
from streams.topics import INBOUND

BATCH = 1000

Republish = Callable[[str, Sequence[bytes]], Awaitable[None]]
"""(organisation, records of `inbound.events`): publish them again; raises Problem, see `streams.inbound.redrive`."""

_SQL = queries("queues")


@dataclass(frozen=True, slots=True)
class Letters:
    """Which dead letters; None for any."""

    connection: str | None = None
    code: str | None = None
    source: str | None = None

    def parameters(self) -> dict[str, str | None]:
        """As parameters of a statement."""
        return {"connection": self.connection, "code": self.code, "source": self.source}


@dataclass(frozen=True, slots=True)
class Redrives:
    """How dead letters are tried again.

    Args:
        republish: for events of theirs; None where there is no Kafka.
    """

    model: Model
    manifest: Callable[[str], Manifest]
    republish: Republish | None = None


@dataclass(frozen=True, slots=True)
class Redriven:
    """What redriving came to: how many, and how many stay, by the reason."""

    redriven: int
    left: Mapping[str, int]


async def count_letters(conn: Conn, by: By, which: Letters) -> Mapping[str, int]:
    """How many open dead letters there are, by source."""
    found = await queues.rows(conn, "count_letters", {"org": by.org_id, **which.parameters()})
    return {row["source"]: row["count"] for row in found}


async def redrive_one(conn: Conn, by: By, number: int, how: Redrives) -> None:
    """Try one dead letter again.

    Raises:
        Problem: `dead_letter_unknown` (also when it is closed), `not_redrivable`, `kafka_unavailable` …
    """
    async with conn.transaction():
        found = await _letters(conn, by, Letters(), after=0, last=number, only=number)
        if not found:
            raise _no_letter(by, number)
        left = await _redrive(conn, by, found, how)
        if left:
            raise next(iter(left.values()))
        await queues.audit(conn, by, "dead_letter.redrive", str(number), source=found[0]["source"])


async def redrive_many(conn: Conn, by: By, which: Letters, how: Redrives) -> Redriven:
    """Try all open dead letters of a kind again; those that cannot be stay, with the reason.

    Raises:
        Problem: `kafka_unavailable`, `registry_unreachable`; what was done until then stays done.
    """
    counted = await queues.rows(conn, "count_letters", {"org": by.org_id, **which.parameters()})
    last = max((row["last"] for row in counted), default=0)
    redriven, left, after = 0, dict[str, int](), 0
    while True:
        async with conn.transaction():
            found = await _letters(conn, by, which, after=after, last=last)
            if not found:
                break
            after = found[-1]["id"]
            problems = await _redrive(conn, by, found, how)
            for problem in problems.values():
                left[problem.cause] = left.get(problem.cause, 0) + 1
            redriven += len(found) - len(problems)
            subject = which.connection or "all"
            detail = which.parameters() | {"first": found[0]["id"], "last": after, "left": len(problems)}
            await queues.audit(conn, by, "dead_letter.redrive_many", subject, **detail)
    return Redriven(redriven, left)


async def drop_letter(conn: Conn, by: By, number: int) -> None:
    """Close a dead letter for good; of a push, they keep what they have until the record changes again.

    Raises:
        Problem: `dead_letter_unknown`, also when it is closed.
    """
    async with conn.transaction():
        found = await _letters(conn, by, Letters(), after=0, last=number, only=number)
        if not found:
            raise _no_letter(by, number)
        for intent in await queues.rows(conn, "intents_of_letters", {"ids": [number]}):
            await queues.drop(conn, by, intent, "DEAD")
        await conn.execute(_SQL["close_letters"], {"ids": [number], "state": "dropped", "now": by.now})
        await queues.audit(conn, by, "dead_letter.drop", str(number), source=found[0]["source"])
        await queues.wake(conn)


async def _redrive(conn: Conn, by: By, letters: Sequence[Row], how: Redrives) -> dict[int, Problem]:
    """Try a batch again and close those that are on their way; number -> why it cannot be."""
    left: dict[int, Problem] = {}
    pushes = [each for each in letters if each["source"] == "push"]
    captured = [each for each in letters if each["source"].startswith("cdc.")]
    told = [each for each in letters if each["source"] == INBOUND]
    for each in letters:
        if each["source"] not in ("push", INBOUND) and not each["source"].startswith("cdc."):
            left[each["id"]] = _stays(f"what a poll could not read cannot be given to it ({each['source']})")
    left |= await _redrive_pushes(conn, by, pushes)
    left |= await _redrive_changes(conn, by, captured, how)
    left |= await _redrive_events(by, told, how.republish)
    done = [each["id"] for each in letters if each["id"] not in left]
    await conn.execute(_SQL["close_letters"], {"ids": done, "state": "redriven", "now": by.now})
    return left


async def _redrive_pushes(conn: Conn, by: By, letters: Sequence[Row]) -> dict[int, Problem]:
    """Wish for the current state once more."""
    if not letters:
        return {}
    known = {c.name: c for c in await connections.list_all(conn, by.org_id)}
    intents = await queues.rows(conn, "intents_of_letters", {"ids": [each["id"] for each in letters]})
    left = {each["id"]: _stays("nothing wants this record pushed any more") for each in letters}
    wanted: list[wishes.Wish] = []
    for intent in sorted(intents, key=lambda i: (i["connection"], i["external_type"], i["entity_id"])):
        connection = known[intent["connection"]]
        if connection.state == "disconnected":
            left[intent["id"]] = _stays(f"{connection.name} is disconnected")
            continue
        del left[intent["id"]]
        wanted.append(
            queues.wish(connection, intent["external_type"], intent["entity_type"], intent["entity_id"], "redrive")
        )
    await wishes.add(conn, wanted, now=by.now)
    return left


async def _redrive_changes(conn: Conn, by: By, letters: Sequence[Row], how: Redrives) -> dict[int, Problem]:
    """Plan the roots that the keys of our own changes name: their current state is what counts."""
    left: dict[int, Problem] = {}
    roots: dict[str, Touched] = {}
    for each in letters:
        org_id, _, root_id = (each["record_key"] or "").rpartition("/")
        root_type = how.model.type_of_id(root_id)
        if org_id != by.org_id or root_type is None:
            left[each["id"]] = _stays("its key names no entity of ours")
            continue
        roots[root_id] = Touched(org_id, root_type.name, root_id, by.now, {"local"})
    planner = Planner(how.manifest, lambda _: ())
    await planner.plan(conn, [roots[each] for each in sorted(roots)], now=by.now, reason="redrive")
    return left


async def _redrive_events(by: By, letters: Sequence[Row], republish: Republish | None) -> dict[int, Problem]:
    left: dict[int, Problem] = {}
    for each in letters:
        if republish is None:
            left[each["id"]] = _stays("events of theirs can be redriven only where Kafka is at hand")
            continue
        try:
            await republish(by.org_id, [bytes(each["value"] or b"")])
        except Problem as problem:
            if problem.code != "not_redrivable":
                raise
            left[each["id"]] = problem
    return left


async def _letters(conn: Conn, by: By, which: Letters, *, after: int, last: int, only: int | None = None) -> list[Row]:
    values = {"org": by.org_id, "after": after, "last": last, "id": only, "limit": BATCH}
    return await queues.rows(conn, "letters", values | which.parameters())


def _no_letter(by: By, number: int) -> Problem:
    return Problem(
        "dead_letter_unknown",
        f"{by.org_id} has no open dead letter {number}",
        "See the numbers with `syncline dead-letters list`.",
    )


def _stays(cause: str) -> Problem:
    return Problem("not_redrivable", cause, "Drop it with `syncline dead-letters drop` once it is of no use.")
