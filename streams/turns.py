"""Services that do their work in turns, with a pause between them."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import ClassVar

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from schemas.problems import Problem

_log = structlog.get_logger("turns")


class InTurns(ABC):
    """A `streams.worker.Service` that takes one turn after the other until it is stopped.

    A turn that fails for a neighbour that does not answer is told in the log and taken again after `again_s`; whatever
    else it raises ends the service.
    """

    name: str
    again_s: ClassVar[float] = 1.0
    passing: ClassVar[tuple[type[Exception], ...]] = (psycopg.OperationalError, PoolTimeout)
    """Failures that pass."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()

    @abstractmethod
    async def take_turn(self) -> float:
        """Do what is due; the seconds until the next turn."""

    async def run(self) -> None:
        """Take turns until `stop`."""
        while not self.stopping.is_set():
            try:
                pause = await self.take_turn()
            except self.passing as error:
                code = error.code if isinstance(error, Problem) else type(error).__name__
                _log.warning("turn_failed", service=self.name, error=code)
                pause = self.again_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), pause)

    async def stop(self) -> None:
        """Begin nothing new: `run` returns after the turn in hand."""
        self.stopping.set()
