"""The webhooks an emulated system sends: signed, in order per record, tried again, with the faults of real ones."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx
import orjson

from connectors import http, webhook
from connectors.emulators.faults import Faults
from connectors.errors import ConnectorError
from schemas.fields import Json

LANES = 16
"""Webhooks in flight at once; all of one record take the same lane, so they stay in order."""
WAITING_LIMIT = 100_000
"""Most webhooks that wait; beyond it they are dropped and counted, as after a real system's retention."""
TRIES = 6
FIRST_PAUSE_S = 0.1
REORDER_WAIT_S = 0.2
"""How long a webhook that is to come late waits for one to overtake it."""

Waiting = tuple[str, str, bytes]
"""Delivery id, URL, body."""


class Outbox:
    """Sends what `announce` is given to every subscriber.

    Args:
        scheme: signature scheme, a name in `connectors.webhook`.
        real: unix seconds, for signatures: the receiver's tolerance is about real time, whatever the clock says.
    """

    def __init__(self, scheme: str, faults: Faults, real: Callable[[], float] = time.time) -> None:
        self._scheme = scheme
        self._faults = faults
        self._real = real
        self._secrets: dict[str, str] = {}
        self._lanes: list[asyncio.Queue[Waiting]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._http: httpx.AsyncClient | None = None
        self._counts: Counter[str] = Counter()
        self._waiting = 0
        self._taken: list[bytes] = []

    def subscribe(self, url: str, secret: str) -> None:
        """Send to this URL from now on."""
        self._secrets[url] = secret
        if not self._tasks:
            self._http = http.client(allow_http=True, allow_private=True, timeout_s=10)
            self._lanes = [asyncio.Queue() for _ in range(LANES)]
            self._tasks = [asyncio.create_task(self._work(lane)) for lane in self._lanes]

    def unsubscribe(self) -> None:
        """Send nothing more, also not what waits."""
        self._secrets.clear()

    def announce(self, key: str, body: bytes) -> None:
        """Queue one webhook for every subscriber; `key` names the record it is about."""
        for url in self._secrets:
            path = urlsplit(url).path
            if self._waiting >= WAITING_LIMIT or self._faults.draw(("webhook-drop",), path):
                self._counts["dropped"] += 1
                continue
            waiting = (f"msg_{uuid.uuid4().hex}", url, body)
            lane = self._lanes[zlib.crc32(key.encode()) % LANES]
            self._put(lane, waiting)
            if self._faults.draw(("webhook-duplicate",), path):
                self._counts["duplicated"] += 1
                self._put(lane, waiting)

    def counts(self) -> dict[str, int]:
        """Webhooks taken by their receivers, dropped by fault or overflow, sent twice, given up, still waiting."""
        names = ("sent", "dropped", "duplicated", "reordered", "failed")
        return {name: self._counts[name] for name in names} | {"waiting": self._waiting}

    def taken(self, after: int, limit: int) -> list[Json]:
        """The bodies that receivers took, in the order in which they did, without the first `after`."""
        return [orjson.loads(body) for body in self._taken[after : after + limit]]

    def reset(self) -> None:
        """No subscriber, no counts."""
        self.unsubscribe()
        self._counts.clear()
        self._taken.clear()

    async def close(self) -> None:
        """Stop sending."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.aclose()

    def _put(self, lane: asyncio.Queue[Waiting], waiting: Waiting) -> None:
        self._waiting += 1
        lane.put_nowait(waiting)

    async def _work(self, lane: asyncio.Queue[Waiting]) -> None:
        while True:
            first = await lane.get()
            if self._faults.draw(("webhook-reorder",), urlsplit(first[1]).path):
                with contextlib.suppress(TimeoutError):
                    overtaking = await asyncio.wait_for(lane.get(), REORDER_WAIT_S)
                    self._counts["reordered"] += 1
                    await self._deliver(*overtaking)
            await self._deliver(*first)

    async def _deliver(self, delivery_id: str, url: str, body: bytes) -> None:
        for attempt in range(TRIES):
            secret = self._secrets.get(url)
            if secret is None or self._http is None:
                break
            now = datetime.fromtimestamp(self._real(), UTC)
            headers = {"content-type": "application/json", **webhook.sign(self._scheme, body, secret, delivery_id, now)}
            try:
                await http.exchange(self._http, "POST", url, content=body, headers=headers)
            except ConnectorError:
                await asyncio.sleep(FIRST_PAUSE_S * 2**attempt)
            else:
                self._counts["sent"] += 1
                self._taken.append(body)
                break
        else:
            self._counts["failed"] += 1
        self._waiting -= 1
