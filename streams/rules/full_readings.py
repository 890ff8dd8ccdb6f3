"""When a poll reads a type in full although it has a checkpoint (rule R20).

Polls go by the times that they tell. A record that was changed without a new time, became visible far too late, or is
gone without a word is found by nothing but a full reading. What it brings and we know has no effect; what it does not
bring is read once more, and never deleted for being absent.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256

JITTER = 0.1


def due(now: datetime, last: datetime | None, every: timedelta, jitter: float, *, failures: int = 0) -> bool:
    """Whether the poll that begins now reads all of it.

    Args:
        last: when the last full reading began that came to its end; None: there was none.
        every: how far they are apart, ± 10 %; zero for never.
        jitter: from 0 to 1: how early or late in that, so that not all types are read in one hour of the night.
        failures: polls that failed in a row. After one that did, the next reads what changed: a full reading that never
            comes to its end must not keep everything else waiting.
    """
    if not every or failures:
        return False
    return last is None or now - last >= every * (1 + JITTER * (2 * jitter - 1))


def jitter(org_id: str, connection: str, external_type: str, last: datetime | None) -> float:
    """From 0 to 1: the same for every poll until the full reading, another one for every type and every reading."""
    named = "\0".join((org_id, connection, external_type, last.isoformat() if last else ""))
    return int.from_bytes(sha256(named.encode(errors="surrogatepass")).digest()[:4]) / 0xFFFF_FFFF
