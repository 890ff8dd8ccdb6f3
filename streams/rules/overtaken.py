"""Edits of theirs that a push of ours, or a delete of theirs, wrote over before we heard of them. Pure.

They edit a record, we push what we know without having heard of it, and only then their event comes. By its version it
is old; dropped, their edit would be lost and nobody would ever know. So a link remembers its last pushes, each with the
state it was sent over (`Over`): an event between that state and the push tells of an edit that we never saw. It is
decided against the state from which it was made.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from schemas.fields import Document
from streams.rules.field_conflicts import Fields, compare_versions, same
from streams.rules.mapping import differences
from streams.rules.reopening import Spans, written_by
from streams.rules.sides import Agreed, Decision, Kind, Loser, Ours, Over, Terms, Theirs, known_after

REASON = "overtaken"
KEPT = 5
"""Pushes that a link remembers; the statement `confirm` keeps as many."""


def is_push(theirs: Theirs, agreed: Agreed) -> bool:
    """Whether the event is one of our last pushes coming back."""
    return any(_is(theirs, push.pushed_version, push.pushed_at) for push in agreed.over)


def hiding(theirs: Theirs, agreed: Agreed) -> Over | None:
    """The push that hid the edit which this old event tells of, or None: then it is old, or a push coming back."""
    if theirs.deleted or is_push(theirs, agreed):
        return None
    later = (push for push in agreed.over if _newer(push.pushed_version, push.pushed_at, theirs.version, theirs.at))
    first = next(later, None)
    if first is None or not _newer(theirs.version, theirs.at, first.version, first.at):
        return None
    return first


def decide(ours: Ours | None, theirs: Theirs, agreed: Agreed, terms: Terms, push: Over) -> Decision:
    """Decide a hidden edit: only what it changed counts, and they hold what we pushed since."""
    base = agreed.base or {}
    edited = {
        key: value
        for key, value in theirs.document.items()
        if not same(key, theirs.document, push.base) and not same(key, theirs.document, base)
    }
    if ours is None or not edited:
        return Decision(Kind.DROP, "stale", base=base)
    if ours.deleted or not push.sure:
        return replace(log_only(ours, replace(theirs, document=edited), push.base), base=base)
    before = Agreed(push.base, push.version, push.at)
    decided = Fields(ours, replace(theirs, document=edited), before, terms).decide()
    # What a person is asked about is left open too, or it would look as if both sides agreed on what we pushed.
    unsettled = decided.write.keys() | {question.field for question in decided.questions}
    known = replace(push, base=known_after(push.base, theirs.document), version=theirs.version, at=theirs.at)
    return replace(
        decided,
        reason=REASON if decided.kind is Kind.TAKE else decided.reason,
        base={key: value for key, value in base.items() if key not in unsettled},
        remote_needs_correction=bool(decided.write),
        hidden=True,
        over=tuple(known if each is push else each for each in agreed.over),
    )


def before_delete(ours: Ours, theirs: Theirs, agreed: Agreed, terms: Terms, spans: Spans) -> Decision:
    """Decide an edit of theirs that comes after their delete of the record, which is later: what is kept of it here,
    deleted or not, is as if the two had come in their order.

    Args:
        ours: as if it were not deleted.
    """
    base = agreed.base or {}
    edited = {
        key: value
        for key, value in theirs.document.items()
        if not same(key, theirs.document, base) and theirs.written_at > written_by(spans, key)
    }
    decided = Fields(ours, replace(theirs, document=edited), Agreed(agreed.base, at=agreed.at), terms).decide()
    if decided.questions or not (decided.write or decided.losers):
        return Decision(Kind.DROP, "stale", base=base)
    return replace(decided, reason="before_delete", remote_needs_correction=False, hidden=True)


def note_flight(decision: Decision, theirs: Theirs, agreed: Agreed) -> Decision:
    """A push that is on its way while they tell of a newer state is remembered at once: it may have come before that
    state, or be that state, and what it hid may come before its answer. A push that comes back with an edit of theirs
    in it tells our time, not that of the edit."""
    if theirs.deleted:
        return decision
    for push in agreed.over:
        if push.sure and _is(theirs, push.pushed_version, push.pushed_at):
            return replace(decision, since=push.at)
    if not agreed.in_flight:
        return decision
    carried = agreed.in_flight.keys() & theirs.document.keys()
    wrote = differences(agreed.in_flight, agreed.base or {}) & carried
    differing = {key for key in carried if not same(key, theirs.document, agreed.in_flight)}
    push = Over(agreed.base or {}, agreed.version, agreed.at, theirs.version, theirs.at, not differing)
    since = agreed.at if wrote and not wrote & differing else None
    return replace(decision, over=(*agreed.over, push)[-KEPT:], since=since)


def log_only(ours: Ours, theirs: Theirs, before: Document) -> Decision:
    """Perhaps our push wrote over the edit, perhaps their own next one did, or there is nothing that it could change:
    it is in the log."""
    losers = tuple(
        Loser(key, before.get(key), ours.document.get(key), value, "ours", REASON)
        for key, value in sorted(theirs.document.items())
        if not same(key, theirs.document, before) and not same(key, theirs.document, ours.document)
    )
    return Decision(Kind.KEEP, REASON, losers=losers, hidden=True) if losers else Decision(Kind.DROP, "stale")


def _is(theirs: Theirs, version: str | None, at: datetime | None) -> bool:
    return theirs.version == version if theirs.version and version else theirs.at == at


def _newer(version: str | None, at: datetime | None, than: str | None, than_at: datetime | None) -> bool:
    compared = compare_versions(version, than)
    return compared > 0 or (compared == 0 and at is not None and than_at is not None and at > than_at)
