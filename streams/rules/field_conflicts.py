"""Field by field: who changed what since we last agreed, and who wins what both changed.

The middle of `streams.rules.conflicts.decide`, for an event newer than what we know of an entity that lives.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from schemas.fields import Document, Json
from streams.rules import resolvers
from streams.rules.mapping import differences
from streams.rules.sides import (
    Agreed,
    Decision,
    Kind,
    Loser,
    Ours,
    Policy,
    Question,
    Side,
    Terms,
    Theirs,
    Winner,
    known_after,
    merged,
)

_MISSING: Any = object()


def compare_versions(one: str | None, other: str | None) -> int:
    """-1, 0 or 1; 0 also where the two are no counters and cannot be compared."""
    if one is None or other is None or not (_is_counter(one) and _is_counter(other)):
        return 0
    return (int(one) > int(other)) - (int(one) < int(other))


def _is_counter(version: str) -> bool:
    return version.isascii() and version.isdecimal() and len(version) < 20


def winner_of(ours: Ours, ours_at: datetime, theirs: Theirs, terms: Terms, policy: Policy) -> tuple[Side, str]:
    """Who wins what both changed, and the rule that says so."""
    if policy is Policy.LOCAL:
        return "ours", "policy"
    if policy is Policy.REMOTE:
        return "theirs", "policy"
    if abs(ours_at - theirs.written_at) > terms.tolerance:
        return ("ours" if ours_at > theirs.written_at else "theirs"), "last_write"
    if terms.ties:
        return terms.ties, "priority"
    newer = compare_versions(str(ours.version), theirs.version)
    if newer:
        return ("ours" if newer > 0 else "theirs"), "higher_version"
    return "theirs", "remote_on_tie"


class Fields:
    """The comparison key by key; what it finds accumulates here."""

    def __init__(self, ours: Ours, theirs: Theirs, agreed: Agreed, terms: Terms) -> None:
        self._ours, self._theirs, self._agreed, self._terms = ours, theirs, agreed, terms
        self._base = agreed.base or {}
        self._known = bool(agreed.base)
        # A push that their answer put no time on is not covered by `agreed.at`: an event that is not later than it may
        # tell of a state our push has replaced since, so it is one of two concurrent writes, never plainly newer.
        self._overtaken = agreed.pushed_at is not None and theirs.at <= agreed.pushed_at
        self._write: Document = {}
        self._kept: set[str] = set()
        self._rules: set[str] = set()
        self._losers: list[Loser] = []
        self._questions: list[Question] = []

    def decide(self) -> Decision:
        """Compare, let the policy decide what both changed, and add up."""
        both = [key for key in sorted(self._theirs.document) if not self._settle(key)]
        self._settle_conflicts(both)
        asked = {q.field for q in self._questions}
        base = self._base_after()
        result = merged(self._ours.document, self._write)
        differing = (differences(result, base) & self._theirs.document.keys()) - asked - self._ours.hidden.keys()
        return Decision(
            self._kind(),
            self._reason(),
            self._write,
            base,
            tuple(self._losers),
            tuple(self._questions),
            remote_needs_correction=bool(differing),
            revive=self._ours.deleted,
        )

    def _settle(self, key: str) -> bool:
        """Settle a key that needs no clock; False when both sides changed it."""
        theirs = self._theirs.document
        if key in self._ours.hidden:
            return theirs[key] is None or (key in self._base and same(key, theirs, self._base))
        if same(key, theirs, self._ours.document):
            return True
        if self._settles_without_base(key):
            return True
        if not self._known or ("/" not in key and key not in self._base):
            return False
        if same(key, theirs, self._base):
            self._kept.add(key)
            return True
        if same(key, self._ours.document, self._base) and not self._overtaken:
            self._write[key] = theirs[key]
            return True
        return False

    def _settles_without_base(self, key: str) -> bool:
        theirs = self._theirs.document
        if key in self._agreed.in_flight and same(key, theirs, self._agreed.in_flight):
            # Our own push coming back before its answer: what we have changed since stays.
            self._kept.add(key)
            return True
        if "/" in key and self._base.get(key) is not None:
            return False
        if "/" in key and theirs[key] is None:
            # They lack a part that they never had: that is no removal.
            self._kept.add(key)
            return True
        if key not in self._ours.document and key not in self._ours.edited_at:
            # We never had it: there is nothing of ours it could replace.
            self._write[key] = theirs[key]
            return True
        return "/" not in key and key not in self._base and self._settles_one_sided(key)

    def _settles_one_sided(self, key: str) -> bool:
        """A field that we never agreed on: a value on one side only is kept, whoever wrote last."""
        if self._theirs.document[key] is None:
            self._kept.add(key)
            return True
        if self._ours.document[key] is None:
            self._write[key] = self._theirs.document[key]
            return True
        return False

    def _settle_conflicts(self, keys: list[str]) -> None:
        for key in keys:
            if question := self._question(key):
                self._questions.append(question)
                continue
            policy = self._terms.policy_of(key)
            if policy is Policy.MERGE and self._merges(key):
                continue
            whole = policy is Policy.LWW_RECORD or not self._known
            ours_at = self._ours.last_edit if whole else self._edited_at(key)
            self._decide_for(key, *self._winner(ours_at, policy))
        self._settle_record()

    def _winner(self, ours_at: datetime, policy: Policy) -> tuple[Side, str]:
        since = self._terms.since
        clocked = policy in (Policy.LWW, Policy.LWW_RECORD)
        if clocked and not self._known and since is not None and ours_at < since:
            return "theirs", "initial_sync"
        return winner_of(self._ours, ours_at, self._theirs, self._terms, policy)

    def _decide_for(self, key: str, winner: Side, rule: str) -> None:
        self._lose(key, winner, rule)
        if winner == "theirs":
            self._kept.discard(key)
            self._write[key] = self._theirs.document[key]
        else:
            self._write.pop(key, None)
            self._kept.add(key)

    def _lose(self, key: str, winner: Winner, rule: str) -> None:
        self._rules.add(rule)
        self._losers.append(Loser(key, self._base.get(key), self._value(key), self._theirs.document[key], winner, rule))

    def _merges(self, key: str) -> bool:
        """Let the resolver decide; where it cannot, a person is asked."""
        ours, theirs = self._value(key), self._theirs.document[key]
        made, done = resolvers.resolve(
            self._terms.resolver_of(key), key, ours, theirs, self._edited_at(key), self._theirs.written_at
        )
        if not done:
            self._questions.append(Question(key, self._base.get(key), ours, theirs, "unresolved"))
        elif same(key, {key: made}, {key: ours}):
            self._decide_for(key, "ours", "merge")
        elif same(key, {key: made}, {key: theirs}):
            self._decide_for(key, "theirs", "merge")
        else:
            self._lose(key, "neither", "merge")
            self._write[key] = made
        return True

    def _settle_record(self) -> None:
        """Literal last write wins: where both sides changed the record, the later one takes all of it."""
        asked = {q.field for q in self._questions}
        keys = {k for k in self._kept | self._write.keys() if self._terms.policy_of(k) is Policy.LWW_RECORD} - asked
        keys = {key for key in keys if not self._is_protected(key)}
        changed_here = {key for key in keys & self._kept if not self._is_unsaid(key)}
        if not (self._known and changed_here and keys & self._write.keys()):
            return
        winner, rule = winner_of(self._ours, self._ours.last_edit, self._theirs, self._terms, Policy.LWW_RECORD)
        for key in sorted(changed_here if winner == "theirs" else keys & self._write.keys()):
            self._decide_for(key, winner, rule)

    def _is_unsaid(self, key: str) -> bool:
        """Whether their record only lacks a part that they never had, or repeats what is on its way to them."""
        theirs, in_flight = self._theirs.document, self._agreed.in_flight
        never_theirs = "/" in key and theirs[key] is None and self._base.get(key) is None
        return never_theirs or (key in in_flight and same(key, theirs, in_flight))

    def _question(self, key: str) -> Question | None:
        protected = self._is_protected(key) and self._value(key) is not None
        if not protected and self._terms.policy_of(key) is not Policy.MANUAL:
            return None
        rule = "protected" if protected else "manual"
        return Question(key, self._base.get(key), self._value(key), self._theirs.document[key], rule)

    def _is_protected(self, key: str) -> bool:
        return key.partition("/")[0] in self._terms.protected

    def _value(self, key: str) -> Json:
        return self._ours.hidden.get(key, self._ours.document.get(key))

    def _edited_at(self, key: str) -> datetime:
        return self._ours.edited_at.get(key, self._ours.modified_at)

    def _base_after(self) -> Document:
        """They hold what they say; after an overtaken event they hold that or our push, and where the result is one of
        the two, it is not known, so that the correction is sent."""
        base = known_after(self._agreed.base, self._theirs.document)
        if not self._overtaken:
            return base
        result = merged(self._ours.document, self._write)
        for key in self._theirs.document:
            if same(key, self._theirs.document, result):
                base.pop(key, None)
                # Of what is empty here nothing but their value tells that they may still hold it.
                if key in self._base and (same(key, self._base, result) or result.get(key) is None):
                    base[key] = self._base[key]
        return base

    def _kind(self) -> Kind:
        if self._questions:
            return Kind.ASK
        if self._write:
            made = any(loser.winner == "neither" for loser in self._losers)
            return Kind.MERGE if self._kept or made else Kind.TAKE
        return Kind.TAKE if self._ours.deleted else Kind.KEEP

    def _reason(self) -> str:
        if self._questions:
            return self._questions[0].rule
        if self._rules:
            return min(self._rules)
        if self._write:
            return "newer_there"
        return "changed_here" if self._kept else "same"


def same(key: str, one: Document, other: Document) -> bool:
    """Whether two documents agree on a key; a part that is missing and one that is None are the same."""
    missing = None if "/" in key else _MISSING
    left, right = one.get(key, missing), other.get(key, missing)
    if type(left) is type(right) and left == right:
        return True
    return not differences({key: left}, {key: right})
