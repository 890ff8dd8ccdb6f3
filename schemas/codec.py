"""Avro in the Confluent wire format: a zero byte, the schema's id in four bytes (big-endian), the Avro body.

Kafka → `Codec.learn` fetches the schemas that a batch names → `Codec.decode` and `Codec.envelope` read record by record
without waiting. Decoding is the largest cost of a consumer, so of Debezium's envelope only `before` and `after` are
read (they come first); the rest is read when somebody asks, at about twice the cost.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from fastavro import parse_schema, schemaless_reader, schemaless_writer

from schemas.problems import Problem

MAGIC = 0
HEADER_BYTES = 5

Row = dict[str, Any]
Schema = dict[str, Any]


class Schemas(Protocol):
    """Where schemas come from."""

    async def schema(self, schema_id: int) -> Schema:
        """The schema with a global id; Problem `schema_unknown` or `registry_unreachable`."""


def schema_id(data: bytes | None) -> int:
    """The id of the schema that `data` was written with.

    Raises:
        Problem: `not_avro`, the record is unreadable.
    """
    if data is None or len(data) < HEADER_BYTES or data[0] != MAGIC:
        raise Problem("not_avro", "the record is not Avro in the Confluent wire format")
    return int.from_bytes(data[1:HEADER_BYTES], "big")


def encode(number: int, schema: Any, value: Row) -> bytes:
    """`value` in the wire format; `schema` is parsed.

    Raises:
        ValueError, TypeError: the value does not fit the schema.
    """
    out = io.BytesIO()
    out.write(b"\x00" + number.to_bytes(4, "big"))
    schemaless_writer(out, schema, value)
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A schema made ready: whole, and cut after `before` and `after` where it is an envelope."""

    whole: Any
    head: Any = None
    tail: Any = None


def _parse(schema: Schema) -> _Parsed:
    names: dict[str, Any] = {}
    whole: Any = parse_schema(schema, named_schemas=names)
    fields = schema.get("fields", [])
    if [field["name"] for field in fields[:2]] != ["before", "after"]:
        return _Parsed(whole)
    head = parse_schema({"type": "record", "name": "syncline.Head", "fields": whole["fields"][:2]}, named_schemas=names)
    tail = parse_schema({"type": "record", "name": "syncline.Tail", "fields": whole["fields"][2:]}, named_schemas=names)
    return _Parsed(whole, head, tail)


class Envelope:
    """A Debezium envelope, of which only the rows have been read."""

    __slots__ = ("_at", "_data", "_tail", "after", "before")

    def __init__(self, before: Row | None, after: Row | None, data: bytes, at: int, tail: Any) -> None:
        self.before = before
        self.after = after
        self._data = data
        self._at = at
        self._tail = tail

    def rest(self) -> Row:
        """Everything after the rows: `op`, `source` (`ts_us`, `lsn`, `txId`, …), `transaction`. Read anew each time."""
        body = io.BytesIO(self._data)
        body.seek(self._at)
        return _read(body, self._tail)


class Codec:
    """Decodes records of any schema the registry knows.

    Args:
        schemas: the registry.
    """

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self._parsed: dict[int, _Parsed | Problem] = {}

    async def learn(self, values: Iterable[bytes | None]) -> None:
        """Fetch every schema that `values` name and that is not known yet. Unreadable values are passed over.

        Raises:
            Problem: `registry_unreachable`; nothing is lost by calling again.
        """
        named = {data[1:HEADER_BYTES] for data in values if data and len(data) >= HEADER_BYTES and data[0] == MAGIC}
        for number in sorted({int.from_bytes(each, "big") for each in named} - self._parsed.keys()):
            self._parsed[number] = await self._fetch(number)

    async def _fetch(self, number: int) -> _Parsed | Problem:
        try:
            return _parse(await self._schemas.schema(number))
        except Problem as problem:
            if problem.code != "schema_unknown":
                raise
            return problem

    def decode(self, data: bytes | None) -> Row:
        """The whole value. Call `learn` first.

        Raises:
            Problem: the record is unreadable: `not_avro`, `schema_unknown`, `avro_unreadable`.
        """
        parsed = self._of(data)
        body = io.BytesIO(data or b"")
        body.seek(HEADER_BYTES)
        return _read(body, parsed.whole)

    def envelope(self, data: bytes | None) -> Envelope:
        """The rows of a Debezium envelope, the rest unread. Call `learn` first.

        Raises:
            Problem: as `decode`; `not_an_envelope` when the schema is something else.
        """
        parsed = self._of(data)
        if data is None or parsed.head is None:
            raise Problem("not_an_envelope", "the record's schema does not begin with `before` and `after`")
        body = io.BytesIO(data)
        body.seek(HEADER_BYTES)
        rows = _read(body, parsed.head)
        return Envelope(rows["before"], rows["after"], data, body.tell(), parsed.tail)

    def _of(self, data: bytes | None) -> _Parsed:
        number = schema_id(data)
        parsed = self._parsed.get(number)
        if parsed is None:
            raise LookupError(f"schema {number} was not learned")
        if isinstance(parsed, Problem):
            raise Problem(parsed.code, parsed.cause)
        return parsed


def _read(body: io.BytesIO, schema: Any) -> Row:
    try:
        row: Any = schemaless_reader(body, schema, None)
    except Exception as error:
        raise Problem("avro_unreadable", f"the body does not fit its schema ({type(error).__name__})") from error
    if not isinstance(row, dict):
        raise Problem("avro_unreadable", "the schema is not a record")
    return row
