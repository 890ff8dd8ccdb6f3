import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import psycopg
import pytest

from schemas.problems import Problem
from streams import agents
from streams.agents import AgentSpec, Runner, Waiting
from streams.chunks import Chunk, Late, Partition

pytestmark = pytest.mark.timeout(10)


def chunk(first: int, end: int) -> Chunk:
    return Chunk("t", 0, first, end, [SimpleNamespace(offset=offset) for offset in range(first, end)])


Handler = Callable[[list[Chunk]], Awaitable[None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(agents, "LONGEST_DELAY_S", 0.002)


class Bench:
    def __init__(self, handler: Handler, merge: int = 5000) -> None:
        self.runner = Runner(AgentSpec("a.b", ("t",), handler), merge_records=merge)
        self.acked: list[int] = []
        self.ours = True

    def put(self, *chunks: Chunk) -> None:
        for each in chunks:
            self.runner.put(Waiting(each, lambda e=each: self.acked.append(e.end), lambda: self.ours))

    async def until(self, condition: Callable[[], bool]) -> None:
        working = asyncio.create_task(self.runner.run())
        try:
            async with asyncio.timeout(3):
                while not condition():
                    await asyncio.sleep(0.001)
                    if working.done():
                        working.result()
        finally:
            working.cancel()


async def test_all_that_waits_is_merged_into_one_call() -> None:
    calls: list[list[int]] = []

    async def handler(chunks: list[Chunk]) -> None:
        calls.append([c.end for c in chunks])

    bench = Bench(handler, merge=25)
    bench.put(*(chunk(n, n + 10) for n in range(0, 50, 10)))
    await bench.until(lambda: len(bench.acked) == 5)
    assert calls == [[10, 20, 30], [40, 50]], "a call ends with the chunk that fills it"


async def test_what_arrives_during_a_call_waits_for_the_next() -> None:
    calls: list[list[int]] = []

    async def handler(chunks: list[Chunk]) -> None:
        if not calls:
            bench.put(chunk(10, 20), chunk(20, 30))
        calls.append([c.end for c in chunks])

    bench = Bench(handler)
    bench.put(chunk(0, 10))
    await bench.until(lambda: len(bench.acked) == 3)
    assert calls == [[10], [20, 30]]


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("down"),
        psycopg.errors.DeadlockDetected("deadlock"),
        psycopg.InterfaceError("the connection is closed"),
        ConnectionResetError(),
        Problem("registry_unreachable", "down"),
    ],
)
async def test_what_may_pass_is_tried_again_without_acknowledging(error: Exception) -> None:
    tries = 0

    async def handler(chunks: list[Chunk]) -> None:
        nonlocal tries
        tries += 1
        assert not bench.acked
        if tries < 4:
            raise error

    bench = Bench(handler)
    bench.put(chunk(0, 10))
    await bench.until(lambda: bool(bench.acked))
    assert tries == 4
    assert bench.runner.waiting_for == ""


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), psycopg.errors.UndefinedTable("x")])
async def test_anything_else_ends_it_without_acknowledging(error: Exception) -> None:
    async def handler(chunks: list[Chunk]) -> None:
        raise error

    bench = Bench(handler)
    bench.put(chunk(0, 10))
    with pytest.raises(Problem, match="handler_failed"):
        await bench.until(lambda: False)
    assert not bench.acked


async def test_the_cause_of_a_failure_holds_no_values() -> None:
    assert "Ann" not in agents.cause(ValueError("no such name: Ann"))
    assert "Ann" not in agents.cause(psycopg.errors.UniqueViolation("Key (name)=(Ann) already exists"))


async def test_a_late_worker_skips_what_is_done_and_does_the_rest() -> None:
    seen: list[list[tuple[int, int]]] = []

    async def handler(chunks: list[Chunk]) -> None:
        seen.append([(c.first, c.end) for c in chunks])
        if len(seen) == 1:
            raise Late({Partition("t", 0): 15})

    bench = Bench(handler)
    bench.put(chunk(0, 10), chunk(10, 20))
    await bench.until(lambda: len(bench.acked) == 2)
    assert seen == [[(0, 10), (10, 20)], [(15, 20)]]


async def test_a_late_worker_whose_work_is_all_done_acknowledges_it() -> None:
    calls = 0

    async def handler(chunks: list[Chunk]) -> None:
        nonlocal calls
        calls += 1
        raise Late({Partition("t", 0): 10})

    bench = Bench(handler)
    bench.put(chunk(0, 10))
    await bench.until(lambda: bench.acked == [10])
    assert calls == 1


async def test_chunks_of_lost_partitions_are_neither_handled_nor_acknowledged() -> None:
    async def handler(chunks: list[Chunk]) -> None:
        raise AssertionError

    bench = Bench(handler)
    bench.ours = False
    bench.put(chunk(0, 10))
    await bench.until(lambda: not bench.runner.queued)
    assert not bench.acked


async def test_a_retry_ends_when_its_partitions_are_gone() -> None:
    async def handler(chunks: list[Chunk]) -> None:
        bench.ours = False
        raise psycopg.OperationalError("down")

    bench = Bench(handler)
    bench.put(chunk(0, 10))
    await bench.until(lambda: not bench.ours and not bench.runner.waiting_for)
    assert not bench.acked


async def test_settling_waits_for_the_running_call_and_drops_the_rest() -> None:
    started, finish = asyncio.Event(), asyncio.Event()

    async def handler(chunks: list[Chunk]) -> None:
        started.set()
        await finish.wait()

    bench = Bench(handler, merge=1)
    bench.put(chunk(0, 10), chunk(10, 20))
    working = asyncio.create_task(bench.runner.run())
    await started.wait()
    bench.runner.drop()
    assert not await bench.runner.settle(0.01)
    asyncio.get_running_loop().call_later(0.01, finish.set)
    assert await bench.runner.settle(2)
    assert bench.acked == [10]
    working.cancel()


async def test_settling_does_not_wait_for_a_retry() -> None:
    async def handler(chunks: list[Chunk]) -> None:
        raise psycopg.OperationalError("down")

    bench = Bench(handler)
    bench.put(chunk(0, 10))
    working = asyncio.create_task(bench.runner.run())
    await asyncio.sleep(0.05)
    assert not await bench.runner.settle(2)
    working.cancel()
