"""How many calls a connection may make now: an account of what its workers spend, and of what the system tells. Pure.

A call counts for a whole period from the last moment at which it can have arrived over there. So no window of theirs
holds more calls than the limit, be it fixed or sliding, and wherever it begins: their phase need not be known. Where
their own count is higher than ours, somebody else calls with our credential, or we called before we knew: theirs is
taken over. All times are epoch seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a type alone: the module that reads headers knows HTTP
    from connectors.rates import Told

Priority = Literal["lane", "poll", "backfill"]

RESERVE: Mapping[Priority, float] = {"lane": 0.0, "poll": 0.1, "backfill": 0.2}
"""The part of a limit that is left to what is more urgent: a backfill stops first, then polls, live pushes last."""
LEASES_PER_WINDOW = 20
UNKNOWN_PERIOD_S = 60.0
"""Of a limit that came without any time; what they say is left corrects it."""
LONGEST_S = 86_400.0
SHORTEST_S = 0.1
_GRAIN = 1 / 100
"""Leases are counted together in this part of a period, so that the account stays small."""


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit and what counts against it.

    Args:
        spent: (counts until, calls), earliest first.
        raise_to: a higher limit that they told, taken over at `raise_at` unless they tell a lower one before.
    """

    limit: int
    period_s: float
    spent: tuple[tuple[float, int], ...] = ()
    raise_to: int | None = None
    raise_at: float = 0.0

    def settled(self, at: float) -> Quota:
        """What counts no longer taken off, a raise that is due taken over."""
        spent = tuple(entry for entry in self.spent if entry[0] > at)
        if self.raise_to is not None and self.raise_at <= at:
            return replace(self, spent=spent, limit=self.raise_to, raise_to=None)
        return replace(self, spent=spent)

    def used(self, at: float) -> int:
        """Calls that count."""
        return sum(calls for until, calls in self.spent if until > at)

    def free(self, at: float, priority: Priority) -> int:
        """Calls that may be made now."""
        return max(0, self._ours(self._limit(at), priority) - self.used(at))

    def free_at(self, at: float, priority: Priority) -> float:
        """The earliest time at which a call may be made: `at` itself or later."""
        changes = [at, *(until for until, _ in self.spent if until > at)]
        if self.raise_to is not None and self.raise_at > at:
            changes = sorted([*changes, self.raise_at])
        return next((when for when in changes if self.free(when, priority)), at + self.period_s)

    def on_grain(self, when: float) -> float:
        """A time, or a little later."""
        grain = self.period_s * _GRAIN
        return ceil(when / grain) * grain

    def spend(self, until: float, calls: int) -> Quota:
        """With more calls that count, or with fewer."""
        spent = dict(self.spent)
        spent[until] = spent.get(until, 0) + calls
        return replace(self, spent=tuple(sorted((u, n) for u, n in spent.items() if n > 0)))

    def _limit(self, at: float) -> int:
        return self.raise_to if self.raise_to is not None and self.raise_at <= at else self.limit

    @staticmethod
    def _ours(limit: int, priority: Priority) -> int:
        return limit - int(limit * RESERVE[priority])


@dataclass(frozen=True, slots=True)
class Account:
    """All that limits the calls of one connection, of all its workers together.

    Args:
        learned: what they tell; None when they told nothing yet.
        chosen: what a person allows at most.
        blocked_until: they want no call before.
    """

    learned: Quota | None = None
    chosen: Quota | None = None
    blocked_until: float = 0.0

    @property
    def unlimited(self) -> bool:
        """Nothing is known that would limit the number of calls."""
        return self.learned is None and self.chosen is None

    def quotas(self) -> Iterator[Quota]:
        """What limits."""
        yield from (quota for quota in (self.learned, self.chosen) if quota is not None)


@dataclass(frozen=True, slots=True)
class Lease:
    """Calls taken from the account in advance, to be made until `use_by`.

    Args:
        marks: until when they count in `learned` and in `chosen`.
    """

    calls: int
    use_by: float
    marks: tuple[float, float]


def bounded(account: Account, budget: Mapping[str, float]) -> Account:
    """The account under the bound that a person set: `calls` per `per_s` seconds, or nothing."""
    calls, per_s = int(budget.get("calls", 0)), float(budget.get("per_s", 0.0))
    if calls < 1 or per_s <= 0:
        return replace(account, chosen=None)
    spent = account.chosen.spent if account.chosen else ()
    return replace(account, chosen=Quota(calls, max(per_s, SHORTEST_S), spent))


def room(account: Account, at: float, priority: Priority) -> int | None:
    """Calls that may be made now; None for no limit."""
    if account.blocked_until > at:
        return 0
    return min((quota.free(at, priority) for quota in account.quotas()), default=None)


def ready_at(account: Account, at: float, priority: Priority) -> float:
    """The earliest time at which a call may be made, as far as is known: `at` itself or later."""
    found = max(at, account.blocked_until)
    for quota in account.quotas():
        found = max(found, quota.free_at(found, priority))
    return found


def most_at_once(account: Account) -> int:
    """Calls in a lease: a window holds many leases, so that one worker cannot take it all."""
    return max(1, min((quota.limit // LEASES_PER_WINDOW for quota in account.quotas()), default=1))


def lease(
    account: Account, at: float, *, want: int, delay_s: float, priority: Priority
) -> tuple[Account, Lease | None]:
    """Take up to `want` calls, fewer where few are left; None for the lease when none is.

    Args:
        delay_s: how long a request of this worker takes to arrive, at most.
    """
    free = room(account, at, priority)
    if not free:
        return account, None
    calls = max(1, min(want, most_at_once(account), free // 2))
    shortest = min(quota.period_s for quota in account.quotas())
    use_by = at + min(1.0, shortest / 50)
    arrives_by = use_by + min(delay_s, shortest / 4)
    learned, learned_until = _spent(account.learned, at, arrives_by, calls)
    chosen, chosen_until = _spent(account.chosen, at, arrives_by, calls)
    return replace(account, learned=learned, chosen=chosen), Lease(calls, use_by, (learned_until, chosen_until))


def give_back(account: Account, given: Lease, calls: int) -> Account:
    """The account with calls that were leased and not made."""
    learned, chosen = account.learned, account.chosen
    return replace(
        account,
        learned=learned and learned.spend(given.marks[0], -calls),
        chosen=chosen and chosen.spend(given.marks[1], -calls),
    )


def heard(account: Account, told: Told, *, in_hand: int, at: float, delay_s: float) -> Account:
    """The account after they told something; the same object when it was nothing new.

    Args:
        in_hand: calls that are leased and surely not made yet: theirs cannot have counted them.
    """
    if told.retry_after_s:
        account = replace(account, blocked_until=max(account.blocked_until, at + min(told.retry_after_s, LONGEST_S)))
    if told.limit is None:
        return account
    quota = _told_limit(account.learned, told.limit, told, at)
    if told.remaining is not None:
        unknown = told.limit - told.remaining + in_hand - quota.used(at)
        if unknown > 0:
            wait = told.retry_after_s or told.resets_in_s or quota.period_s
            quota = quota.spend(quota.on_grain(at + min(wait, LONGEST_S) + delay_s), unknown)
    return account if quota is account.learned else replace(account, learned=quota)


def pause_s(refusals: int) -> float:
    """How long to wait after so many refusals in a row that do not say for how long."""
    return float(min(2 ** min(refusals - 1, 10), 30))


def _spent(quota: Quota | None, at: float, arrives_by: float, calls: int) -> tuple[Quota | None, float]:
    if quota is None:
        return None, 0.0
    until = quota.on_grain(arrives_by + quota.period_s)
    return quota.settled(at).spend(until, calls), until


def _told_limit(quota: Quota | None, limit: int, told: Told, at: float) -> Quota:
    """A lower limit holds at once. A higher one waits for a period in which nothing lower is told: limits may differ
    from one kind of call to another.
    """
    if quota is None:
        return Quota(limit, _period(told, 0.0))
    if quota.raise_to is not None:
        quota = quota.settled(at)
    seen = quota.period_s if quota.limit == limit else 0.0
    if limit > quota.limit:
        if quota.raise_to is None:
            return replace(quota, raise_to=limit, raise_at=at + quota.period_s)
        return quota if limit >= quota.raise_to else replace(quota, raise_to=limit)
    period_s = _period(told, seen)
    if limit == quota.limit and period_s == quota.period_s and quota.raise_to is None:
        return quota
    later = max(0.0, period_s - quota.period_s)  # what was spent in a period that is longer than we thought
    spent = tuple((until + later, calls) for until, calls in quota.spent) if later else quota.spent
    return replace(quota, limit=limit, period_s=period_s, spent=spent, raise_to=None)


def _period(told: Told, seen_s: float) -> float:
    """A period that is not told is the longest time to a reset that we have seen."""
    found = told.period_s or max(seen_s, told.resets_in_s or 0.0) or UNKNOWN_PERIOD_S
    return min(max(found, SHORTEST_S), LONGEST_S)
