"""Which entity of ours a record of theirs is that has no link: one that a key names, alone and without doubt. Pure.

A key is a normalised value (an e-mail address, a national id) that hardly two entities share. Where keys name several
entities, or one that something else speaks against, nothing is guessed: a person decides.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from schemas.entity_types import EntityType
from schemas.fields import Aggregate, Document, Json, MatchRule

FEWEST_DIGITS = 7
"""Of a phone number that is one."""

_ADDRESS = re.compile(r"[^\s@]+@[^\s@]+")

Key = tuple[str, str]
"""(name of a rule, normalised value)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entity of ours that a record may be.

    Args:
        keys: the keys that name it.
        document: its root fields.
        linked_to: their id of another record that it is linked with at this connection; None when it is not.
    """

    entity_id: str
    keys: frozenset[Key]
    document: Document
    linked_to: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """What was found.

    Args:
        entity_id: the entity that the record is; None when it is none of ours, or that is in doubt.
        doubt: why a person must decide; empty when nobody need.
        candidates: for that person: `entity_id`, `keys` that name it (rules, no values), `against` what speaks against.
    """

    entity_id: str | None = None
    doubt: str = ""
    candidates: list[dict[str, Json]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person decided about a record that was in doubt.

    Args:
        entity_id: the one of ours that it is; None: somebody new.
        told_at: their time of what was decided about.
    """

    entity_id: str | None
    told_at: datetime

    def holds(self, unlinked_at: datetime | None) -> bool:
        """Whether it is still about that record: what was linked and unlinked since is a new question."""
        return unlinked_at is None or self.told_at > unlinked_at


def values(rule: MatchRule, document: Mapping[str, Json]) -> list[str]:
    """The values of a document that a rule takes for keys, as they are spelled there."""
    if not rule.part:
        found = [document.get(rule.column)]
    else:
        prefix = f"{rule.part}/"
        found = [part.get(rule.column) for key, part in document.items() if key.startswith(prefix) and part]
    return sorted({each for each in found if isinstance(each, str) and "\x00" not in each})


def decide(aggregate: Aggregate, root: EntityType, theirs: Document, candidates: Sequence[Candidate]) -> Match:
    """The entity that their record is, none, or a doubt.

    Args:
        theirs: its root fields.
        candidates: every living entity that one of its keys names.
    """
    if not candidates:
        return Match()
    against = {each.entity_id: _against(aggregate, root, theirs, each) for each in candidates}
    if len(candidates) == 1 and not against[candidates[0].entity_id]:
        return Match(candidates[0].entity_id)
    told: list[dict[str, Json]] = [
        {
            "entity_id": each.entity_id,
            "keys": sorted({rule for rule, _ in each.keys}),
            "linked_to": each.linked_to,
            "against": against[each.entity_id],
        }
        for each in sorted(candidates, key=lambda each: each.entity_id)
    ]
    if len(candidates) > 1:
        return Match(doubt="several_candidates", candidates=told)
    linked = candidates[0].linked_to is not None
    return Match(doubt="candidate_linked" if linked else "contradiction", candidates=told)


def answered(answer: Answer, candidate: Candidate | None) -> Match:
    """What a person decided, as far as it can be: who is gone, or is another record since, is asked about again.

    Args:
        candidate: the entity that was named; None when none was, or it is no more.
    """
    if answer.entity_id is None:
        return Match()
    if candidate is None:
        return Match(doubt="decided_gone", candidates=[{"entity_id": answer.entity_id}])
    if candidate.linked_to is not None:
        told: dict[str, Json] = {"entity_id": candidate.entity_id, "linked_to": candidate.linked_to}
        return Match(doubt="candidate_linked", candidates=[told])
    return Match(candidate.entity_id)


def twins(records: Mapping[str, Iterable[Key]]) -> dict[str, str]:
    """New records that share a key with one before them: their id -> the id of that one. `records`: in their order."""
    first: dict[Key, str] = {}
    found: dict[str, str] = {}
    for external_id, keys in records.items():
        mine = sorted(keys)
        if sharing := sorted({first[key] for key in mine if key in first}):
            found[external_id] = sharing[0]
        for key in mine:
            first.setdefault(key, external_id)
    return found


def by_entity(named: Iterable[tuple[Key, str]]) -> dict[str, frozenset[Key]]:
    """Entity id -> the keys that name it, of (key, entity id)."""
    found: dict[str, set[Key]] = defaultdict(set)
    for key, entity_id in named:
        found[entity_id].add(key)
    return {entity_id: frozenset(keys) for entity_id, keys in found.items()}


def alike(kinds: Mapping[str, str], one: Document, other: Document) -> bool:
    """Whether two parts are one that is spelled differently: of all columns that are keys they say the same.

    Args:
        kinds: column -> how its values are normalised.
    """
    pairs = [(kind, one.get(column), other.get(column)) for column, kind in kinds.items()]
    return bool(pairs) and all(_is_key(kind, mine) and same(kind, mine, theirs) for kind, mine, theirs in pairs)


def same(kind: str, one: Json, other: Json) -> bool:
    """Whether two values are one to a reader. `kind` is a field's `normalize`."""
    return bool(_plain(kind, one) == _plain(kind, other))


def _against(aggregate: Aggregate, root: EntityType, theirs: Document, candidate: Candidate) -> list[str]:
    """What speaks against a candidate: columns that both fill in, and differently; or that it is another record."""
    named_by = {rule for rule, _ in candidate.keys}
    columns = {column for rule in aggregate.match if rule.name in named_by for column in rule.agree}
    found = [] if candidate.linked_to is None else ["linked"]
    for column in sorted(columns):
        one, other = theirs.get(column), candidate.document.get(column)
        if one not in (None, "") and other not in (None, "") and not same(root.field(column).normalize, one, other):
            found.append(column)
    return found


def _is_key(kind: str, value: Json) -> bool:
    """As the database says it: what people type into a field that they must fill in is no key."""
    plain = _plain(kind, value)
    if not isinstance(plain, str):
        return False
    if kind == "phone":
        return len(plain) >= FEWEST_DIGITS
    return _ADDRESS.fullmatch(plain) is not None if kind == "email" else len(set(plain)) > 1


def _plain(kind: str, value: Json) -> Json:
    if not isinstance(value, str):
        return value
    text = unicodedata.normalize("NFKC", value).casefold()
    if kind == "phone":
        return "".join(each for each in text if each.isdecimal())
    if kind == "id":
        return "".join(each for each in text if not (each.isspace() or each in "./-"))
    return " ".join(text.split())
