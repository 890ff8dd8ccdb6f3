"""Every adapter folder against its emulator; what a test needs comes from the manifest."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import socket
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from connectors import config, emulators, http, registry
from connectors.contract import Adapter, Client, ExternalRecord, Manifest, Op, Outcome, Page, Write
from connectors.emulators import Running
from schemas import forms
from schemas.fields import Aggregate, Field, Json

ODD_NAME = "O'Brien-Ünal 王 \u200f"
"""An apostrophe, letters beyond Latin-1 and a mark of direction: what has broken somebody's sync (C8)."""


@dataclasses.dataclass
class Bench:
    """One adapter, its emulator, and the writes and checks all tests share."""

    adapter: Adapter
    running: Running
    client: Client
    http: Any
    numbers: Any = dataclasses.field(default_factory=lambda: itertools.count(1))

    @property
    def manifest(self) -> Manifest:
        return self.adapter.manifest

    @property
    def person(self) -> Aggregate:
        """The aggregate with the most to it."""
        return max(self.manifest.aggregates, key=lambda a: (len(a.parts), len(a.fields)))

    def write(self, aggregate: Aggregate, op: Op = Op.CREATE, external_id: str | None = None, **values: Json) -> Write:
        """A write nobody made before; `values` replace canonical fields of the root."""
        n = next(self.numbers)
        return Write(
            op=op,
            external_type=aggregate.external_type,
            entity_id=f"{aggregate.root}_{n:026d}",
            external_id=external_id,
            payload=payload(aggregate, n, values),
            changed=frozenset(),
            key=f"key-{n}",
            at=datetime(2025, 10, 3, 9, 0, 0, n, UTC),
        )

    async def send(self, *writes: Write) -> Sequence[Outcome]:
        return await self.client.send([self.client.build(write) for write in writes])

    async def read(self, external_type: str, since: datetime | None = None) -> list[Page]:
        return [page async for page in self.client.pages(external_type, since)]

    async def records(self, external_type: str, since: datetime | None = None) -> dict[str, ExternalRecord]:
        pages = await self.read(external_type, since)
        return {record.external_id: record for page in pages for record in page.records}

    async def control(self, method: str, path: str, content: Json = None) -> Any:
        body = None if content is None else orjson.dumps(content)
        response = await self.http.request(method, f"{self.running.url}/_emulator/{path}", content=body)
        assert response.status_code == 200, response.text
        return orjson.loads(response.content)

    async def faults(self, *rules: Json) -> None:
        await self.control("POST", "faults", list(rules))

    async def creates(self, external_type: str) -> dict[str, int]:
        counts = await self.control("GET", "counts")
        return dict(counts["creates"].get(external_type, {}))


def payload(aggregate: Aggregate, n: int, values: Json = None) -> dict[str, Json]:
    """A plausible record of the aggregate, at the paths its manifest tells."""
    content: dict[str, Json] = {}
    for field in aggregate.fields:
        value = (values or {}).get(field.canonical, sample(field, aggregate.root, n))
        put(content, field.external, forms.write(field.forms, value))
    for part in aggregate.parts:
        item: dict[str, Json] = {}
        for field in part.fields:
            put(item, field.external, forms.write(field.forms, sample(field, part.entity_type, n)))
        if part.id_field:
            put(item, part.id_field, f"{part.entity_type}_{n:026d}")
        put(content, part.external, [item])
    return content


def sample(field: Field, entity_type: str, n: int) -> Json:
    name = field.canonical
    known: dict[str, Json] = {
        "gender": "female",
        "country": "SE",
        "membership_status": "member",
        "number": f"+4670{n:07d}",
    }
    if field.references:
        return None
    if name.endswith(("_date", "_on")):
        return "1990-04-01"
    if name.startswith("is_"):
        return True
    if (entity_type, name) == ("email", "address"):
        return f"person{n}@example.org"
    return known.get(name, f"{ODD_NAME} {n}" if "name" in name else f"{name} {n}")


def put(content: dict[str, Json], path: str, value: Json) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
    content[last] = value


@pytest.fixture(params=registry.names())
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    name: str = request.param
    async with emulators.serve(name) as running, contextlib.AsyncExitStack() as stack:
        yield await open_bench(name, running, stack)


async def open_bench(name: str, running: Running, stack: contextlib.AsyncExitStack, **extra: str) -> Bench:
    """A bench on a running emulator; `extra` are more extra fields of its connection."""
    adapter = registry.find(name)
    document = running.emulator.system.connection(running.url)
    document = {
        **document,
        "extraFields": [*document["extraFields"], *({"name": k, "value": v} for k, v in extra.items())],
    }
    client = http.client()
    stack.push_async_callback(client.aclose)
    opened = adapter.open(config.settings(config.load(document), adapter.settings), client)
    return Bench(adapter, running, opened, client)


@dataclasses.dataclass
class Received:
    headers: list[tuple[str, str]]
    body: bytes


class Receiver:
    """The other end of webhooks: keeps what comes, answers `statuses` one after the other, then 204."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.got: list[Received] = []
        self.statuses: list[int] = []

    async def wait(self, count: int, seconds: float = 5) -> list[Received]:
        async with asyncio.timeout(seconds):
            while len(self.got) < count:  # noqa: ASYNC110 - a plain list is easier to read in the tests
                await asyncio.sleep(0.005)
        return self.got


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    listening = socket.create_server(("127.0.0.1", 0))
    receiver = Receiver(f"http://127.0.0.1:{listening.getsockname()[1]}/hooks/token")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:-2]
                headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in head)]
                length = next(int(value) for name, value in headers if name.lower() == "content-length")
                receiver.got.append(Received(headers, await reader.readexactly(length)))
                status = receiver.statuses.pop(0) if receiver.statuses else 204
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n".encode())
        writer.close()

    server = await asyncio.start_server(answer, sock=listening)
    yield receiver
    server.close()
