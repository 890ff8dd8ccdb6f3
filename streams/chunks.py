"""Chunks: what an agent gets from Kafka, and the books of what it has finished.

Kafka → `streams.transport` cuts each fetch into one chunk per partition → `streams.agents` merges the chunks that wait
and calls the handler → the chunk is acknowledged here → the commit position of its partition moves.

Pure: no Kafka, no Faust, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from schemas.problems import Problem

Headers = Sequence[tuple[str, bytes]]


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Record(Protocol):
    """One Kafka record, raw."""

    @property
    def offset(self) -> int:
        """Its place in the partition."""

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970, set by the producer."""

    @property
    def key(self) -> bytes | None:
        """As it was sent."""

    @property
    def value(self) -> bytes | None:
        """As it was sent; None for a tombstone."""

    @property
    def headers(self) -> Headers:
        """Names and values, in order."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbouring records of one partition.

    Args:
        topic: name of the topic.
        partition: number of the partition.
        first: the position from which reading went on: the `end` of the chunk before, or the stored position. Kafka may
            leave gaps (transaction markers, compaction), so the first record's offset can be higher.
        end: the position after the last record; what to store once the effect of the records is durable.
        records: never empty, in order of their offsets.
    """

    topic: str
    partition: int
    first: int
    end: int
    records: Sequence[Record]

    @property
    def at(self) -> Partition:
        """Where the chunk is from."""
        return Partition(self.topic, self.partition)


class Late(Exception):
    """The stored positions are not the ones these chunks go on from: another worker has done (some of) them.

    Args:
        positions: the stored next offset of each partition of the call; None where no row is stored.
    """

    def __init__(self, positions: Mapping[Partition, int | None]) -> None:
        super().__init__(", ".join(f"{p.topic}/{p.partition}: {n}" for p, n in sorted(positions.items())))
        self.positions = dict(positions)


def remaining(chunks: Iterable[Chunk], positions: Mapping[Partition, int | None]) -> list[Chunk]:
    """The parts of `chunks` that lie at or after the stored positions.

    Raises:
        Problem: `offset_moved_back` when a stored position is before the chunk: somebody wound it back, and the worker
            must start again from there.
    """
    left, reached = [], dict(positions)
    for chunk in chunks:
        position = reached.get(chunk.at, chunk.first)
        if position is None or position < chunk.first:
            raise Problem(
                "offset_moved_back",
                f"the stored position of {chunk.topic}/{chunk.partition} is {position}, before {chunk.first}",
                "Nothing to do: the worker starts again from the stored position.",
            )
        records = chunk.records if position == chunk.first else [r for r in chunk.records if r.offset >= position]
        if records:
            left.append(replace(chunk, first=position, records=records))
        reached[chunk.at] = max(position, chunk.end)
    return left


@dataclass(slots=True)
class Delivery:
    """A chunk on its way: in the books until it and everything before it is acknowledged."""

    chunk: Chunk
    size: int
    acked: bool = False
    live: bool = True


@dataclass(frozen=True, slots=True)
class Gap:
    """Records between `position` and `first` are missing: to be explained before anything goes on."""

    position: int
    first: int


class Ledger:
    """The books of one consumer: read position, chunks in flight and commit position of each partition.

    The commit position is the end of the longest acknowledged run of chunks, so an unacknowledged chunk holds back all
    that follow it in its partition.

    Args:
        max_records: with this many records in flight, nothing more is read.
        max_bytes: likewise for the bytes of their keys and values.
    """

    def __init__(self, *, max_records: int = 20_000, max_bytes: int = 64 * 2**20) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._positions: dict[Partition, int] = {}
        self._deliveries: dict[Partition, deque[Delivery]] = {}
        self._verified: dict[Partition, Gap] = {}
        self.records = 0
        """Records delivered and not acknowledged."""
        self.bytes = 0
        """Bytes delivered and not acknowledged."""

    def open(self, at: Partition, position: int) -> None:
        """Read `at` from `position`; whatever was in flight is forgotten and will be delivered again."""
        self.close(at)
        self._positions[at] = position
        self._deliveries[at] = deque()

    def close(self, at: Partition) -> None:
        """The partition is no longer ours."""
        for delivery in self._deliveries.pop(at, ()):
            delivery.live = False
            if not delivery.acked:
                self._left(delivery)
        self._positions.pop(at, None)
        self._verified.pop(at, None)

    def partitions(self) -> list[Partition]:
        """The partitions that are open."""
        return list(self._positions)

    def position(self, at: Partition) -> int | None:
        """The next offset to read; None for a partition that is not open."""
        return self._positions.get(at)

    def admit(self, at: Partition, records: Sequence[Record], size: int) -> Delivery | Gap | None:
        """Enter freshly read records.

        Returns:
            The delivery; a Gap when records are missing before them; None when there is nothing new in them.
        """
        position = self._positions.get(at)
        if position is None or not records or records[-1].offset < position:
            return None
        first = records[0].offset
        if first < position:
            records = [record for record in records if record.offset >= position]
        elif first > position and self._verified.pop(at, None) != Gap(position, first):
            return Gap(position, first)
        end = records[-1].offset + 1
        delivery = Delivery(Chunk(at.topic, at.partition, position, end, records), size)
        self._positions[at] = end
        self._deliveries[at].append(delivery)
        self.records += len(records)
        self.bytes += size
        return delivery

    def expect(self, at: Partition, gap: Gap) -> None:
        """The gap was looked into: if a second reading from its position meets it again, it is real."""
        self._verified[at] = gap

    def ack(self, delivery: Delivery) -> None:
        """The effects of the chunk are durable. Of a chunk that was forgotten meanwhile: nothing."""
        if delivery.acked:
            return
        delivery.acked = True
        if delivery.live:
            self._left(delivery)

    def committable(self, at: Partition) -> int | None:
        """The new commit position, or None when it has not moved since the last call."""
        deliveries, position = self._deliveries.get(at), None
        while deliveries and deliveries[0].acked:
            position = deliveries.popleft().chunk.end
        return position

    def settled(self, at: Partition) -> int:
        """The position before which everything is acknowledged; the read position when nothing is in flight."""
        for delivery in self._deliveries.get(at, ()):
            if not delivery.acked:
                return delivery.chunk.first
        return self._positions[at]

    @property
    def full(self) -> bool:
        """Enough is in flight."""
        return self.records >= self._max_records or self.bytes >= self._max_bytes

    def _left(self, delivery: Delivery) -> None:
        self.records -= len(delivery.chunk.records)
        self.bytes -= delivery.size
