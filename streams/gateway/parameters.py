"""What the routes of /v1 share: the token they ask for, the most they take, their parameters."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from streams.gateway import access
from streams.gateway.shapes import described

NAME_MOST = 63
BODY_MOST_BYTES = 2**20
BIGINT_MOST = 2**63 - 1

Connection = Annotated[str | None, Query(max_length=NAME_MOST)]
Number = Annotated[int, Path(ge=1, le=BIGINT_MOST)]
EntityId = Annotated[str, Path(max_length=200, description="Our id of the record.")]


def guarded_router() -> APIRouter:
    """A router whose routes ask for the bearer token and take small bodies."""
    return APIRouter(
        prefix="/v1",
        max_body_size=BODY_MOST_BYTES,
        dependencies=[Depends(access.authorised)],
        responses=described({401: "The bearer token is missing or wrong.", 503: "A neighbour does not answer."}),
    )
