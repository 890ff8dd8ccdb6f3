import asyncio
from types import SimpleNamespace

import pytest

from schemas.problems import Problem
from streams import watchdog
from streams.chunks import Partition
from streams.watchdog import Watchdog, lagging

A, B = Partition("t", 0), Partition("t", 1)


def test_only_partitions_behind_their_end_lag() -> None:
    assert lagging({A: 5, B: 9}, {A: 8, B: 9}) == {A: 3}
    assert lagging({A: 5}, {}) == {}


class Consumer:
    """A consumer whose one partition is settled up to 5."""

    def __init__(self) -> None:
        self.ledger = SimpleNamespace(partitions=lambda: [A], settled=lambda _: 5)
        self.app = SimpleNamespace(rebalancing=False, in_recovery=False)


def watched(monkeypatch: pytest.MonkeyPatch, end: int, runner: SimpleNamespace) -> Watchdog:
    monkeypatch.setattr(watchdog, "AdminClient", lambda _: None)
    monkeypatch.setattr(watchdog, "ends", lambda *_: {A: end})
    return Watchdog(Consumer(), [runner], "nowhere")  # type: ignore[arg-type]


async def run(dog: Watchdog, looks: int = 40) -> None:

    async with asyncio.timeout(looks * 0.005):
        await dog.run(stall_s=0.02, every_s=0.002)


async def test_lag_without_progress_is_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Problem, match="stalled"):
        await run(watched(monkeypatch, 9, SimpleNamespace(handled=0, waiting_for="")))


async def test_without_lag_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TimeoutError):
        await run(watched(monkeypatch, 5, SimpleNamespace(handled=0, waiting_for="")))


async def test_a_handler_that_waits_for_its_database_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TimeoutError):
        await run(watched(monkeypatch, 9, SimpleNamespace(handled=0, waiting_for="OperationalError")))
