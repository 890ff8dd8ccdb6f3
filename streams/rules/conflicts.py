"""Ours, theirs, and what they held when we last agreed: what is written here, what is corrected there, who loses.

`decide` is pure and total: every pair of states has an answer, and every value that does not survive is named in
`losers`. Its steps, in this order:

    dominated       an older or repeated event              -> drop, unless our push hid it, see `rules.overtaken`
    delete          their record is gone                    -> by the connection's delete policy
    field by field  equal                                   -> nothing
                    only they changed it                    -> take, no clock needed
                    only we changed it                      -> keep, and correct them
                    both changed it                         -> its policy: last write wins, a side, a resolver …

Documents are compared key by key; a part is one unit.
"""

from __future__ import annotations

from datetime import datetime

from schemas.fields import Document
from streams.rules import clocks, overtaken
from streams.rules.field_conflicts import Fields, compare_versions, winner_of
from streams.rules.mapping import differences
from streams.rules.sides import Agreed, Decision, Kind, Loser, Ours, Policy, Question, Terms, Theirs, known_after


def decide(ours: Ours | None, theirs: Theirs, agreed: Agreed, terms: Terms) -> Decision:
    """Decide one event; `ours` is None for a record that has no entity here yet."""
    if old := _dominated(theirs, agreed, terms):
        if old == "stale" and (push := overtaken.hiding(theirs, agreed)):
            return overtaken.decide(ours, theirs, agreed, terms, push)
        return Decision(Kind.DROP, old, base=agreed.base or {})
    if theirs.deleted:
        return _decide_delete(ours, theirs, agreed, terms)
    base = known_after(agreed.base, theirs.document)
    if ours is None:
        write = {key: value for key, value in theirs.document.items() if value is not None}
        return Decision(Kind.TAKE, "new", write, base)
    if ours.deleted and not ours.deleted_there and not _edited_since(ours, theirs, agreed, terms):
        return overtaken.note_flight(_stay_deleted(ours, theirs, agreed, terms), theirs, agreed)
    return overtaken.note_flight(Fields(ours, theirs, agreed, terms).decide(), theirs, agreed)


def _dominated(theirs: Theirs, agreed: Agreed, terms: Terms) -> str:
    """Why the event tells nothing new, or an empty text. Their counter is asked before their clock."""
    if agreed.at is None:
        return ""
    newer = compare_versions(theirs.version, agreed.version)
    if newer < 0 or (newer == 0 and theirs.at < agreed.at and not _was_set_right(theirs, agreed.at, terms)):
        return "stale"
    if newer > 0 or theirs.at > agreed.at:
        return ""
    if not theirs.deleted and not _changes(theirs.document, agreed.base or {}):
        return "duplicate"
    received = theirs.received_at, agreed.received_at
    if not theirs.deleted and received[0] and received[1] and received[0] < received[1]:
        return "stale"
    return ""


def _was_set_right(theirs: Theirs, known: datetime, terms: Terms) -> bool:
    """Whether what we know was written by a clock that ran far ahead, and the event by one that does not."""
    late, received = terms.clock_error, theirs.received_at
    return clocks.is_beyond(known, received, late) and not clocks.is_beyond(theirs.at, received, late)


def _changes(document: Document, base: Document) -> frozenset[str]:
    """Keys of `document` that differ from `base`; what it does not mention is no difference."""
    return differences(document, {key: value for key, value in base.items() if key in document})


def _decide_delete(ours: Ours | None, theirs: Theirs, agreed: Agreed, terms: Terms) -> Decision:
    base = agreed.base or {}
    if ours is None:
        return Decision(Kind.KEEP, "unknown_there", base=base)
    if ours.deleted:
        return Decision(Kind.KEEP, "same", base=base, gone=ours.deleted_there or ours.deleted_elsewhere)
    if terms.delete == "ignore":
        return Decision(Kind.KEEP, "delete_ignored", base=base)
    # A field that they never mentioned and that is empty here was not edited.
    changed = sorted(k for k in _changes(ours.document, base) if k in base or ours.document[k] is not None)
    if not changed:
        return Decision(Kind.TAKE, "deleted_there", base=base, delete=True, gone=True)
    if terms.policy is Policy.MANUAL:
        asked = Question("deleted_at", None, None, theirs.at.isoformat(), "manual")
        return Decision(Kind.ASK, "manual", base=base, questions=(asked,))
    winner, rule = winner_of(ours, ours.last_edit, theirs, terms, terms.policy)
    rule = "delete" if rule == "last_write" else rule  # of the record, not of a value
    losers = tuple(Loser(k, base.get(k), ours.document.get(k), None, winner, rule) for k in changed)
    if winner == "ours":
        reason = "edited_here_since"
        return Decision(Kind.KEEP, reason, base=base, losers=losers, remote_needs_correction=True, gone=True)
    return Decision(Kind.TAKE, "deleted_there", base=base, losers=losers, delete=True, gone=True)


def _edited_since(ours: Ours, theirs: Theirs, agreed: Agreed, terms: Terms) -> bool:
    """Whether a user of theirs edited what another system's user had deleted before, not knowing: by last write wins
    the edit stands, as it does where it comes first. What comes with a push of ours tells our time, not theirs."""
    clocked = terms.policy in (Policy.LWW, Policy.LWW_RECORD)
    if not (ours.deleted_elsewhere and clocked) or agreed.in_flight or overtaken.is_push(theirs, agreed):
        return False
    edited = differences(theirs.document, agreed.base or {}) & theirs.document.keys()
    if not edited & differences(theirs.document, ours.document):
        return False
    return winner_of(ours, ours.modified_at, theirs, terms, terms.policy) == ("theirs", "last_write")


def _stay_deleted(ours: Ours, theirs: Theirs, agreed: Agreed, terms: Terms) -> Decision:
    """No later event brings back what was deleted here, or elsewhere after it; but what it said is kept."""
    base = agreed.base or {}
    changed = sorted(_changes(theirs.document, base))
    losers = tuple(
        Loser(key, base.get(key), ours.document.get(key), theirs.document[key], "ours", "deleted_here")
        for key in changed
    )
    return Decision(
        Kind.KEEP,
        "deleted_here",
        base=known_after(agreed.base, theirs.document),
        losers=losers,
        remote_needs_correction=terms.delete != "ignore",
    )
