"""The consumer's waiting for room and its books, on a consumer that has no Kafka."""

import asyncio
from types import SimpleNamespace

import pytest

from schemas.problems import Problem
from streams.chunks import Delivery, Ledger, Partition
from streams.transport import ChunkConsumer, check_position

pytestmark = pytest.mark.timeout(10)
AT = Partition("t", 0)


class Bare(ChunkConsumer):
    """Only what acknowledging and waiting use."""

    flow_active = True
    should_stop = False  # type: ignore[assignment]

    def __init__(self) -> None:
        self._room = None
        self._unacked_messages = set()  # type: ignore[assignment]
        self._waiting_for_ack = None
        self.ledger = Ledger(max_records=10)
        self.ledger.open(AT, 0)


class Message(SimpleNamespace):
    __hash__ = object.__hash__


def deliver(consumer: Bare, first: int, end: int) -> Message:
    entered = consumer.ledger.admit(AT, [SimpleNamespace(offset=n) for n in range(first, end)], end - first)
    assert isinstance(entered, Delivery)
    return Message(acked=False, value=entered)


async def test_an_acknowledgement_always_wakes_the_reader() -> None:
    consumer = Bare()
    for first in range(0, 2000, 10):
        message = deliver(consumer, first, first + 10)
        waiting = asyncio.create_task(consumer._wait_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert consumer.ack(message)
        async with asyncio.timeout(0.2):  # the fallback looks again after a second: that would be a lost wake-up
            await waiting


async def test_a_reader_that_is_not_yet_waiting_sees_the_room() -> None:
    consumer = Bare()
    message = deliver(consumer, 0, 10)
    consumer.ack(message)
    async with asyncio.timeout(0.2):
        await consumer._wait_room()


async def test_stopping_the_flow_wakes_the_reader() -> None:
    consumer = Bare()
    consumer.can_resume_flow, consumer.suspend_flow = asyncio.Event(), asyncio.Event()
    deliver(consumer, 0, 10)
    waiting = asyncio.create_task(consumer._wait_room())
    await asyncio.sleep(0)
    consumer.stop_flow()
    async with asyncio.timeout(0.2):
        await waiting


async def test_a_message_is_acknowledged_once() -> None:
    consumer = Bare()
    message = deliver(consumer, 0, 10)
    assert consumer.ack(message)
    assert not consumer.ack(message)
    assert consumer._new_offset(AT) == 10


@pytest.mark.parametrize(
    ("position", "code"), [(9, "offset_lost"), (10, None), (15, None), (20, None), (21, "offset_ahead")]
)
def test_positions_outside_the_log_are_refused(position: int, code: str | None) -> None:
    if code is None:
        check_position(AT, position, 10, 20)
        return
    with pytest.raises(Problem) as raised:
        check_position(AT, position, 10, 20)
    assert raised.value.code == code
