"""The webhooks an emulated system sends: signed, in order per record, tried again, with the faults of real ones."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
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


@dataclass(slots=True)
class Subscriber:
    """Somebody who hears of changes.

    Args:
        types: record types it wants; empty for all.
        patience: failed tries in a row after which nothing is sent any more; None: never.
        failed: so many there were.
    """

    id: str
    url: str
    secret: str
    types: frozenset[str] = frozenset()
    patience: int | None = None
    failed: int = 0
    active: bool = True


Waiting = tuple[str, str, bytes]
"""Delivery id, id of the subscriber, body."""


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
        self._subscribers: dict[str, Subscriber] = {}
        self._lanes: list[asyncio.Queue[Waiting]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._http: httpx.AsyncClient | None = None
        self._counts: Counter[str] = Counter()
        self._waiting = 0
        self._taken: list[bytes] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        """Send to it from now on, instead of another one of its id."""
        self._subscribers[subscriber.id] = subscriber
        if not self._tasks:
            self._http = http.client(allow_http=True, allow_private=True, timeout_s=10)
            self._lanes = [asyncio.Queue() for _ in range(LANES)]
            self._tasks = [asyncio.create_task(self._work(lane)) for lane in self._lanes]

    def subscribers(self) -> Collection[Subscriber]:
        """All, those that are not sent to any more too."""
        return self._subscribers.values()

    def unsubscribe(self, subscriber_id: str) -> bool:
        """Send it nothing more, also not what waits; False when there is none."""
        return self._subscribers.pop(subscriber_id, None) is not None

    def unsubscribe_all(self) -> None:
        """Send nothing more, also not what waits."""
        self._subscribers.clear()

    def announce(self, key: str, body: bytes) -> None:
        """Queue one webhook for every subscriber; `key` names the record it is about, TYPE/ID."""
        kind = key.partition("/")[0]
        for subscriber in self._subscribers.values():
            if not subscriber.active or (subscriber.types and kind not in subscriber.types):
                continue
            path = urlsplit(subscriber.url).path
            if self._waiting >= WAITING_LIMIT or self._faults.draw(("webhook-drop",), path):
                self._counts["dropped"] += 1
                continue
            waiting = (f"msg_{uuid.uuid4().hex}", subscriber.id, body)
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
        self.unsubscribe_all()
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
            if self._faults.draw(("webhook-reorder",), self._path(first[1])):
                with contextlib.suppress(TimeoutError):
                    overtaking = await asyncio.wait_for(lane.get(), REORDER_WAIT_S)
                    self._counts["reordered"] += 1
                    await self._deliver(*overtaking)
            await self._deliver(*first)

    def _path(self, subscriber_id: str) -> str:
        known = self._subscribers.get(subscriber_id)
        return urlsplit(known.url).path if known else ""

    async def _deliver(self, delivery_id: str, subscriber_id: str, body: bytes) -> None:
        for attempt in range(TRIES):
            to = self._subscribers.get(subscriber_id)
            if to is None or not to.active or self._http is None:
                break
            now = datetime.fromtimestamp(self._real(), UTC)
            signed = webhook.sign(self._scheme, body, to.secret, delivery_id, now)
            headers = {"content-type": "application/json", **signed}
            try:
                await http.exchange(self._http, "POST", to.url, content=body, headers=headers)
            except ConnectorError:
                to.failed += 1
                to.active = to.patience is None or to.failed < to.patience
                await asyncio.sleep(FIRST_PAUSE_S * 2**attempt)
            else:
                to.failed = 0
                self._counts["sent"] += 1
                self._taken.append(body)
                break
        else:
            self._counts["failed"] += 1
        self._waiting -= 1
