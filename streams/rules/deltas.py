"""What a write changes of their record: the names of the fields, the old values and the new ones. Pure.

Absent is not empty: a field they did not have has no `old` in its change, and a field that they have and the write does
not carry is `removed`, while one that becomes empty is a change to None.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from schemas.fields import Document
from streams.rules import mapping

Delta = dict[str, Any]


def delta(base: Document | None, sent: Document, *, version: int | None, at: datetime | None) -> Delta | None:
    """`{"changes": [{"field", "old", "new"}], "removed": [field], "version", "timestamp"}`, fields in order.

    Args:
        base: the document they held before; None where nobody knows it any more, and then the answer is None as well.
        sent: the document they hold afterwards; empty after a deletion.
        version: of the entity as it was sent.
        at: time of the entity's last edit as it was sent.
    """
    if base is None:
        return None
    dropped = {name for name, value in base.items() if name not in sent and not (_part(name) and value is None)}
    gone = {name for name, value in sent.items() if _part(name) and value is None and base.get(name) is not None}
    removed = dropped | gone
    changed = sorted(mapping.differences(sent, base) - removed)
    changes = [
        {"field": name} | ({"old": base[name]} if name in base else {}) | {"new": sent[name]} for name in changed
    ]
    return {
        "changes": changes,
        "removed": sorted(removed),
        "version": version,
        "timestamp": at.isoformat() if at else None,
    }


def _part(name: str) -> bool:
    """Whether a key of a document names a part, of which None means that it is gone."""
    return "/" in name
