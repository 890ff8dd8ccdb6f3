"""Our own events on Kafka: `InboundEvent`, as a value and as Avro, and `DeliveryOutcome`, as Avro.

A producer asks the registry once for the id of its schema (`Registry.register(SUBJECT, schema(...))`) and then encodes;
a consumer decodes with `schemas.codec`, any registered version. Outcomes are produced by Debezium from `sync.delivery`,
and so is the schema it registers; `events/delivery_outcome.avsc` is the same one, with words, for those who read it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any, Literal

import orjson
from fastavro import parse_schema

from schemas import codec

INBOUND_SUBJECT = "inbound.events-value"

Op = Literal["upsert", "delete", "merge", "hint"]
Source = Literal["webhook", "poll", "fetch", "api", "redrive"]


@dataclass(frozen=True, slots=True)
class InboundEvent:
    """One fact about one external record.

    Args:
        event_id: 16 bytes; the same fact has the same id.
        system: an adapter's name.
        op: `hint` says only that something changed; `merge` that the record was merged into another.
        occurred_at: their time of the fact, aware.
        received_at: our time of receipt, aware.
        delivery_id: their id of the delivery, or ours of the poll or fetch.
        complete: the payload is the whole record.
        traceparent: W3C trace context.
    """

    event_id: bytes
    org_id: str
    connection: str
    system: str
    external_type: str
    external_id: str
    op: Op
    occurred_at: datetime
    received_at: datetime
    source: Source
    complete: bool
    payload: bytes
    content_type: str = "application/json"
    delivery_id: str | None = None
    external_version: str | None = None
    traceparent: str | None = None

    @property
    def key(self) -> bytes:
        """The Kafka key: all facts about one record stay in order."""
        return f"{self.connection}/{self.external_type}/{self.external_id}".encode()


@cache
def schema(name: str) -> dict[str, Any]:
    """The schema `events/NAME.avsc` as it is written."""
    text = resources.files("schemas").joinpath("events", f"{name}.avsc").read_bytes()
    read: dict[str, Any] = orjson.loads(text)
    return read


@cache
def _parsed(name: str) -> Any:
    return parse_schema(schema(name))


def encode(event: InboundEvent, schema_id: int) -> bytes:
    """The event in the wire format.

    Args:
        schema_id: what the registry gave for `schema("inbound_event")`.
    """
    fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    return codec.encode(schema_id, _parsed("inbound_event"), fields)


_NAMES = frozenset(field.name for field in dataclasses.fields(InboundEvent))


def decode(reader: codec.Codec, data: bytes | None) -> InboundEvent:
    """The event in `data`; fields of newer versions that we do not know are left out.

    Raises:
        Problem: the record is unreadable, see `Codec.decode`.
    """
    read = reader.decode(data)
    return InboundEvent(**{name: value for name, value in read.items() if name in _NAMES})
