"""The REST API of pushes: what waits and why, selective push, parked writes, holds, lanes, redriving dead letters.

The same acts as the CLI's, from `streams.queues`, `streams.redrives` and `streams.selected`; each leaves an audit row.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query

from schemas.problems import Problem
from streams import queues, redrives, selected
from streams.gateway.parameters import Connection, EntityId, Number, guarded_router
from streams.gateway.push_shapes import (
    DecidedOut,
    HoldOut,
    IntentOut,
    LaneOut,
    ParkedIn,
    ParkedOut,
    PushedOut,
    PushIn,
    RedriveIn,
    RedrivenOut,
    State,
)
from streams.gateway.services import Given, Services
from streams.gateway.shapes import described
from streams.queues import By
from streams.redrives import Letters, Redrives
from streams.store import operations

router = guarded_router()
_DECIDED = described({404: "There is none.", 409: "Its state does not allow it."})

Limit = Annotated[int, Query(ge=1, le=10_000)]


@router.get("/intents")
async def list_intents(
    given: Given,
    connection: Connection = None,
    state: State | None = None,
    entity: Annotated[str | None, Query(max_length=200, description="A root; also when it is done.")] = None,
    limit: Limit = 100,
) -> list[IntentOut]:
    """What is to be sent and is not there yet, newest first."""
    async with given.pool.connection() as conn:
        org = given.settings.org_id
        rows = await operations.pushes(conn, org, connection, state=state, entity=entity, limit=limit)
    return [IntentOut.model_validate(row) for row in rows]


@router.post(
    "/pushes",
    status_code=202,
    responses=described({404: "There is none.", 409: "It is linked otherwise.", 422: "It cannot go there."}),
)
async def push(body: PushIn, given: Given) -> list[PushedOut]:
    """Push chosen records, also unlinked ones at option 3; with `link` the two are linked first."""
    systems = selected.Systems(given.model, given.manifest)
    async with given.pool.connection() as conn:
        rows = await selected.push(conn, _by(given), body.ids, systems, connection=body.connection, link=body.link)
    return [PushedOut.model_validate(row) for row in rows]


@router.get("/lanes")
async def list_lanes(given: Given) -> list[LaneOut]:
    """How the calls of each connection go. They are paused and resumed as connections."""
    async with given.pool.connection() as conn:
        rows = await operations.lanes(conn, given.settings.org_id, now=given.now())
    return [LaneOut.model_validate(row) for row in rows]


@router.get("/parked")
async def list_parked(given: Given, connection: Connection = None, limit: Limit = 100) -> list[IntentOut]:
    """Writes that need a person's decision."""
    async with given.pool.connection() as conn:
        rows = await operations.pushes(conn, given.settings.org_id, connection, state="PARKED", limit=limit)
    return [IntentOut.model_validate(row) for row in rows]


@router.post("/parked/{entity_id}/retry", status_code=202, responses=_DECIDED)
async def retry_parked(entity_id: EntityId, body: ParkedIn, given: Given) -> ParkedOut:
    """Send a parked write, as the row is now; a create in doubt is made once more."""
    async with given.pool.connection() as conn:
        name = await queues.retry_parked(conn, _by(given), entity_id, body.connection)
    return ParkedOut(entity_id=entity_id, connection=name)


@router.post("/parked/{entity_id}/drop", responses=_DECIDED)
async def drop_parked(entity_id: EntityId, body: ParkedIn, given: Given) -> ParkedOut:
    """Do without a parked write: they keep what they have until the record changes again."""
    async with given.pool.connection() as conn:
        name = await queues.drop_parked(conn, _by(given), entity_id, body.connection)
    return ParkedOut(entity_id=entity_id, connection=name)


@router.get("/holds")
async def list_holds(
    given: Given,
    closed: Annotated[bool, Query(description="Also those that were decided.")] = False,  # noqa: FBT002 - a query flag
    limit: Limit = 100,
) -> list[HoldOut]:
    """Mass changes on hold, newest first."""
    async with given.pool.connection() as conn:
        rows = await operations.holds(conn, given.settings.org_id, closed=closed, limit=limit)
    return [HoldOut.model_validate(row) for row in rows]


@router.post("/holds/{number}/{decision}", responses=_DECIDED)
async def decide_hold(number: Number, decision: Literal["approve", "drop"], given: Given) -> DecidedOut:
    """Approve a mass change, or drop it: of dropped deletes the rows are gone on one side and stay on the other."""
    async with given.pool.connection() as conn:
        said: Literal["approved", "dropped"] = "approved" if decision == "approve" else "dropped"
        return DecidedOut.model_validate(await queues.decide_hold(conn, _by(given), number, said))


@router.post("/dead-letters/redrive", responses=described({422: "Nothing is named."}))
async def redrive_many(body: RedriveIn, given: Given) -> RedrivenOut:
    """Try all open dead letters of a kind again; `dry_run` counts them. No older state goes over a newer one."""
    which = Letters(body.connection, body.code, body.source)
    if which == Letters():
        raise Problem("value_invalid", "name a connection, a code or a source", "Send at least one of the three.")
    async with given.pool.connection() as conn:
        matched = dict(await redrives.count_letters(conn, _by(given), which))
        if body.dry_run:
            return RedrivenOut(matched=matched, redriven=0, left={})
        told = await redrives.redrive_many(conn, _by(given), which, _how(given))
    return RedrivenOut(matched=matched, redriven=told.redriven, left=dict(told.left))


@router.post("/dead-letters/{number}/redrive", status_code=204, responses=_DECIDED)
async def redrive(number: Number, given: Given) -> None:
    """Try one dead letter again."""
    async with given.pool.connection() as conn:
        await redrives.redrive_one(conn, _by(given), number, _how(given))


@router.post("/dead-letters/{number}/drop", status_code=204, responses=_DECIDED)
async def drop_letter(number: Number, given: Given) -> None:
    """Close a dead letter for good."""
    async with given.pool.connection() as conn:
        await redrives.drop_letter(conn, _by(given), number)


def _by(given: Services) -> By:
    return By(given.settings.org_id, given.service.actor, given.now())


def _how(given: Services) -> Redrives:
    return Redrives(given.model, given.manifest, given.republish)
