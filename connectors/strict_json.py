"""JSON that means the same to every reader, or a refusal: no key twice, no depth without end, no number without bound.

Parsers differ in which of two equal keys counts, so a signed body with both could show one value to whoever checked it
and another to us; and an integer of more than 64 bits becomes another number on its way. Pure, and linear in the
length: nesting is counted before anything is parsed, without a stack, and nothing is built.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, NoReturn

from connectors.errors import Rejected

DEEPEST = 100
LONGEST_NUMBER = 400
"""Characters; a double needs 330 at most."""
INTEGERS = range(-(2**63), 2**64)
"""What every reader between here and the database holds exactly."""

# A text ends with its quote or with the content, possessively: an open one costs one pass, not one for each quote.
_TEXT = re.compile(rb'"(?:[^"\\]++|\\(?:.|\Z))*+(?:"|\Z)', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS))


def check(content: bytes) -> None:
    """Raise Rejected unless `content` is one JSON text in UTF-8 that leaves nothing open.

    Codes: `json_too_deep`, `json_key_twice`, `json_number_unbounded`, `json_not_utf8`, `json_broken`.
    """
    opened = content.count(b"[") + content.count(b"{")
    if opened > DEEPEST and depth(content) > DEEPEST:
        raise _unreadable("json_too_deep", f"it is nested more than {DEEPEST} deep")
    try:
        json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_once,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_number,
        )
    except UnicodeDecodeError:
        raise _unreadable("json_not_utf8", "it is not in UTF-8") from None
    except ValueError:
        raise _unreadable("json_broken", "it is no JSON") from None


def depth(content: bytes) -> int:
    """How deep arrays and objects nest, counted by the brackets outside of texts, whatever else is there."""
    brackets = _TEXT.sub(b"", content).translate(None, _NO_BRACKETS)
    return max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise _unreadable("json_key_twice", "it has a key twice")


def _integer(text: str) -> None:
    if len(text) > 20 or int(text) not in INTEGERS:
        raise _unreadable("json_number_unbounded", "it holds an integer of more than 64 bits")


def _number(text: str) -> None:
    if len(text) > LONGEST_NUMBER or float(text) in (float("inf"), float("-inf")):
        raise _unreadable("json_number_unbounded", "it holds a number without bound")


def _refuse_constant(name: str) -> NoReturn:
    raise _unreadable("json_broken", f"it holds {name}, which is no JSON")


def _unreadable(code: str, why: str) -> Rejected:
    return Rejected(code, f"the webhook cannot be read: {why}")
