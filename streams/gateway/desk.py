"""The REST API of what people decide: conflicts, values that lost, review items.

The same acts as the CLI's, from `streams.conflict_desk`, `streams.restores` and `streams.reviews`; each leaves an audit
row.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import JSONResponse
from psycopg import AsyncConnection
from pydantic import AwareDatetime

from schemas.problems import Problem
from streams import conflict_cases, conflict_desk, owners, restores, reviews
from streams.conflict_cases import Wanted
from streams.gateway import failures
from streams.gateway.desk_shapes import (
    AssignIn,
    CaseOut,
    CloseIn,
    CountOut,
    DecideIn,
    LostOut,
    OpenOut,
    ResolvedOut,
    ResolveIn,
    RestoredOut,
    RestoreIn,
    ReviewOut,
)
from streams.gateway.parameters import BIGINT_MOST, NAME_MOST, Connection, EntityId, Number, guarded_router
from streams.gateway.services import Given, Services
from streams.gateway.shapes import described
from streams.queues import By
from streams.restores import Losers
from streams.reviews import Which

router = guarded_router()
_MISSING = described({404: "There is none.", 409: "It was decided before."})
_DECIDED = {**_MISSING, **described({422: "It cannot be decided like that."})}
_MOVED = described({409: "It was decided before, or moved: then `conflict` has what it is now (`conflict_moved`)."})

Limit = Annotated[int, Query(ge=1, le=1000)]
Before = Annotated[int | None, Query(ge=0, le=BIGINT_MOST, description="Only older ones than this `id`.")]


@router.get("/conflicts")
async def list_conflicts(
    given: Given,
    connection: Connection = None,
    entity_type: Annotated[str | None, Query(max_length=NAME_MOST)] = None,
    older_than_s: Annotated[float | None, Query(ge=0, le=10**9, allow_inf_nan=False)] = None,
    after: Annotated[int, Query(ge=0, le=BIGINT_MOST, description="Only those behind this `id`.")] = 0,
    limit: Limit = 100,
) -> list[OpenOut]:
    """Records that a person must decide about, what is due first."""
    older_than = timedelta(seconds=older_than_s) if older_than_s is not None else None
    wanted = Wanted(connection, entity_type, older_than, after, limit)
    async with given.pool.connection() as conn:
        rows = await conflict_cases.listed(conn, given.settings.org_id, given.model, wanted, now=given.now())
    return [OpenOut.model_validate(row) for row in rows]


@router.get("/conflicts/counts")
async def count_conflicts(given: Given) -> list[CountOut]:
    """Open questions by connection and field."""
    async with given.pool.connection() as conn:
        rows = await conflict_cases.counts(conn, given.settings.org_id, now=given.now())
    return [CountOut.model_validate(row) for row in rows]


@router.get("/conflicts/log")
async def list_losers(
    given: Given,
    entity: Annotated[str | None, Query(max_length=200)] = None,
    connection: Connection = None,
    since: AwareDatetime | None = None,
    before: Before = None,
    limit: Limit = 100,
) -> list[LostOut]:
    """Values that lost, by whatever rule, the newest first."""
    async with given.pool.connection() as conn:
        rows = await restores.listed(conn, given.settings.org_id, Losers(entity, connection, since, before, limit))
    return [LostOut.model_validate(row) for row in rows]


@router.post("/conflicts/log/{number}/restore", responses=_DECIDED)
async def restore(number: Number, body: RestoreIn, given: Given) -> RestoredOut:
    """Write a value that lost back, as a change of ours that goes to every system."""
    async with given.pool.connection() as conn:
        return RestoredOut.model_validate(await restores.restore(conn, _by(given), number, given.model, body.side))


@router.get("/conflicts/{entity_id}", responses=_MISSING)
async def show_conflict(entity_id: EntityId, given: Given, connection: Connection = None) -> list[CaseOut]:
    """Base, ours and theirs of one record, for each connection that asks."""
    async with given.pool.connection() as conn:
        found = await conflict_cases.cases(conn, given.settings.org_id, given.model, entity_id, connection)
    return [CaseOut.model_validate(case.as_json()) for case in found]


@router.post("/conflicts/{entity_id}/resolve", responses={**_DECIDED, **_MOVED}, response_model=ResolvedOut)
async def resolve(entity_id: EntityId, body: ResolveIn, given: Given) -> ResolvedOut | JSONResponse:
    """Decide: ours, theirs or a value for each field, or a side for all of them."""
    answer = body.answer()
    if answer is None:
        raise Problem("choice_invalid", "a choice is a side or a value", "Send either `take` or `value` for a field.")
    async with given.pool.connection() as conn:
        try:
            told = await conflict_desk.resolve(conn, _by(given), entity_id, answer, given.model)
        except conflict_desk.Moved as moved:
            return failures.answer(moved, conflict=CaseOut.model_validate(moved.case.as_json()).model_dump(mode="json"))
    return ResolvedOut.model_validate(told)


@router.post("/conflicts/{entity_id}/assign", status_code=204, responses=_MISSING)
async def assign_conflict(entity_id: EntityId, body: AssignIn, given: Given) -> None:
    """Say who sees to what is asked about a record."""
    async with given.pool.connection() as conn:
        await owners.assign_conflict(conn, _by(given), entity_id, body.connection, body.to)


@router.get("/reviews")
async def list_reviews(
    given: Given,
    connection: Connection = None,
    kind: Annotated[str | None, Query(max_length=NAME_MOST)] = None,
    closed: Annotated[bool, Query(description="Also those that were closed.")] = False,  # noqa: FBT002 - a query flag
    after: Annotated[int | None, Query(ge=0, le=BIGINT_MOST, description="Only those behind this `id`.")] = None,
    limit: Limit = 100,
) -> list[ReviewOut]:
    """What a person is asked to look at, what is due first."""
    async with given.pool.connection() as conn:
        which = Which(connection, kind, closed, after, limit)
        rows = await reviews.listed(conn, given.settings.org_id, which, now=given.now())
    return [ReviewOut.model_validate(row) for row in rows]


@router.get("/reviews/{number}", responses=_MISSING)
async def show_review(number: Number, given: Given) -> ReviewOut:
    """One review item."""
    async with given.pool.connection() as conn:
        return await _review(conn, given, number)


@router.post("/reviews/{number}/assign", status_code=204, responses=_MISSING)
async def assign_review(number: Number, body: AssignIn, given: Given) -> None:
    """Say who sees to an item."""
    async with given.pool.connection() as conn:
        await owners.assign_review(conn, _by(given), number, body.to)


@router.post("/reviews/{number}/decide", status_code=202, responses=_DECIDED)
async def decide_review(number: Number, body: DecideIn, given: Given) -> ReviewOut:
    """Say who a record is that only a person can match; its event is applied accordingly in a moment."""
    if (body.link is not None) is body.new:
        raise Problem("choice_invalid", "a record is one of ours or new", "Send either `link` or `new`.")
    async with given.pool.connection() as conn:
        await reviews.decide(conn, _by(given), number, body.link, body.note)
        return await _review(conn, given, number)


@router.post("/reviews/{number}/close", status_code=204, responses=_MISSING)
async def close_review(number: Number, body: CloseIn, given: Given) -> None:
    """Close an item for good; its event is not applied."""
    async with given.pool.connection() as conn:
        await reviews.close(conn, _by(given), number, body.note)


@router.post("/reviews/{number}/retry", status_code=202, responses=_MISSING)
async def retry_review(number: Number, given: Given) -> None:
    """Apply the event of an item once more; the item closes when that succeeds."""
    async with given.pool.connection() as conn:
        await reviews.retry(conn, _by(given), number, given.republish)


def _by(given: Services) -> By:
    return By(given.settings.org_id, given.service.actor, given.now())


async def _review(conn: AsyncConnection[Any], given: Services, number: int) -> ReviewOut:
    return ReviewOut.model_validate(await reviews.show(conn, given.settings.org_id, number, now=given.now()))
