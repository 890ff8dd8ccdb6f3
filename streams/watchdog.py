"""Ends a worker whose agents stand still although there is work: a consumer can stop without any error (hazard 20).

The end of each partition is asked for over a connection of its own, so a dead consumer cannot hide its lag.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import structlog
from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # its stubs leave it out

from schemas.problems import Problem
from streams.agents import Runner
from streams.chunks import Partition
from streams.transport import ChunkConsumer

log = structlog.get_logger(__name__)

STALL_S = 30.0
LOOK_EVERY_S = 5.0


def ends(admin: AdminClient, partitions: Sequence[Partition], *, timeout_s: float = 5.0) -> dict[Partition, int]:
    """The position after the last record of each partition; blocking. Raises KafkaException."""
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = admin.list_offsets(
        {TopicPartition(at.topic, at.partition): latest for at in partitions},
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=timeout_s,
    )
    return {Partition(at.topic, at.partition): answer.result(timeout_s).offset for at, answer in asked.items()}


def lagging(positions: Mapping[Partition, int], end: Mapping[Partition, int]) -> dict[Partition, int]:
    """How many offsets each partition is behind; those that are not are left out."""
    return {at: end[at] - position for at, position in positions.items() if end.get(at, position) > position}


class Watchdog:
    """Watches one app.

    Args:
        consumer: the app's consumer.
        runners: the app's agents.
        bootstrap: `host:port` of a broker.
    """

    def __init__(self, consumer: ChunkConsumer, runners: Sequence[Runner], bootstrap: str) -> None:
        self._consumer = consumer
        self._runners = runners
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        self.lag: dict[Partition, int] = {}
        """As of the last look."""

    async def run(self, *, stall_s: float = STALL_S, every_s: float = LOOK_EVERY_S) -> None:
        """Look for ever.

        Raises:
            Problem: `stalled` after `stall_s` seconds with lag and without progress.
        """
        marks, since = self._marks(), time.monotonic()
        while True:
            await asyncio.sleep(every_s)
            now = time.monotonic()
            if (seen := self._marks()) != marks or self._waits() or not await self._behind():
                marks, since = seen, now
            elif now - since >= stall_s:
                raise Problem(
                    "stalled",
                    f"{sum(self.lag.values())} records wait, nothing was handled for {now - since:.0f} s",
                    "Nothing to do: the worker ends so that it is started again.",
                )

    def _marks(self) -> tuple[int, ...]:
        return tuple(runner.handled for runner in self._runners)

    def _waits(self) -> bool:
        return any(runner.waiting_for for runner in self._runners)

    async def _behind(self) -> bool:
        ledger = self._consumer.ledger
        positions = {at: ledger.settled(at) for at in ledger.partitions()}
        if not positions:
            # with more workers than partitions some have none; a rebalance that does not end is a stall
            app = self._consumer.app
            return bool(app.rebalancing and not app.in_recovery)
        try:
            self.lag = lagging(positions, await asyncio.to_thread(ends, self._admin, list(positions)))
        except (KafkaException, TimeoutError) as error:
            # Kafka itself is away: ending would only bring the same wait again
            log.warning("waiting_for", what="kafka", cause=str(error))
            return False
        return bool(self.lag)
