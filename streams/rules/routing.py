"""Which connections a change concerns, and how. Every connection gets an answer with a reason, skips too."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass


class Verdict(enum.StrEnum):
    """What becomes of one change for one connection."""

    PUSH = "push"
    HOLD = "hold"
    REVIEW = "review"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Route:
    """The verdict and why, a word that is stored, shown and counted."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class Target:
    """A connection as routing sees it.

    Args:
        option: 1 both ways, 2 we are the source of truth, 3 they are: unlinked entities are not pushed.
        gate: of the entity type: staging, matched, populated, live; empty when the type is out of scope.
    """

    name: str
    option: int
    state: str
    gate: str


def route(origins: Collection[str], target: Target, *, takes_type: bool, linked: bool) -> Route:
    """Route what happened to one entity.

    Args:
        origins: the `origin` of each change of the entity or its parts that is considered together; never empty.
        takes_type: whether the target's system has this entity type.
        linked: whether the entity has a link there.
    """
    if not takes_type:
        return Route(Verdict.SKIP, "type_not_taken")
    if target.state == "disconnected":
        return Route(Verdict.SKIP, "disconnected")
    if not target.gate:
        return Route(Verdict.SKIP, "type_out_of_scope")
    heard = set(origins) - {"bulk"}
    if not heard:
        return Route(Verdict.SKIP, "bulk_waits_for_resync")
    if heard == {target.name}:
        return Route(Verdict.SKIP, "came_from_there")
    if target.option == 3 and not linked:
        return Route(Verdict.REVIEW, "unlinked")
    if target.gate != "live":
        return Route(Verdict.HOLD, f"gate_{target.gate}")
    return Route(Verdict.PUSH, "change")
