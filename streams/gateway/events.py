"""`POST /v1/events`: events that programs bring themselves, many in one request, one JSON object a line.

    pieces of the body (inflated, capped) → lines → at most 500 at a time: check → publish, acks=all → a result each

A bad line is refused alone. A line counts as accepted only when Kafka has it; when Kafka does not take any more, the
answer is 503 and tells the results so far and the line to go on with. The id of an event derives from its content, so
sending a line again has no second effect. Never more than a chunk of the body is in memory; the results are, so their
number is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import orjson
import structlog
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import Counter
from starlette.requests import ClientDisconnect

from connectors import bodies
from connectors.contract import Manifest
from connectors.errors import Ambiguous
from schemas.events import InboundEvent
from schemas.problems import Problem
from streams.gateway import access, failures
from streams.gateway.services import Given
from streams.gateway.shapes import described
from streams.inbound.publish import Publisher, Sender, event_of
from streams.rules import bulk_lines
from streams.store import api_keys, connections
from streams.store.connections import Connection

BODY_MOST_BYTES = 64 * 2**20
LINES_MOST = 50_000
LINE_MOST_BYTES = 2**20
CHUNK_LINES = 500
CHUNK_BYTES = 4 * 2**20
PIECE_S = 10.0
"""How long a piece of the body may take to arrive."""
WHOLE_S = 300.0
NDJSON = "application/x-ndjson"

LINES = Counter("syncline_bulk_lines", "Lines of POST /v1/events by what became of them", ["outcome"])

_log = structlog.get_logger("gateway.events")

Numbered = tuple[int, bytes | None]
"""Number of a line, from 1, and its bytes; None for one that is too long to keep."""


@dataclass(slots=True)
class Taken:
    """What became of the lines so far; `results` are JSON, one each, empty lines have none."""

    results: list[bytes] = field(default_factory=list)
    accepted: int = 0
    refused: int = 0
    next_line: int = 1

    def add(self, line: int, **told: str) -> None:
        """The result of one line."""
        # A copy: what orjson returns lies in a block of a kilobyte and more, whose rest nothing else fits into.
        self.results.append(bytes(memoryview(orjson.dumps({"line": line, **told}))))
        outcome = told["status"]
        LINES.labels(outcome).inc()
        if outcome == "accepted":
            self.accepted += 1
        else:
            self.refused += 1


@dataclass(frozen=True, slots=True)
class Bulk:
    """Takes the lines of one request.

    Args:
        holder: who sends them.
        known: the organisation's connections by name, without the disconnected ones.
    """

    holder: api_keys.Holder
    known: Mapping[str, Connection]
    manifest: Callable[[str], Manifest]
    publisher: Publisher
    now: Callable[[], datetime]

    async def take(self, pieces: AsyncIterator[bytes], taken: Taken) -> None:
        """Take line after line; what is done when it raises is in `taken`.

        Raises:
            Problem: `too_many_lines`, `kafka_unavailable`, `registry_unreachable`, and what `pieces` raises.
        """
        chunk: list[Numbered] = []
        size = number = 0
        async for line in lines(pieces):
            number += 1
            if number > LINES_MOST:
                await self._chunk(chunk, taken)
                raise Problem("too_many_lines", f"a body has at most {LINES_MOST} lines", "Send the rest by itself.")
            chunk.append((number, line))
            size += len(line or b"")
            if len(chunk) >= CHUNK_LINES or size >= CHUNK_BYTES:
                await self._chunk(chunk, taken)
                chunk, size = [], 0
        await self._chunk(chunk, taken)

    async def _chunk(self, chunk: list[Numbered], taken: Taken) -> None:
        if not chunk:
            return
        # Off the event loop: webhooks must not wait for a chunk of somebody's export.
        checked = await asyncio.to_thread(self._check, chunk)
        await self.publisher.publish([each for _, each in checked if isinstance(each, InboundEvent)])
        for number, each in checked:
            if isinstance(each, Problem):
                taken.add(number, status="refused", code=each.code, cause=each.cause)
            else:
                taken.add(number, status="accepted", event_id=each.event_id.hex())
        taken.next_line = chunk[-1][0] + 1

    def _check(self, chunk: Iterable[Numbered]) -> list[tuple[int, InboundEvent | Problem]]:
        now = self.now()
        found: list[tuple[int, InboundEvent | Problem]] = []
        for number, content in chunk:
            if content is not None and not content.strip():
                continue
            try:
                found.append((number, self._fact(content, now)))
            except Problem as problem:
                found.append((number, problem))
        return found

    def _fact(self, content: bytes | None, now: datetime) -> InboundEvent:
        if content is None:
            raise Problem("line_too_long", f"a line has at most {LINE_MOST_BYTES} bytes")
        line = bulk_lines.read(content)
        connection = self._connection(line.connection)
        manifest = self.manifest(connection.system)
        if line.record.external_type not in {each.external_type for each in manifest.aggregates}:
            raise Problem("type_unknown", f"{connection.system} has no records of this `type`")
        sender = Sender(connection.org_id, connection.name, connection.system)
        return event_of(line.record, sender, source="api", received_at=now)

    def _connection(self, named: str | None) -> Connection:
        name = named or self.holder.connection
        if name is None:
            if len(self.known) != 1:
                raise Problem("connection_needed", "there are several connections: name one in `connection`")
            (name,) = self.known
        if self.holder.connection not in (None, name):
            raise Problem("connection_refused", "the key is for another connection")
        if name not in self.known:
            raise Problem("connection_unknown", "there is no connection of this name that works")
        return self.known[name]


router = APIRouter(prefix="/v1")


@router.post(
    "/events",
    responses={
        **described(
            {
                400: "The compression is broken; `results` tell what was taken.",
                401: "The API key is missing, wrong or revoked.",
                408: "The body came too slowly; the same.",
                413: "The body is too large; the same.",
                503: "Kafka does not take any more; `next_line` says where to go on.",
            }
        ),
        200: {"description": "A result for each line.", "content": {NDJSON: {}}},
    },
    openapi_extra={"requestBody": {"required": True, "content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def take(
    request: Request, given: Given, holder: Annotated[api_keys.Holder, Depends(access.brings_events)]
) -> Response:
    """Bring events, one JSON object a line: `{"connection"?, "type", "id", "op", "at", "version"?, "data"}`.

    At most 64 MiB (inflated; gzip is welcome), 50,000 lines, 1 MiB a line. The answer has an object for each line that
    is not empty: `{"line", "status": "accepted", "event_id"}` or `{"line", "status": "refused", "code", "cause"}`.
    """
    if given.publisher is None:
        raise Problem("not_configured", "there is no Kafka to take events")
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdecimal() and (len(told) > 18 or int(told) > BODY_MOST_BYTES):
        raise _too_large()
    if given.bulks.locked():
        raise Problem("gateway_busy", "too many bodies of events at once", "Send it again in a moment.")
    async with given.bulks:
        async with given.pool.connection() as conn:
            listed = await connections.list_all(conn, holder.org_id)
        known = {each.name: each for each in listed if each.state != "disconnected"}
        taken = Taken()
        try:
            async with asyncio.timeout(WHOLE_S):
                await Bulk(holder, known, given.manifest, given.publisher, given.now).take(_pieces(request), taken)
        except Problem as problem:
            return _stopped(problem, taken)
        except TimeoutError:
            return _stopped(Problem("body_too_slow", "the body came too slowly", "Send it in parts."), taken)
        finally:
            _log.info("bulk", key=holder.name, accepted=taken.accepted, refused=taken.refused)
    return Response(b"".join(line + b"\n" for line in taken.results), media_type=NDJSON)


async def lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes | None]:
    """The lines of a body, empty ones too; None for one that is too long. Linear, however small the pieces are."""
    kept = bytearray()
    too_long = False
    async for piece in pieces:
        for place, part in enumerate(piece.split(b"\n")):
            if place:
                yield None if too_long else bytes(kept)
                kept, too_long = bytearray(), False
            too_long = too_long or len(kept) + len(part) > LINE_MOST_BYTES
            if too_long:
                kept = bytearray()
            else:
                kept += part
    if kept or too_long:
        yield None if too_long else bytes(kept)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body, inflated. Raises Problem (`body_too_large`, `body_unreadable`), TimeoutError."""
    try:
        async for piece in bodies.pieces(_arriving(request), request.headers.get("content-encoding"), BODY_MOST_BYTES):
            yield piece
    except Ambiguous as broken:
        if broken.code == "answer_too_large":
            raise _too_large() from None
        raise Problem("body_unreadable", "the body's compression is broken or unknown") from None
    except ClientDisconnect:
        raise Problem("body_unreadable", "the body was cut off") from None


async def _arriving(request: Request) -> AsyncIterator[bytes]:
    stream = request.stream()
    while True:
        async with asyncio.timeout(PIECE_S):
            piece = await anext(stream, None)
        if piece is None:
            return
        if piece:
            yield piece


def _stopped(problem: Problem, taken: Taken) -> Response:
    """Why it goes no further, and what was taken before."""
    results = [orjson.loads(line) for line in taken.results]
    more: dict[str, Any] = {"accepted": taken.accepted, "refused": taken.refused, "results": results}
    answer = failures.answer(problem, None, **more, next_line=taken.next_line)
    if answer.status_code == 503:
        answer.headers["retry-after"] = "5"
    return answer


def _too_large() -> Problem:
    return Problem("body_too_large", f"a body of events has at most {BODY_MOST_BYTES} bytes", "Send it in parts.")
