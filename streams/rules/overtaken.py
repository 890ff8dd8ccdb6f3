"""Edits of theirs that a push of ours wrote over before we heard of them. Pure.

They edit a record, we push what we know without having heard of it, our push is confirmed, and only then their event
comes. By its version it is old; dropped, their edit would be lost and nobody would ever know. So a link remembers what
we had heard last before we pushed (`Over`): an event newer than that, and not one of our own pushes coming back, tells
of an edit that we never saw. It is decided against the state from which it was made.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from streams.rules.field_conflicts import Fields, compare_versions, same
from streams.rules.sides import Agreed, Decision, Kind, Ours, Over, Terms, Theirs, known_after

REASON = "overtaken"


def is_hidden(theirs: Theirs, over: Over | None) -> bool:
    """Whether an event older than our last push tells of an edit that we never heard of."""
    if over is None or theirs.deleted or any(_is_ours(theirs, *push) for push in over.pushes):
        return False
    newer = compare_versions(theirs.version, over.version)
    return newer > 0 or (newer == 0 and over.at is not None and theirs.at > over.at)


def decide(ours: Ours | None, theirs: Theirs, agreed: Agreed, terms: Terms) -> Decision:
    """Decide a hidden edit: only what it changed counts, and they hold what we pushed since."""
    over, base = agreed.over, agreed.base or {}
    if over is None or ours is None or ours.deleted:
        return Decision(Kind.DROP, "stale", base=base)
    edited = {
        key: value
        for key, value in theirs.document.items()
        if not same(key, theirs.document, over.base) and not same(key, theirs.document, base)
    }
    if not edited:
        return Decision(Kind.DROP, "stale", base=base)
    before = Agreed(over.base, over.version, over.at)
    decided = Fields(ours, replace(theirs, document=edited), before, terms).decide()
    return replace(
        decided,
        reason=REASON if decided.kind is Kind.TAKE else decided.reason,
        base={key: value for key, value in base.items() if key not in decided.write},
        remote_needs_correction=bool(decided.write),
        over=replace(over, base=known_after(over.base, theirs.document), version=theirs.version, at=theirs.at),
    )


def _is_ours(theirs: Theirs, version: str | None, at: datetime | None) -> bool:
    """Whether the event is one of our pushes coming back."""
    return theirs.version == version if theirs.version and version else theirs.at == at
