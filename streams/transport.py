"""Faust's Kafka consumer, changed to deliver chunks: one event per fetch and partition instead of one per record.

Stock Faust costs about 60 µs per record and commits past records that are in flight. Here (1) `_drain_messages` hands
over the records of one fetch as one event; (2) the commit position comes from `chunks.Ledger`, the end of the longest
acknowledged run; (3) reading stops while enough is in flight; (4) after every rebalance reading goes on from the
positions that Postgres holds, and a position the log no longer has (or never had) ends the process; (5) a gap in the
offsets is read a second time before it is believed. Changelog topics of tables keep delivery per record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import faust
import structlog
from aiokafka.errors import ConsumerStoppedError  # type: ignore[import-untyped]
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, AppT, ConsumerMessage, EventT, Message

from schemas.problems import Problem
from streams.agents import Runner
from streams.chunks import Delivery, Gap, Ledger, Partition, Record

log = structlog.get_logger(__name__)

LoadOffsets = Callable[[Sequence[Partition]], Awaitable[Mapping[Partition, int]]]
"""The stored next offsets of the given partitions; those without one are left out."""

SETTLE_S = 5.0
"""How long a rebalance waits for running handler calls."""


class ChunkConsumer(driver.Consumer):
    """A consumer that delivers chunks. Its books are in `ledger`."""

    logger = logging.getLogger("faust.chunks")  # mode would log the service's comings and goings under our name

    def __init__(self, transport: ChunkTransport, *args: Any, **kwargs: Any) -> None:
        super().__init__(transport, *args, **kwargs)
        self._edge = transport
        self._room: asyncio.Future[None] | None = None
        self.ledger = Ledger()

    # -- acknowledging and committing ---------------------------------------------------------------------------------

    def ack(self, message: Message) -> bool:
        """Enter the acknowledgement and wake the reader, which may be waiting for room."""
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        delivery: Any = message.value  # typed as bytes; a chunk's message carries its delivery
        if isinstance(delivery, Delivery):
            self.ledger.ack(delivery)
        self._wake()
        if self._waiting_for_ack is not None and not self._waiting_for_ack.done():
            self._waiting_for_ack.set_result(None)
        return True

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Any:
        open_ = (TP(at.topic, at.partition) for at in self.ledger.partitions())
        return (tp for tp in open_ if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        return self.ledger.committable(Partition(tp.topic, tp.partition))

    # -- rebalances ---------------------------------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop reading, let running handler calls end, commit, and only then give the partitions away."""
        self.stop_flow()
        await self.settle(SETTLE_S)
        if not self.should_stop:
            await self.commit()
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self.ledger.close(Partition(tp.topic, tp.partition))

    async def settle(self, timeout_s: float) -> None:
        """Drop what no handler call has begun and wait for those that run."""
        for runner in self._edge.runners:
            runner.drop()
        for runner in self._edge.runners:
            if not await runner.settle(timeout_s):
                log.warning("handler_not_waited_for", agent=runner.spec.name, cause=runner.waiting_for or "slow")

    def stop_flow(self) -> None:
        """Stop reading; a reader that waits for room looks again."""
        super().stop_flow()
        self._wake()

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Go to the stored positions. Faust's recovery calls this after every assignment, before reading resumes."""
        committed = {TP(*tp): offset for tp, offset in dict(await super().seek_to_committed()).items()}
        mine = {tp: offset for tp, offset in committed.items() if tp.topic not in self.app.tables.changelog_topics}
        if not mine:
            return committed
        starts, ends = await self.earliest_offsets(*mine), await self.highwaters(*mine)
        stored_topics = self._edge.stored_topics
        stored = await self._edge.load_offsets([Partition(*tp) for tp in mine if tp.topic in stored_topics])
        for tp, offset in mine.items():
            at = Partition(*tp)
            kept = stored.get(at) if tp.topic in stored_topics else offset
            position = starts[tp] if kept is None or kept < 0 else kept
            check_position(at, position, starts[tp], ends[tp])
            await self._seek_in_thread(tp, position)
            self.ledger.open(at, position)
            committed[tp] = position
        return committed

    async def _seek_in_thread(self, tp: TP, position: int) -> None:
        # aiokafka's books belong to the consumer's thread; from here it could seek in the middle of a fetch
        async def seek() -> None:
            self._thread.seek(driver.ensure_aiokafka_TP(tp), position)

        await self._thread.call_thread(seek)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _wait_room(self) -> None:
        while self.ledger.full and self.flow_active and not self.should_stop:
            # made anew each time, with no await between the look and the wait: no wake-up can fall in between
            self._room = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._room], timeout=1.0)
        self._room = None

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):  # noqa: SLF001  as Faust's own loop
                await self._wait_room()
                generation = self.app.consumer_generation_id
                batches, _ = await self._wait_next_records(1.0)
                if not batches or self.should_stop:
                    await asyncio.sleep(0)
                    continue
                # what a rebalance interrupts is read again: recovery seeks before reading resumes
                await self.wait_first(self._deliver(batches, generation), self.suspend_flow.wait())
        except (ConsumerStoppedError, asyncio.CancelledError):
            if not self.transport.app.should_stop:
                raise

    async def _deliver(self, batches: Mapping[TP, Sequence[Record]], generation: int) -> None:
        for tp, records in batches.items():
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if tp.topic in self.app.tables.changelog_topics:
                await self._deliver_each(tp, records)
            elif records:
                await self._deliver_chunk(tp, records, generation)

    async def _deliver_each(self, tp: TP, records: Sequence[Record]) -> None:
        for n, record in enumerate(records):
            await self.callback(self._to_message(tp, record))
            self._read_offset[tp] = record.offset
            if not n % 100:
                await asyncio.sleep(0)

    async def _deliver_chunk(self, tp: TP, records: Sequence[Record], generation: int) -> None:
        at = Partition(tp.topic, tp.partition)
        size = sum(len(record.value or b"") + len(record.key or b"") for record in records)
        entered = self.ledger.admit(at, records, size)
        if isinstance(entered, Gap):
            await self._look_into(tp, at, entered)
        elif entered is not None:
            last = records[-1]
            value: Any = entered
            message = ConsumerMessage(
                tp.topic, tp.partition, last.offset, last.timestamp / 1000.0, 0,
                None, None, value, None, 0, 0, tp, generation_id=generation,
            )  # fmt: skip
            self._read_offset[tp] = last.offset
            await self.callback(message)

    async def _look_into(self, tp: TP, at: Partition, gap: Gap) -> None:
        """A gap is a transaction marker, compaction, a late fetch from before a seek, or loss: read it once more."""
        starts = await self.earliest_offsets(tp)
        try:
            check_position(at, gap.position, starts[tp], gap.first)
        except Problem as lost:
            await self.crash(lost)
            return
        log.info("gap_read_again", topic=at.topic, partition=at.partition, position=gap.position, first=gap.first)
        self.ledger.expect(at, gap)
        await self._seek_in_thread(tp, gap.position)


def check_position(at: Partition, position: int, start: int, end: int) -> None:
    """Refuse a position outside the log.

    Raises:
        Problem: `offset_lost` when the log begins later (records were removed unread); `offset_ahead` when it ends
            before (the topic was made anew, or Kafka lost records).
    """
    where = f"{at.topic}/{at.partition}"
    if position < start:
        raise Problem(
            "offset_lost",
            f"{where}: the next record to read is {position}, but the topic begins at {start}",
            "Records were removed before they were read. Run `syncline doctor`; it names the way to catch up.",
        )
    if position > end:
        raise Problem(
            "offset_ahead",
            f"{where}: the next record to read is {position}, but the topic ends at {end}",
            "The topic was made anew or lost records. Run `syncline doctor`; it names the way to catch up.",
        )


class ChunkTransport(driver.Transport):
    """The transport of one app: knows the app's runners and where their positions are kept.

    Args:
        load_offsets: reads the stored positions.
    """

    Consumer = ChunkConsumer

    def __init__(self, url: list[Any], app: AppT, *, load_offsets: LoadOffsets) -> None:
        super().__init__(url, app)
        self.load_offsets = load_offsets
        self.stored_topics: set[str] = set()
        self.runners: list[Runner] = []


class Undecoded(faust.Schema[Any, Any]):
    """A schema that leaves the event's value as it is: a `Delivery`."""

    def compile(self, app: AppT, **_: Any) -> Any:
        """The function that Faust calls for each message."""

        async def decode(message: Message, *, propagate: bool = False) -> EventT[Any]:
            del propagate
            return app.create_event(message.key, message.value, message.headers, message)

        return decode
