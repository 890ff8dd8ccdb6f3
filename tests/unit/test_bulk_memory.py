"""A body of events in bulk takes no more memory than a chunk of it and its results."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import orjson
import pytest

from connectors import registry
from schemas.events import InboundEvent
from streams.gateway.events import Bulk, Taken
from streams.inbound.publish import Publisher
from streams.store import api_keys
from tests.acceptance.histories import ORG, connection

STATM = Path("/proc/self/statm")
LINES = 30_000


class Nowhere:
    async def publish(self, facts: Sequence[InboundEvent]) -> None:
        pass


async def body() -> AsyncIterator[bytes]:
    for n in range(LINES):
        data = {"first_name": f"First{n}", "last_name": "x" * 1000}
        line = {"type": "people", "id": f"p{n}", "op": "upsert", "at": "2026-03-01T12:00:00Z", "data": data}
        yield orjson.dumps(line) + b"\n"


def resident_mb() -> int:
    return int(STATM.read_text().split()[1]) * 4096 // 2**20


@pytest.mark.skipif(not STATM.exists(), reason="only Linux tells")
async def test_memory_does_not_grow_with_the_body() -> None:
    holder, known = api_keys.Holder(ORG, None, "x"), {"a": connection("a", "ignore")}
    taken, before = Taken(), resident_mb()
    publisher = cast("Publisher", Nowhere())
    bulk = Bulk(holder, known, lambda name: registry.find(name).manifest, publisher, lambda: datetime.now(UTC))
    await bulk.take(body(), taken)
    assert (taken.accepted, taken.refused) == (LINES, 0)
    assert resident_mb() - before < 40  # of a body of 33 MB; it was 120
