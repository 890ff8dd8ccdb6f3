"""Older events that come late and tell that a value was there earlier than we believed. Pure.

A record has one time for all its fields. Of an event that tells of two edits in one, the older edit gets the time of
the newer; when the event between them comes at last, it is too old to change what they hold, but it shows when they
wrote it. What lost to that value by its time alone, and is newer in truth, gets its place back. So it makes no
difference in which order the events of one system come.

Only what was decided by time is decided again, and only within WITHIN: what a policy, a resolver or a person decided
stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from schemas.fields import Document, Json
from streams.rules.field_conflicts import same
from streams.rules.sides import Agreed, Decision, Kind, Loser, Ours, Policy, Terms, Theirs

REASON = "written_earlier"
RULES = frozenset({"last_write", REASON})
WITHIN = timedelta(days=1)
"""How long after a decision an older event may change it."""

EVERY_OTHER = ""
"""Key of the span of the fields that have none of their own: they are as they were when the record became known."""


@dataclass(frozen=True, slots=True)
class Span:
    """When they wrote what they hold of a field, by our clock: after the one time, and not after the other."""

    after: datetime | None
    by: datetime


Spans = Mapping[str, Span]


@dataclass(frozen=True, slots=True)
class Lost:
    """A value of a field that lost by its time."""

    field: str
    value: Json
    at: datetime


@dataclass(frozen=True, slots=True)
class Moved:
    """A value whose time becomes an earlier one, wherever the log names it."""

    field: str
    value: Json
    by: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Reopened:
    """What an old event changes: the decision, the spans after it, and times that the log has wrong."""

    decision: Decision
    spans: dict[str, Span] = field(default_factory=dict)
    moved: tuple[Moved, ...] = ()


def noted(spans: Spans, told: Document, base: Document | None, after: datetime | None, by: datetime) -> dict[str, Span]:
    """The spans after an event that is newer than all before it.

    Args:
        told: what it says they hold.
        base: what they held before; None when we did not know them.
        after: the time of that, by our clock.
    """
    if base is None:
        return {EVERY_OTHER: Span(None, by)}
    changed = {key for key in told if "/" not in key and not same(key, told, base)}
    return {**spans, **dict.fromkeys(changed, Span(after, by))}


def written_by(spans: Spans, key: str) -> datetime:
    """By when they had written what we know of a field, or the beginning of time."""
    span = spans.get(key, spans.get(EVERY_OTHER))
    return span.by if span else datetime.min.replace(tzinfo=UTC)


def reopen(
    ours: Ours, theirs: Theirs, agreed: Agreed, terms: Terms, spans: Spans, lost: Iterable[Lost], *, shared: bool
) -> Reopened | None:
    """What an event that is older than what we know tells of the times of it; None when it tells nothing.

    Args:
        lost: values that lost by their time within WITHIN.
        shared: other systems have the record, too. Else nothing can come that is to be compared with the earlier time.
    """
    if ours.deleted:
        return None
    base, at = agreed.base or {}, theirs.written_at
    found: dict[str, Span] = {}
    moved: list[Moved] = []
    raised: dict[str, Span] = {}
    for key in sorted(key for key in theirs.document.keys() & base.keys() if "/" not in key):
        span = spans.get(key, spans.get(EVERY_OTHER))
        if span is None or at >= span.by or (span.after is not None and at <= span.after):
            continue
        if same(key, theirs.document, base):
            found[key] = Span(span.after, at)
            moved.append(Moved(key, base[key], span.by, at))
        else:
            raised[key] = Span(at, span.by)
    decision = _decide(ours, base, terms, moved, list(lost))
    if decision.write or (moved and shared):
        return Reopened(decision, {**spans, **raised, **found}, tuple(moved))
    return Reopened(Decision(Kind.DROP, "stale", base=base), {**spans, **raised}) if raised else None


def revive(decision: Decision, ours: Ours, theirs: Theirs, agreed: Agreed, terms: Terms, spans: Spans) -> Decision:
    """A decision that makes a record live again, with what they wrote while it was deleted."""
    base, write, times, losers = agreed.base or {}, dict(decision.write), dict(decision.times), list(decision.losers)
    others = (key for key in theirs.document if "/" not in key and key not in decision.write)
    for key in sorted(others):
        news = same(key, theirs.document, base) and not same(key, theirs.document, ours.document)
        at = written_by(spans, key)
        if not news or not _is_clocked(key, terms) or at <= ours.edited_at.get(key, ours.modified_at):
            continue
        write[key], times[key] = theirs.document[key], at
        losers.append(Loser(key, base[key], ours.document.get(key), theirs.document[key], "theirs", REASON))
    return replace(decision, write=write, times=times, losers=tuple(losers))


def _is_clocked(key: str, terms: Terms) -> bool:
    return terms.policy_of(key) is Policy.LWW and key not in terms.protected


def _decide(ours: Ours, base: Document, terms: Terms, moved: list[Moved], lost: list[Lost]) -> Decision:
    write: Document = {}
    times: dict[str, datetime] = {}
    losers = []
    for each in moved:
        key = each.field
        if not same(key, ours.document, base) or ours.edited_at.get(key) != each.by:
            continue  # what we hold is not theirs, even if it is the same
        times[key] = each.at
        if winner := _newest(each, terms, lost):
            write[key], times[key] = winner.value, winner.at
            losers.append(Loser(key, base[key], winner.value, base[key], "ours", REASON))
    if not times:
        return Decision(Kind.DROP, "stale", base=base)
    correct = bool(write)
    return Decision(
        Kind.KEEP, REASON, write, base, tuple(losers), remote_needs_correction=correct, hidden=True, times=times
    )


def _newest(moved: Moved, terms: Terms, lost: list[Lost]) -> Lost | None:
    """What lost although it is newer than what was moved; None also where that is the same value, written anew."""
    if not _is_clocked(moved.field, terms):
        return None
    newer = [each for each in lost if each.field == moved.field and each.at - moved.at > terms.tolerance]
    others = [each for each in newer if not (each.at == moved.by and _is_same(each, moved))]
    newest = max(others, key=lambda each: each.at, default=None)
    return None if newest is None or _is_same(newest, moved) else newest


def _is_same(lost: Lost, moved: Moved) -> bool:
    return same(moved.field, {moved.field: lost.value}, {moved.field: moved.value})
