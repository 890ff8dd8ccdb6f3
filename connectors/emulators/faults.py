"""Which fault strikes which call: a list of rules, a seeded dice."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.problems import Problem

BEFORE = frozenset({"429", "5xx-before", "html", "expire-token", "slow", "half-open"})
"""Strike before the system sees the call (`slow` only delays it, `half-open` never answers)."""
AFTER = frozenset({"5xx-after", "drop-after", "truncate"})
"""Strike the answer: what the call asked for is done."""
READS = frozenset({"stale-read"})
"""The system itself answers with what it held a moment ago."""
WEBHOOKS = frozenset({"webhook-drop", "webhook-duplicate", "webhook-reorder"})
KINDS = BEFORE | AFTER | READS | WEBHOOKS


@dataclass(slots=True)
class Fault:
    """One rule.

    Args:
        rate: chance per call, 0 to 1; 1 when neither it nor `left` is given.
        left: strikes the next so many calls, then never.
        match: prefix of the path.
        method: of the call, any when empty.
        contains: text in the path or the body.
        options: whatever else was given: `delay_ms`, `retry_after`, `seconds`, a system's own.
    """

    kind: str
    rate: float | None = None
    left: int | None = None
    match: str = ""
    method: str = ""
    contains: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


class Faults:
    """The rules in force."""

    def __init__(self, known: Collection[str], dice: random.Random) -> None:
        self._known = frozenset(known) | KINDS
        self._dice = dice
        self._rules: list[Fault] = []

    def set(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Replace all rules. Raises Problem (`fault_invalid`), and then changes nothing."""
        self._rules = [self._parse(rule) for rule in rules]

    def draw(self, kinds: Collection[str], path: str, method: str = "", body: bytes = b"") -> Fault | None:
        """The first rule of these kinds that strikes this call, or None."""
        if not self._rules:
            return None
        for rule in self._rules:
            if rule.kind not in kinds or not path.startswith(rule.match) or rule.method not in ("", method):
                continue
            if rule.contains and rule.contains not in path and rule.contains.encode() not in body:
                continue
            if rule.left is not None:
                if rule.left > 0:
                    rule.left -= 1
                    return rule
            elif self._dice.random() < (1.0 if rule.rate is None else rule.rate):
                return rule
        return None

    def _parse(self, rule: Mapping[str, Any]) -> Fault:
        given = dict(rule)
        kind, rate, left = given.pop("kind", None), given.pop("rate", None), given.pop("next", None)
        if kind not in self._known:
            raise _invalid(f"there is no fault {kind}; there are {', '.join(sorted(self._known))}")
        if rate is not None and not (isinstance(rate, int | float) and 0 <= rate <= 1):
            raise _invalid(f"the rate of {kind} must be a number from 0 to 1")
        if left is not None and not (isinstance(left, int) and left >= 0):
            raise _invalid(f"next of {kind} must be a whole number")
        return Fault(
            kind,
            rate,
            left,
            str(given.pop("match", "")),
            str(given.pop("method", "")),
            str(given.pop("contains", "")),
            given,
        )


def parse_option(text: str) -> dict[str, Any]:
    """The rule in a command line's `KIND:RATE`. Raises Problem (`fault_invalid`)."""
    kind, _, rate = text.partition(":")
    try:
        return {"kind": kind, "rate": float(rate or 1)}
    except ValueError:
        raise _invalid(f"{text} is not KIND:RATE") from None


def _invalid(cause: str) -> Problem:
    return Problem("fault_invalid", cause)
