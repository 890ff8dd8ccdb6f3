from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.problems import Problem
from streams.chunks import Chunk, Delivery, Gap, Ledger, Partition, remaining

AT = Partition("t", 0)
OTHER = Partition("t", 1)


@dataclass(frozen=True)
class R:
    offset: int
    timestamp: int = 0
    key: bytes | None = b"k"
    value: bytes | None = b"v"
    headers: list = field(default_factory=list)


def records(first: int, end: int) -> list[R]:
    return [R(offset) for offset in range(first, end)]


def chunk(first: int, end: int, at: Partition = AT) -> Chunk:
    return Chunk(at.topic, at.partition, first, end, records(first, end))


def admitted(ledger: Ledger, first: int, end: int, at: Partition = AT) -> Delivery:
    entered = ledger.admit(at, records(first, end), end - first)
    assert isinstance(entered, Delivery)
    return entered


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger(max_records=100, max_bytes=1000)
    made.open(AT, 0)
    return made


def test_an_unacknowledged_chunk_holds_back_the_commit_position(ledger: Ledger) -> None:
    first, second, third = (admitted(ledger, n, n + 10) for n in (0, 10, 20))
    ledger.ack(third)
    ledger.ack(second)
    assert ledger.committable(AT) is None
    assert ledger.settled(AT) == 0
    ledger.ack(first)
    assert ledger.committable(AT) == 30
    assert ledger.committable(AT) is None
    assert ledger.settled(AT) == 30


def test_partitions_commit_apart(ledger: Ledger) -> None:
    ledger.open(OTHER, 5)
    admitted(ledger, 0, 10)
    ledger.ack(admitted(ledger, 5, 7, OTHER))
    assert ledger.committable(AT) is None
    assert ledger.committable(OTHER) == 7


def test_records_read_twice_are_delivered_once(ledger: Ledger) -> None:
    admitted(ledger, 0, 10)
    assert ledger.admit(AT, records(0, 10), 10) is None
    again = admitted(ledger, 5, 15)
    assert (again.chunk.first, again.chunk.end) == (10, 15)
    assert [r.offset for r in again.chunk.records] == list(range(10, 15))


def test_a_gap_is_believed_at_the_second_reading_only(ledger: Ledger) -> None:
    gap = ledger.admit(AT, records(5, 10), 5)
    assert gap == Gap(0, 5)
    assert ledger.admit(AT, records(5, 10), 5) == gap, "nobody has looked into it yet"
    ledger.expect(AT, Gap(0, 5))
    entered = admitted(ledger, 5, 10)
    assert (entered.chunk.first, entered.chunk.end) == (0, 10), "it goes on from before the gap"


def test_a_gap_that_the_second_reading_fills_was_a_late_fetch(ledger: Ledger) -> None:
    assert ledger.admit(AT, records(5, 10), 5) == Gap(0, 5)
    ledger.expect(AT, Gap(0, 5))
    assert admitted(ledger, 0, 10).chunk.first == 0


def test_late_acknowledgements_of_forgotten_chunks_change_nothing(ledger: Ledger) -> None:
    old = admitted(ledger, 0, 10)
    ledger.open(AT, 0)
    new = admitted(ledger, 0, 10)
    ledger.ack(old)
    assert ledger.committable(AT) is None
    assert ledger.records == 10
    ledger.ack(new)
    assert ledger.committable(AT) == 10
    assert (ledger.records, ledger.bytes) == (0, 0)


def test_a_closed_partition_takes_nothing_and_commits_nothing(ledger: Ledger) -> None:
    delivery = admitted(ledger, 0, 10)
    ledger.close(AT)
    assert not delivery.live
    assert ledger.admit(AT, records(10, 20), 10) is None
    assert ledger.committable(AT) is None
    assert (ledger.records, ledger.bytes) == (0, 0)


def test_it_is_full_by_records_or_by_bytes(ledger: Ledger) -> None:
    delivery = admitted(ledger, 0, 100)
    assert ledger.full
    ledger.ack(delivery)
    assert not ledger.full
    assert isinstance(ledger.admit(AT, records(100, 101), 1000), Delivery)
    assert ledger.full


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_in_whatever_order_chunks_end_the_position_is_the_end_of_the_first_run(sizes: list[int], random) -> None:
    ledger = Ledger()
    ledger.open(AT, 0)
    deliveries, position = [], 0
    for size in sizes:
        deliveries.append(admitted(ledger, position, position + size))
        position += size
    committed = 0
    for delivery in random.sample(deliveries, len(deliveries)):
        ledger.ack(delivery)
        run_end = 0
        for each in deliveries:
            if not each.acked:
                break
            run_end = each.chunk.end
        new = ledger.committable(AT)
        committed = new if new is not None else committed
        assert committed == run_end
    assert (ledger.records, ledger.bytes) == (0, 0)


@pytest.mark.parametrize(
    ("stored", "left"),
    [
        (0, [(0, 10), (10, 20)]),
        (5, [(5, 10), (10, 20)]),
        (10, [(10, 20)]),
        (15, [(15, 20)]),
        (20, []),
        (25, []),
    ],
)
def test_what_is_done_elsewhere_is_skipped(stored: int, left: list[tuple[int, int]]) -> None:
    rest = remaining([chunk(0, 10), chunk(10, 20)], {AT: stored})
    assert [(c.first, c.end) for c in rest] == left
    assert [r.offset for c in rest for r in c.records] == list(range(stored, 20))


def test_other_partitions_stay_whole() -> None:
    rest = remaining([chunk(0, 10), chunk(3, 6, OTHER)], {AT: 10, OTHER: 3})
    assert [(c.at, c.first) for c in rest] == [(OTHER, 3)]


@pytest.mark.parametrize("stored", [4, None])
def test_a_position_wound_back_ends_the_worker(stored: int | None) -> None:
    with pytest.raises(Problem, match="offset_moved_back"):
        remaining([chunk(5, 10)], {AT: stored})
