"""JSON that means the same to every reader, or a refusal: no key twice, no depth without end, no number without bound.

Parsers differ in which of two equal keys counts, so a signed body with both could show one value to whoever checked it
and another to us. Pure.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from connectors.errors import Rejected

DEEPEST = 100
LONGEST_NUMBER = 400
"""Characters; a double needs 330 at most."""


def check(content: bytes) -> None:
    """Raise Rejected (`webhook_unreadable`) unless `content` is one JSON text in UTF-8 that leaves nothing open."""
    try:
        found = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_once,
            parse_constant=_refuse_constant,
            parse_int=_number,
            parse_float=_number,
        )
    except RecursionError:
        raise _unreadable(f"it is nested more than {DEEPEST} deep") from None
    except ValueError:
        raise _unreadable("it is no JSON in UTF-8") from None
    if _depth(found) > DEEPEST:
        raise _unreadable(f"it is nested more than {DEEPEST} deep")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _unreadable("it has a key twice")
    return found


def _number(text: str) -> str:
    if len(text) > LONGEST_NUMBER:
        raise _unreadable("it holds a number without bound")
    return text


def _refuse_constant(name: str) -> NoReturn:
    raise _unreadable(f"it holds {name}, which is no JSON")


def _depth(found: Any) -> int:
    """How deep the nesting goes; level by level, so that no input can exhaust the stack."""
    depth, level = 0, [found]
    while level and depth <= DEEPEST:
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        depth += 1
    return depth


def _unreadable(why: str) -> Rejected:
    return Rejected("webhook_unreadable", f"the webhook cannot be read: {why}")
