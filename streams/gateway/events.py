"""`POST /v1/events`: many events at once, for programs that have them in bulk and for systems without webhooks.

NDJSON, one event a line. Every line gets an answer of its own: what is wrong with one holds up no other, and a line is
`accepted` only when it is durable in Kafka. The same lines sent again have no second effect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from connectors import strict_json
from connectors.contract import ExternalRecord, Manifest, Op
from connectors.errors import Rejected
from schemas.events import InboundEvent
from schemas.problems import Problem
from streams.gateway import access
from streams.gateway.services import NAME_MOST, Given
from streams.gateway.shapes import described
from streams.inbound.publish import Sender, event_of
from streams.inbound.refusals import LONGEST_ID
from streams.store import connections
from streams.store.connections import Connection

CHUNK = 500
"""Lines that are published together."""
LINE_MOST_BYTES = 2**20
LINES_MOST = 100_000
BODY_MOST_BYTES = 64 * 2**20

router = APIRouter(
    prefix="/v1",
    max_body_size=BODY_MOST_BYTES,
    dependencies=[Depends(access.authorised)],
    responses=described({401: "The bearer token is missing or wrong.", 503: "A neighbour does not answer."}),
)


class EventIn(BaseModel):
    """One line."""

    model_config = ConfigDict(extra="forbid")

    connection: Annotated[str, Field(max_length=NAME_MOST)]
    type: Annotated[str, Field(max_length=200, description="Their name of the kind of record.")]
    id: Annotated[str, Field(min_length=1, max_length=LONGEST_ID, pattern="^[^\x00]*$", description="Their id of it.")]
    op: Literal["upsert", "delete"] = "upsert"
    at: Annotated[AwareDatetime, Field(description="Their time of it, with a zone.")]
    version: Annotated[str | None, Field(max_length=200, description="Their version, if they count.")] = None
    data: Annotated[dict[str, Any] | None, Field(description="The whole record as they have it.")] = None

    @model_validator(mode="after")
    def _holds_a_record(self) -> EventIn:
        if (self.data is None) != (self.op == "delete"):
            raise ValueError("an upsert has `data`, a delete has none")
        return self


class LineOut(BaseModel):
    """What became of one line; `failed` ones may be sent again."""

    line: int
    status: Literal["accepted", "refused", "failed"]
    event_id: str | None = None
    code: str | None = None
    cause: str | None = None


class EventsOut(BaseModel):
    """What became of all of them."""

    accepted: int
    refused: int
    failed: int
    lines: list[LineOut]


@dataclass(slots=True)
class _Intake:
    """One request: who may send what, and the answers so far."""

    known: Mapping[str, Connection]
    manifest: Callable[[str], Manifest]
    publish: Callable[[Sequence[InboundEvent]], Awaitable[Any]]
    now: Callable[[], datetime]
    answers: list[LineOut]

    async def take(self, numbered: Sequence[tuple[int, bytes]]) -> None:
        """Publish the lines that can be read; answer each."""
        facts: dict[int, InboundEvent] = {}
        for number, line in numbered:
            try:
                facts[number] = self._fact(line)
            except Problem as problem:
                self.answer(number, "refused", problem)
        try:
            await self.publish(list(facts.values()))
        except Problem as problem:
            for number in facts:
                self.answer(number, "failed", problem)
            raise
        self.answers += [
            LineOut(line=number, status="accepted", event_id=fact.event_id.hex()) for number, fact in facts.items()
        ]

    def _fact(self, line: bytes) -> InboundEvent:
        if len(line) > LINE_MOST_BYTES:
            raise Problem("event_too_large", f"a line has at most {LINE_MOST_BYTES} bytes")
        try:
            strict_json.check(line)
            given = EventIn.model_validate_json(line)
        except Rejected as refused:
            raise Problem("event_unreadable", refused.cause.replace("the webhook", "the line")) from None
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'line'}: {e['msg']}" for e in error.errors())
            raise Problem("value_invalid", wrong) from None
        connection = self.known.get(given.connection)
        if connection is None or connection.state == "disconnected":
            raise Problem("connection_unknown", "there is no connection of this name")
        try:
            self.manifest(connection.system).aggregate(given.type)
        except KeyError:
            raise Problem("type_not_taken", "the connection's system has no such type") from None
        record = ExternalRecord(
            given.type,
            given.id,
            Op.DELETE if given.op == "delete" else Op.UPDATE,
            given.at.astimezone(UTC),
            given.data or {},
            given.version,
        )
        sender = Sender(connection.org_id, connection.name, connection.system)
        return event_of(record, sender, source="api", received_at=self.now())

    def answer(self, number: int, status: Literal["refused", "failed"], problem: Problem) -> None:
        """Note that a line was not taken."""
        self.answers.append(LineOut(line=number, status=status, code=problem.code, cause=problem.cause))


@router.post(
    "/events",
    status_code=202,
    responses=described({413: "It has too many lines or bytes."}),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/x-ndjson": {"schema": EventIn.model_json_schema()}},
        }
    },
)
async def take_events(request: Request, given: Given) -> EventsOut:
    """Take events in bulk, one JSON object a line. When Kafka stops taking them, the rest of the lines have failed."""
    if given.publish is None:
        raise Problem("not_configured", "there is no Kafka here", "Ask a gateway that has one.")
    async with given.pool.connection() as conn:
        known = {c.name: c for c in await connections.list_all(conn, given.settings.org_id)}
    intake = _Intake(known, given.manifest, given.publish, given.now, [])
    down: Problem | None = None
    async for chunk in _chunks(request):
        if down is not None:
            for number, _ in chunk:
                intake.answer(number, "failed", down)
            continue
        try:
            await intake.take(chunk)
        except Problem as problem:
            if not any(each.status == "accepted" for each in intake.answers):
                raise
            down = problem
    lines = sorted(intake.answers, key=lambda each: each.line)
    count = {status: sum(each.status == status for each in lines) for status in ("accepted", "refused", "failed")}
    return EventsOut(**count, lines=lines)


async def _chunks(request: Request) -> AsyncIterator[list[tuple[int, bytes]]]:
    """Numbered lines, empty ones left out, a few hundred at a time."""
    rest, number, chunk = b"", 0, []
    async for piece in _pieces(request):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            number += 1
            if line.strip():
                chunk.append((number, line))
            if number > LINES_MOST:
                raise Problem("body_too_large", f"a request has at most {LINES_MOST} lines", "Send it in parts.")
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it arrives, with an end of line at its end."""
    async for piece in request.stream():
        yield piece
    yield b"\n"
