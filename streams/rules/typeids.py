"""Ids of what an event brings: TypeIDs like `canon.typeid` makes them, but derived, so that a repeat makes the same."""

from __future__ import annotations

import hashlib
from datetime import datetime

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH = 26


def derived(prefix: str, at: datetime, *seed: bytes | str) -> str:
    """The id of something first seen `at` (it sorts by that) and named by `seed`: the same input, the same id."""
    parts = [part if isinstance(part, bytes) else part.encode() for part in seed]
    chance = hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
    milliseconds = max(0, int(at.timestamp() * 1000)) & (2**48 - 1)
    low = int.from_bytes(chance[:10], "big")
    # A UUIDv7: 48 bits of time, the version, 12 of chance, the variant, 62 of chance.
    number = milliseconds << 80 | 7 << 76 | (low >> 68) << 64 | 2 << 62 | low & (2**62 - 1)
    return f"{prefix}_{_base32(number)}"


def is_well_formed(text: str, prefix: str) -> bool:
    """Whether `text` looks like an id of ours with this prefix."""
    head, _, digits = text.rpartition("_")
    return head == prefix and len(digits) == _LENGTH and digits[0] in "01234567" and all(d in _DIGITS for d in digits)


def _base32(number: int) -> str:
    return "".join(_DIGITS[number >> shift & 31] for shift in range(125, -1, -5))
