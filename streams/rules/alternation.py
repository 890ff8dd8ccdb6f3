"""A system that will not keep what we write: the same value comes back after every push of ours. Pure.

It upper-cases names, or another system behind it has other ideas. Each side then corrects the other for ever. Three
times within ten minutes may be people; the next time the field is put to a person, with both values, and is left alone
on both sides until then. The record's other fields go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

import orjson

from schemas.fields import Document, Json
from streams.rules.mapping import differences
from streams.rules.sides import Agreed, Decision, Kind, Ours, Question, Theirs, merged

WITHIN = timedelta(minutes=10)
SWINGS = 3
RULE = "alternating"

Pushed = Counter[tuple[str, bytes]]
"""(field, the value they held before) -> how many pushes lately replaced it."""


def pushed(changes: Iterable[Mapping[str, Json]]) -> Pushed:
    """Count the changes of confirmed pushes, `{"field", "old", "new"}` each."""
    return Counter((each["field"], _content(each["old"])) for each in changes if "old" in each)


def stop(decision: Decision, ours: Ours, theirs: Theirs, agreed: Agreed, lately: Pushed) -> Decision:
    """The decision, with the fields that alternate put to a person."""
    if not lately or decision.kind is Kind.DROP or theirs.deleted:
        return decision
    moved = differences(theirs.document, agreed.base or {}) & theirs.document.keys()
    asked = {question.field for question in decision.questions}
    swinging = sorted(
        key for key in moved - asked if lately[key, _content(theirs.document[key])] >= SWINGS and key in ours.document
    )
    swinging = [key for key in swinging if ours.document[key] != theirs.document[key]]
    if not swinging:
        return decision
    return _ask(decision, ours, theirs, agreed.base or {}, swinging, asked)


def _ask(
    decision: Decision, ours: Ours, theirs: Theirs, base: Document, swinging: list[str], asked: set[str]
) -> Decision:
    questions = tuple(Question(key, base.get(key), ours.document[key], theirs.document[key], RULE) for key in swinging)
    write = {key: value for key, value in decision.write.items() if key not in swinging}
    left = differences(merged(ours.document, write), decision.base) & theirs.document.keys()
    return replace(
        decision,
        kind=Kind.ASK,
        reason=RULE,
        write=write,
        losers=tuple(loser for loser in decision.losers if loser.field not in swinging),
        questions=decision.questions + questions,
        remote_needs_correction=bool(left - asked - set(swinging) - ours.hidden.keys()),
    )


def _content(value: Json) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
