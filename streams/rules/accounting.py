"""Do the counts add up? Every committed change must be somewhere (rule R25). Pure.

seen = planned + excluded                                  of the planner, per connection, since it counts
wished = confirmed + pending + parked + dead               of all wishes there ever were
planned ≤ wished                                           others than the planner raise wishes too
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SEEN = "seen"
"""The verdict under which the planner counts what it looked at, before it decides."""
PLANNED = frozenset({"push", "hold"})
EXCLUDED = frozenset({"review", "skip"})


@dataclass(frozen=True, slots=True)
class Routes:
    """Where changes went, in (root, connection) pairs."""

    seen: int = 0
    planned: int = 0
    excluded: int = 0

    @classmethod
    def of(cls, verdicts: Mapping[str, int]) -> Routes:
        """From counts by verdict; a verdict that is none of ours counts nowhere, so it shows as a difference."""
        planned = sum(n for verdict, n in verdicts.items() if verdict in PLANNED)
        return cls(verdicts.get(SEEN, 0), planned, sum(n for verdict, n in verdicts.items() if verdict in EXCLUDED))


@dataclass(frozen=True, slots=True)
class Wishes:
    """What became of wishes. `fresh` ones may still be on their way between two states."""

    wished: int = 0
    confirmed: int = 0
    pending: int = 0
    parked: int = 0
    dead: int = 0
    fresh: int = 0


def differences(routes: Routes, wishes: Wishes) -> dict[str, int]:
    """Identity -> what is missing (negative: what is too much); all 0 when everything is somewhere."""
    told = wishes.confirmed + wishes.pending + wishes.parked + wishes.dead + wishes.fresh
    return {
        "routes": routes.seen - routes.planned - routes.excluded,
        "raised": max(0, routes.planned - wishes.wished),
        "wishes": wishes.wished - told,
    }
