"""The rate budget of one open client: every request asks it first and tells it the answer.

Place in the flow: `streams.resources` makes one beside each client and gives it to the HTTP client; the lane asks it
before it claims. All budgets of a connection share one row of `sync.rate_window`, whatever process they are in: each
takes a few calls at a time from it, in one statement that fails when another was faster. As long as nobody told of a
limit, and no person set one, a request costs no look at the database.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

import psycopg
import structlog

from connectors import rates
from connectors.contract import Client
from connectors.errors import NotApplied
from connectors.rates import Told
from streams.rules import budgets as rules
from streams.rules.budgets import Account, Lease, Priority

LOOK_EVERY_S = 1.0
"""How old our knowledge of what other workers were told may be."""
DATABASE_PAUSE_S = 1.0
PATIENCE_S: Mapping[Priority, float] = {"lane": 20.0, "backfill": 20.0, "poll": 900.0}
"""How long a request waits for its turn. A lane's writes are claimed while they wait, and claims end; a poll begins
from the start when it fails."""
_DELAY_FADES = 0.98
"""Per answer: a slow one is remembered for some tens of answers."""

_log = structlog.get_logger("outbound.budget")


class Shared(Protocol):
    """Where the budgets of one connection keep their account."""

    async def load(self) -> tuple[Account, int]:
        """The account, and the version to name when it is saved. Raises OperationalError."""

    async def save(self, account: Account, version: int) -> int | None:
        """Save it; the new version, None when another was faster. Raises OperationalError."""


class Budget:
    """What one client may call. `acquire` before each request, `note` after each answer, `aclose` at the end.

    Args:
        spread: a random number from 0 to 1: workers that wait for the same moment do not come at once.
        sleep: waits so many seconds; replaced where time is not the wall clock's.
        patience_s: the longest wait of a request; beyond it, it is NotApplied (`rate_budget`).
    """

    def __init__(
        self,
        shared: Shared,
        *,
        priority: Priority,
        now: Callable[[], datetime],
        spread: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        patience_s: float | None = None,
    ) -> None:
        self._shared = shared
        self._priority = priority
        self._now = now
        self._spread = spread
        self._sleep = sleep
        self._patience_s = PATIENCE_S[priority] if patience_s is None else patience_s
        self._account, self._version = Account(), 0
        self._looked_at: float | None = None
        self._lease: Lease | None = None
        self._left = 0
        self._want = 1
        self._told: list[tuple[Told, int, float]] = []  # not in the row yet; each with what was in hand, and when
        self._refusals = 0
        self._sent: deque[float] = deque()
        self._delay_s = 0.0
        self._answered = False
        self._heard = asyncio.Event()
        self._turn = asyncio.Lock()
        self._row = asyncio.Lock()
        self._telling: asyncio.Task[None] | None = None

    def ready_at(self, priority: Priority | None = None) -> datetime | None:
        """When a call may be made, as far as is known; None for now."""
        at = self._at()
        if self._has_lease(at) and self._account.blocked_until <= at:
            return None
        when = rules.ready_at(self._account, at, priority or self._priority)
        return datetime.fromtimestamp(when + self._jitter(when - at), UTC) if when > at else None

    def room(self, most: int, priority: Priority | None = None) -> int:
        """How many of so many calls would not have to wait, as far as is known."""
        at = self._at()
        free = rules.room(self._account, at, priority or self._priority)
        if free is None:
            return most
        in_hand = self._left if self._has_lease(at) and self._account.blocked_until <= at else 0
        return min(most, free + in_hand)

    async def acquire(self) -> None:
        """Wait until one call may be made.

        Raises:
            NotApplied: `rate_budget`, when that would take too long.
        """
        at = self._at()
        if not self._take(at):
            await self._wait(at)
            at = self._at()
        self._sent.append(at)

    def note(self, status: int, headers: Mapping[str, str]) -> None:
        """Learn from an answer; status 0 when none came."""
        now = self._now()
        at = now.timestamp()
        sent_at = self._sent.popleft() if self._sent else at
        self._answered = self._answered or bool(status)
        self._heard.set()
        if not status:
            return
        self._delay_s = max(at - sent_at, self._delay_s * _DELAY_FADES)
        told = rates.read(status, headers, now)
        if status == 429:
            self._refusals += 1
            told = told or Told()
            if told.retry_after_s is None:
                told = replace(told, retry_after_s=told.resets_in_s or rules.pause_s(self._refusals))
        elif self._refusals:
            self._refusals = 0
        if told is not None:
            self._learn(told, at)

    async def aclose(self) -> None:
        """Give back what is left, and leave what was heard to the others."""
        if self._telling:
            await self._telling
        if self._told or self._left:
            await self._tell(give_back=True)

    def _at(self) -> float:
        return self._now().timestamp()

    def _has_lease(self, at: float) -> bool:
        return self._left > 0 and self._lease is not None and at < self._lease.use_by

    def _take(self, at: float) -> bool:
        """One call without waiting, if there is one."""
        if self._account.blocked_until > at or self._looked_at is None:
            return False
        if self._has_lease(at):
            self._left -= 1
            return True
        if not self._account.unlimited or self._probing:
            return False
        if at - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = at
            self._tell_soon()
        return True

    @property
    def _probing(self) -> bool:
        """The first call is under way, and its answer may tell of a limit: the others wait for it."""
        return not self._answered and self._account.unlimited and bool(self._sent)

    async def _wait(self, since: float) -> None:
        async with self._turn:
            while not self._take(self._at()):
                if self._probing and self._looked_at is not None:
                    self._heard.clear()
                    await self._heard.wait()
                    continue
                at = self._at()
                when = await self._more(at)
                if when is None:
                    continue
                when += self._jitter(when - at)
                if when - since > self._patience_s:
                    # status 429 is what they would have answered: nobody is at fault, and nobody shall call
                    raise NotApplied(
                        "rate_budget", "the system's limit of calls is used up", status=429, retry_after=when - at
                    )
                await self._sleep(max(when - at, 0.001))

    async def _more(self, at: float) -> float | None:
        """Lease some calls; the time of the next try when there are none."""
        try:
            async with self._row:
                await self._exchange(lease=True, give_back=True)
        except psycopg.OperationalError as error:
            _log.warning("budget_waits", what="postgres", error=type(error).__name__)
            return at + DATABASE_PAUSE_S
        at = self._at()
        if self._account.blocked_until <= at and (self._has_lease(at) or self._account.unlimited):
            return None
        return max(rules.ready_at(self._account, at, self._priority), at)

    async def _exchange(self, *, lease: bool, give_back: bool) -> None:
        """Bring the account up to date: what was heard goes in, unused calls go back, new ones come out.

        Starts from the account as we know it, and from what the row says when that is old or has no room.
        """
        fresh = self._looked_at is None or not lease
        if fresh:
            await self._look()
        want, mark, unused = self._next_want(), self._lease, 0
        if give_back:  # out of hand before the first wait: nobody may make them any more
            self._lease, self._left, unused = None, 0, self._left
        while True:
            heard, account, leased = len(self._told), self._account, None
            if mark and unused:
                account = rules.give_back(account, mark, unused)
            if lease and not account.unlimited:
                account, leased = rules.lease(
                    account, self._at(), want=want, delay_s=self._delay_s, priority=self._priority
                )
                if leased is None and not fresh:
                    fresh = True
                    await self._look()
                    continue
            if leased or unused or heard:
                version = await self._shared.save(account, self._version)
                if version is None:
                    fresh = True
                    await self._look()
                    continue
                self._version = version
            # what was heard meanwhile is not in the row yet
            del self._told[:heard]
            self._account = self._with_told(account)
            if leased:
                self._lease, self._left, self._want = leased, leased.calls, want
            return

    def _next_want(self) -> int:
        """More than the last lease when that was used up in time, else less."""
        if self._lease is None or self._account.unlimited:
            return self._want
        return min(self._want * 2, rules.most_at_once(self._account)) if not self._left else max(1, self._want // 2)

    async def _look(self) -> None:
        """Read the row; what we heard and it does not hold yet is heard again, by the account as it is now."""
        account, self._version = await self._shared.load()
        self._looked_at = self._at()
        self._account = self._with_told(account)

    def _with_told(self, account: Account) -> Account:
        for told, in_hand, at in self._told:
            account = rules.heard(account, told, in_hand=in_hand, at=at, delay_s=self._delay_s)
        return account

    def _learn(self, told: Told, at: float) -> None:
        before = self._account
        in_hand = self._left
        after = rules.heard(before, told, in_hand=in_hand, at=at, delay_s=self._delay_s)
        if told.remaining is not None and in_hand > told.remaining:
            self._left = told.remaining  # the others stay spent: somebody else has made those calls
        if after is before:
            return
        self._account = after
        self._told.append((told, in_hand, at))
        if after.blocked_until > before.blocked_until or _limit(after) != _limit(before):
            self._tell_soon()

    def _tell_soon(self) -> None:
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def _tell(self, *, give_back: bool = False) -> None:
        """Let the other workers know, and learn what they know."""
        try:
            while True:
                async with self._row:
                    await self._exchange(lease=False, give_back=give_back)
                if not self._told:
                    return
        except psycopg.OperationalError as error:
            _log.warning("budget_not_told", what="postgres", error=type(error).__name__)

    def _jitter(self, wait_s: float) -> float:
        """A little later than the others; longer waits spread wider."""
        return self._spread() * min(0.005 * wait_s if self._account.blocked_until <= self._at() else 0.1 * wait_s, 5.0)


def _limit(account: Account) -> int | None:
    return account.learned.limit if account.learned else None


@dataclass(frozen=True, slots=True)
class Opened:
    """A client, and what it may call."""

    client: Client
    budget: Budget
