"""Facts to `inbound.events`: their records as `InboundEvent`s, produced and acknowledged by all in-sync replicas.

Callers are the gateway, before it answers, and the polls, before they move their checkpoint. The id of an event derives
from its content, so that a webhook and a poll that tell of the same state tell the same event; what tells of no state
is an event of its own in each delivery.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connectors.contract import ExternalRecord, Op
from schemas import events
from schemas.events import InboundEvent, Source
from schemas.fields import Json
from schemas.problems import Problem
from streams.topics import BODY_CAP_BYTES, INBOUND

TIMEOUT_S = 5.0
"""How long a fact may wait for its acknowledgement before the caller is told that Kafka is not available."""
QUEUED_RECORDS = 50_000
POLL_S = 0.05

_OPS: Mapping[Op, events.Op] = {Op.DELETE: "delete", Op.MERGE: "merge"}

_log = structlog.get_logger("inbound.publish")


class Register(Protocol):
    """Where the schema's id comes from; `schemas.registry.Registry` is one."""

    async def register(self, subject: str, schema: dict[str, Any]) -> int:
        """The id of a schema. Raises Problem `registry_unreachable`."""


class Place(NamedTuple):
    """Where a fact became durable."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose facts: a connection as an event names it."""

    org_id: str
    connection: str
    system: str


def event_of(
    record: ExternalRecord, sender: Sender, *, source: Source, received_at: datetime, delivery_id: str | None = None
) -> InboundEvent:
    """A record as an event; complete records only are applied as they are."""
    op: events.Op = _OPS.get(record.op, "upsert")
    payload = canonical(record.payload)
    told = record.external_version or record.occurred_at.isoformat()
    # Part of a record is another fact than the whole of it, even where the whole turns out to hold no more.
    kind = op if record.complete else f"{op}, in part"
    identity = (sender.org_id, sender.connection, record.external_type, record.external_id, kind, told)
    return InboundEvent(
        event_id=_digest(*identity, payload),
        org_id=sender.org_id,
        connection=sender.connection,
        system=sender.system,
        external_type=record.external_type,
        external_id=record.external_id,
        op=op,
        occurred_at=record.occurred_at,
        received_at=received_at,
        source=source,
        complete=record.complete,
        payload=payload,
        delivery_id=delivery_id,
        external_version=record.external_version,
    )


def hint_of(fact: InboundEvent) -> InboundEvent:
    """What can be believed of a fact that anybody may have made up: it says where to look, never what is there."""
    return replace(fact, event_id=_digest("hint", fact.event_id), op="hint", complete=False, payload=b"")


def is_hint(fact: InboundEvent) -> bool:
    """Whether a fact only makes a wish to read a record: it holds no state, or part of one, which is not applied."""
    return bool(fact.external_id) and not fact.complete and fact.op != "merge"


def brought(fact: InboundEvent, delivery_id: str) -> InboundEvent:
    """A fact as one delivery brought it. Of a state it is the same event whoever tells it; the same hint in another
    delivery says that the record has changed again."""
    event_id = _digest("brought", fact.event_id, delivery_id) if is_hint(fact) else fact.event_id
    return replace(fact, event_id=event_id, delivery_id=delivery_id)


def unreadable(
    body: bytes, sender: Sender, *, received_at: datetime, delivery_id: str | None, content_type: str
) -> InboundEvent:
    """An authentic body that nobody can read, as it is: the applier keeps it as a dead letter."""
    return InboundEvent(
        event_id=_digest(sender.org_id, sender.connection, "unreadable", delivery_id or "", body),
        org_id=sender.org_id,
        connection=sender.connection,
        system=sender.system,
        external_type="",
        external_id="",
        op="hint",
        occurred_at=received_at,
        received_at=received_at,
        source="webhook",
        complete=False,
        payload=body,
        content_type=content_type[:200],
        delivery_id=delivery_id,
    )


def canonical(payload: Mapping[str, Json]) -> bytes:
    """One spelling of a payload, whatever the order of its keys."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="surrogatepass")


def _digest(*parts: str | bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode(errors="surrogatepass")
        digest.update(len(content).to_bytes(4, "big") + content)
    return digest.digest()[:16]


class Publisher:
    """Produces events; one for a process. `opened` makes it and closes it.

    Args:
        make: an idempotent producer, acks=all; called again when one failed for good.
    """

    def __init__(self, make: Callable[[], Producer], registry: Register, *, timeout_s: float = TIMEOUT_S) -> None:
        self._make = make
        self._producer = make()
        self._registry = registry
        self._timeout_s = timeout_s
        self._schema_id: int | None = None
        self._registering = asyncio.Lock()

    async def publish(self, facts: Sequence[InboundEvent]) -> list[Place]:
        """Produce and wait until all of them are durable; where each is.

        Raises:
            Problem: `kafka_unavailable` when they are not, in time (some may become so later: publishing them again
                makes no second effect); `event_too_large`; `registry_unreachable`.
        """
        if not facts:
            return []
        schema_id = await self._schema()
        waiting = [self._produce(fact.key, events.encode(fact, schema_id)) for fact in facts]
        done, late = await asyncio.wait(waiting, timeout=self._timeout_s)
        for each in late:
            each.cancel()
        failed = [error for each in done if (error := each.exception())]
        if failed or late:
            self._renew(failed)
            raise _unavailable(failed[0] if failed else TimeoutError())
        return [each.result() for each in waiting]

    async def encoded(self, fact: InboundEvent) -> bytes:
        """A fact as a record of the topic. Raises Problem `registry_unreachable`."""
        return events.encode(fact, await self._schema())

    async def _schema(self) -> int:
        """The schema's id, asked for once: the registry refuses some of many that set up one subject together."""
        if self._schema_id is not None:
            return self._schema_id
        async with self._registering:
            if self._schema_id is None:
                self._schema_id = await self._registry.register(events.INBOUND_SUBJECT, events.schema("inbound_event"))
            return self._schema_id

    def _produce(self, key: bytes, value: bytes) -> asyncio.Future[Place]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Place] = loop.create_future()

        def report(error: KafkaError | None, message: Message) -> None:
            # Called on the polling thread.
            place = Place(message.partition() or 0, message.offset() or 0)
            loop.call_soon_threadsafe(_settle, done, error, place)

        try:
            self._producer.produce(INBOUND, value, key, on_delivery=report)
        except (KafkaException, BufferError) as error:
            done.set_exception(error)
        return done

    def _renew(self, failed: Sequence[BaseException]) -> None:
        """An idempotent producer that lost its place in a partition never works again: take another."""
        if any(
            isinstance(e, KafkaException) and isinstance(e.args[0], KafkaError) and e.args[0].fatal() for e in failed
        ):
            _log.error("producer_renewed")
            self._producer = self._make()

    async def run(self) -> None:
        """Serve delivery reports until cancelled."""
        while True:
            await asyncio.to_thread(self._producer.poll, POLL_S)

    async def reach(self) -> None:
        """Ask Kafka for the topic. Raises KafkaException when it does not answer."""
        await asyncio.to_thread(self._producer.list_topics, INBOUND, 2.0)

    async def flush(self) -> int:
        """Wait for what is on its way; how many events are not acknowledged."""
        return await asyncio.to_thread(self._producer.flush, self._timeout_s)


def _settle(done: asyncio.Future[Place], error: KafkaError | None, place: Place) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(place)
    else:
        done.set_exception(KafkaException(error))


def _unavailable(error: BaseException) -> Problem:
    cause = error.args[0] if isinstance(error, KafkaException) else None
    if isinstance(cause, KafkaError) and cause.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return Problem("event_too_large", "the event is larger than the topic takes")
    told = cause.str() if isinstance(cause, KafkaError) else "no acknowledgement in time"
    return Problem("kafka_unavailable", f"Kafka did not take the event: {told}", "Send it again in a moment.")


@asynccontextmanager
async def opened(bootstrap: str, registry: Register, *, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Publisher]:
    """A publisher and the thread that serves it."""
    settings = {
        "bootstrap.servers": bootstrap,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 2,
        "delivery.timeout.ms": int(timeout_s * 1000),
        "request.timeout.ms": int(timeout_s * 1000),
        "message.max.bytes": BODY_CAP_BYTES,
        "queue.buffering.max.messages": QUEUED_RECORDS,
        "client.id": "syncline-inbound",
        "log_level": 0,
    }
    publisher = Publisher(lambda: Producer(settings), registry, timeout_s=timeout_s)
    serving = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        left = await publisher.flush()
        serving.cancel()
        if left:
            _log.warning("events_not_acknowledged", count=left)
