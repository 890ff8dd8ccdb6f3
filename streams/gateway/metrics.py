"""What the gateway tells Prometheus of the database: queues, dead letters, totals, books, budgets, capture.

`Exposition` reads in parts, each no more often than it must be: results are kept for seconds, and for longer where
reading takes long, so that scraping never takes more than a small share of one database connection. A part that cannot
be read keeps what it had, and `syncline_metrics_age_seconds` tells how old that is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
import structlog
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from streams.gateway import measures
from streams.gateway.measures import FAMILIES, Samples

CONNECT_S = 2.0
STATEMENT_S = 5
SHARE = 20
"""What took a second to read is read again after so many seconds."""
FORGET_S = 300.0

READING = f"""
set transaction isolation level repeatable read read only;
set local statement_timeout = '{STATEMENT_S}s';
set local enable_seqscan = on; set local enable_hashjoin = on; set local enable_mergejoin = on
"""
"""Statements over whole tables want the planner that the pool's options switch off."""

_log = structlog.get_logger("gateway.metrics")

Read = Callable[[AsyncConnection[Any], datetime], Awaitable[Samples]]


@dataclass(slots=True)
class Part:
    """Something that is read at once.

    Args:
        every_s: how long a result is good for, at least.
    """

    name: str
    every_s: float
    read: Read
    samples: Samples = field(default_factory=dict)
    read_at: float | None = None
    due_at: float = 0.0


def parts() -> list[Part]:
    """What there is to read."""
    return [
        Part("queues", 5, measures.queues),
        Part("totals", 5, measures.totals),
        Part("budgets", 5, measures.budget_use),
        Part("capture", 5, measures.capture_state),
        Part("books", 60, measures.books),
    ]


class Exposition:
    """The text for Prometheus.

    Args:
        pool: of the role `app`, in autocommit.
        monotonic: seconds of a steady clock.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        read: Sequence[Part] | None = None,
    ) -> None:
        self._pool = pool
        self._now = now
        self._monotonic = monotonic
        self._parts = parts() if read is None else read
        self._turn = asyncio.Lock()

    async def text(self) -> bytes:
        """Everything that is known now, read afresh where that is due."""
        async with self._turn:
            for part in self._parts:
                if self._monotonic() >= part.due_at:
                    await self._refresh(part)
            return generate_latest(_Families(self._families()))

    async def _refresh(self, part: Part) -> None:
        began = self._monotonic()
        try:
            async with self._pool.connection(timeout=CONNECT_S) as conn, conn.transaction():
                await conn.execute(READING, prepare=False)
                part.samples = await part.read(conn, self._now())
            part.read_at = self._monotonic()
        except (psycopg.Error, PoolTimeout) as error:
            _log.warning("metrics_unread", part=part.name, error=type(error).__name__)
        done = self._monotonic()
        part.due_at = done + max(part.every_s, SHARE * (done - began))
        if part.read_at is None or done - part.read_at > FORGET_S:
            part.samples = {}

    def _families(self) -> Iterable[Metric]:
        yield from _made(sample for part in self._parts for sample in part.samples.items())
        age = GaugeMetricFamily(measures.AGE, "How old what is told here is, by part", labels=["part"])
        for part in self._parts:
            if part.read_at is not None:
                age.add_metric([part.name], self._monotonic() - part.read_at)
        yield age


def _made(samples: Iterable[tuple[str, Mapping[tuple[str, ...], float]]]) -> Iterable[Metric]:
    for name, values in samples:
        family = FAMILIES[name]
        kind = CounterMetricFamily if family.counter else GaugeMetricFamily
        made = kind(name, family.help, labels=family.labels)
        for labels, value in values.items():
            made.add_metric(labels, value)
        yield made


@dataclass(frozen=True, slots=True)
class _Families(Collector):
    """What `generate_latest` takes."""

    families: Iterable[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families
