"""How far capture has brought changes into Kafka: what the planner must have read before anything counts as missed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypedDict

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streams import watchdog
from streams.chunks import Partition

_log = structlog.get_logger("outbound.sweeper")


class End(TypedDict):
    """The position after the last record of a partition; one without records is left out."""

    topic: str
    partition: int
    at: int


Ends = Callable[[], Awaitable[Sequence[End] | None]]
"""Asks for all ends; None when nobody answers."""


def ends_of(bootstrap: str, topics: Sequence[str], partitions: int) -> Ends:
    """Asks Kafka for the ends of these topics, which have so many partitions each."""
    wanted = [Partition(topic, number) for topic in topics for number in range(partitions)]
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    async def ends() -> Sequence[End] | None:
        try:
            found = await asyncio.to_thread(watchdog.ends, admin, wanted)
        except KafkaException as error:
            _log.warning("sweep_without_kafka", error=error.args[0].name() if error.args else "")
            return None
        return [End(topic=at.topic, partition=at.partition, at=end) for at, end in found.items() if end > 0]

    return ends
