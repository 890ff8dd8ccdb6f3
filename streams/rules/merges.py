"""What becomes of our links when they merge one of their records into another. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


class Step(enum.Enum):
    """What to do; the value is the ledger's reason."""

    CIRCULAR = "merge_circular"
    """The record that is left was merged into this one: nothing."""
    KNOWN = "merged_already"
    """Heard before, or something newer was: nothing."""
    NOTE = "merged_unlinked"
    """The old record is nobody here: its id stands for the other from now on."""
    RELINK = "relinked"
    """Only the old record is somebody here: it is the one that is left now."""
    ASK = "merged_two"
    """Both are somebody here: the old link ends, and a person says whether the two are one."""


@dataclass(frozen=True, slots=True)
class Alias:
    """An old id, and what it stands for since when (their time)."""

    into: str
    merged_at: datetime


def decide(
    old: str, left: str, at: datetime, known: Alias | None, *, old_is_linked: bool, left_is_linked: bool
) -> Step:
    """What to do about a merge of `old` into `left`, at `at`.

    Args:
        left: as far as is known, not merged into another itself.
        known: what the old id stands for already.
    """
    if left == old:
        return Step.CIRCULAR
    if known is not None and (known.into == left or known.merged_at >= at):
        return Step.KNOWN
    if not old_is_linked:
        return Step.NOTE
    return Step.ASK if left_is_linked else Step.RELINK


def stands_for(alias: Alias | None, at: datetime, *, deleted: bool) -> str | None:
    """The id under which an event of `at` about an old id is applied; None when it is not.

    Of the time before the merge it tells nothing that the record that is left does not hold, and that the old record is
    gone is no delete of that one.
    """
    if alias is None or deleted or at <= alias.merged_at:
        return None
    return alias.into
