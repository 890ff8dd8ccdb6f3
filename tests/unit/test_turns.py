"""The loop that services share."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from streams.turns import InTurns


class Counting(InTurns):
    name = "counting"
    again_s = 0.0

    def __init__(self, *outcomes: float | Exception) -> None:
        super().__init__()
        self.outcomes = list(outcomes)

    async def take_turn(self) -> float:
        found = self.outcomes.pop(0)
        if isinstance(found, Exception):
            raise found
        if not self.outcomes:
            await self.stop()
        return found


async def test_turns_follow_each_other_until_it_is_stopped_and_survive_a_neighbour_that_is_away():
    service = Counting(0.0, psycopg.OperationalError("away"), 0.0, 3600.0)
    await asyncio.wait_for(service.run(), 10)
    assert service.outcomes == []


async def test_stop_ends_the_pause():
    service = Counting(3600.0, 3600.0)
    running = asyncio.create_task(service.run())
    await asyncio.sleep(0)
    await service.stop()
    await asyncio.wait_for(running, 10)
    assert len(service.outcomes) == 1


async def test_what_is_no_passing_failure_ends_the_service():
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(Counting(0.0, ZeroDivisionError()).run(), 10)
