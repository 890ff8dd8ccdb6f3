"""Idempotency keys: the same wish has the same key, on whatever worker, however often it is sent (rule R5)."""

from __future__ import annotations

import hashlib
import uuid

from connectors.contract import Op


def idempotency_key(
    *, org_id: str, connection: str, external_type: str, entity_id: str, op: Op, generation: int, seq: int
) -> str:
    """A UUID (version 8) from the wish. A create's key has no `seq`: there is one create per generation."""
    parts = ["v1", org_id, connection, external_type, entity_id, op, str(generation)]
    if op is not Op.CREATE:
        parts.append(str(seq))
    digest = bytearray(hashlib.sha256("\x1f".join(parts).encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(digest)))
