"""A loop whose time is virtual, systems with quotas, and the workers of one connection that share a budget."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from connectors.errors import NotApplied
from streams.outbound.budgets import Budget
from streams.rules import budgets
from streams.rules.budgets import Account, Priority

START = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Never waits: when nothing is ready, it is the time of the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = 0.0

    def time(self) -> float:
        return self._virtual

    def _run_once(self) -> None:
        if not self._ready:
            while self._scheduled and self._scheduled[0]._cancelled:
                heapq.heappop(self._scheduled)._scheduled = False
            if self._scheduled:
                self._virtual = max(self._virtual, self._scheduled[0]._when)
        super()._run_once()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run on a virtual clock, to the end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def now() -> datetime:
    return START + timedelta(seconds=asyncio.get_running_loop().time())


@dataclass
class Memory:
    """The shared row, with the latency of a database."""

    bound: dict[str, float] = field(default_factory=dict)
    account: Account = field(default_factory=Account)
    version: int = 0
    calls: int = 0

    async def load(self) -> tuple[Account, int]:
        self.calls += 1
        await asyncio.sleep(0.001)
        return budgets.bounded(self.account, self.bound), self.version

    async def save(self, account: Account, version: int) -> int | None:
        self.calls += 1
        await asyncio.sleep(0.001)
        if version != self.version:
            return None
        self.account, self.version = account, version + 1
        return self.version


@dataclass
class System:
    """A system with a quota; windows are fixed from `phase` on, or slide.

    Args:
        style: `pco` tells limit, count and period; `reset` limit, remaining and whole seconds to go; `epoch` the same
            with a time of day and a `Date`.
    """

    limit: int
    period_s: float
    phase_s: float = 0.0
    slides: bool = False
    style: str = "pco"
    answered: list[tuple[float, int]] = field(default_factory=list)
    _window: int | None = None
    _count: int = 0
    _log: deque[float] = field(default_factory=deque)

    def arrive(self, at: float) -> tuple[int, dict[str, str]]:
        """One call; status and headers."""
        if self.slides:
            while self._log and self._log[0] <= at - self.period_s:
                self._log.popleft()
            if len(self._log) < self.limit:
                self._log.append(at)
                count = len(self._log)
            else:
                count = self.limit + 1
            resets = self._log[0] + self.period_s - at
        else:
            window = math.floor((at - self.phase_s) / self.period_s)
            if window != self._window:
                self._window, self._count = window, 0
            self._count += 1
            count = self._count
            resets = (window + 1) * self.period_s + self.phase_s - at
        status = 200 if count <= self.limit else 429
        self.answered.append((at, status))
        return status, self._headers(status, count, resets - 1e-6, at)

    def _headers(self, status: int, count: int, resets: float, at: float) -> dict[str, str]:
        if self.style == "pco":
            headers = {
                "x-pco-api-request-rate-limit": str(self.limit),
                "x-pco-api-request-rate-count": str(count),
                "x-pco-api-request-rate-period": str(self.period_s),
            }
        else:
            headers = {
                "x-ratelimit-limit": str(self.limit),
                "x-ratelimit-remaining": str(max(0, self.limit - count)),
                "x-ratelimit-reset": str(math.ceil(resets)),
            }
        if self.style == "epoch":
            clock = START.timestamp() + at
            headers["x-ratelimit-reset"] = str(math.ceil(clock + resets))
            headers["date"] = format_datetime(datetime.fromtimestamp(int(clock), UTC), usegmt=True)
        return headers | ({"retry-after": str(math.ceil(resets))} if status == 429 else {})

    def refused(self, since: float = 0.0) -> float:
        """The part of the calls since then that was refused."""
        told = [status for at, status in self.answered if at >= since]
        return sum(status == 429 for status in told) / max(1, len(told))

    def used(self, since: float, until: float) -> float:
        """The part of the quota that was used, over the whole windows from then on."""
        good = sum(status == 200 for at, status in self.answered if since <= at < until)
        return good / (self.limit * (until - since) / self.period_s)


class Workers:
    """Workers that always have something to send, so many calls at once each.

    Args:
        latency_s: of a call, there and back, at most.
    """

    def __init__(
        self, system: System, shared: Memory, *, workers: int, at_once: int, latency_s: float, seed: int = 0
    ) -> None:
        self.system = system
        self.dice = random.Random(seed)
        self.latency_s = latency_s
        self.workers, self.at_once = workers, at_once
        self.shared = shared
        self.patience_s = 100.0
        self.statuses: list[int] = []

    def budget(self, priority: Priority = "lane") -> Budget:
        return Budget(self.shared, priority=priority, now=now, spread=self.dice.random, patience_s=self.patience_s)

    async def call(self, budget: Budget) -> int:
        """One call; its status."""
        await budget.acquire()
        await asyncio.sleep(self.latency_s * self.dice.random() / 2)
        status, headers = self.system.arrive(asyncio.get_running_loop().time())
        await asyncio.sleep(self.latency_s * self.dice.random() / 2)
        budget.note(status, headers)
        self.statuses.append(status)
        return status

    async def work(self, until: float, priority: Priority = "lane") -> None:
        """All of them, until then."""

        async def caller(budget: Budget) -> None:
            loop = asyncio.get_running_loop()
            while loop.time() < until:
                try:
                    await self.call(budget)
                except NotApplied as later:
                    await asyncio.sleep(min(later.retry_after or 1.0, until - loop.time()))

        async with asyncio.TaskGroup() as group:
            for _ in range(self.workers):
                budget = self.budget(priority)
                for _ in range(self.at_once):
                    group.create_task(caller(budget))
