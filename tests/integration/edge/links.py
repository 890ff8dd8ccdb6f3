"""A captured link's schema, as Debezium writes it, for tests that write such records themselves."""

from __future__ import annotations

from typing import Any

REQUIRED = ("org_id", "id", "connection", "external_type", "external_id", "part", "entity_type", "sync_key", "made_by")
OPTIONAL = ("entity_id", "deleted_at")
VALUE = {
    "type": "record",
    "name": "Value",
    "fields": [
        *({"name": name, "type": "string"} for name in REQUIRED),
        *({"name": name, "type": ["null", "string"], "default": None} for name in OPTIONAL),
    ],
}
ENVELOPE: dict[str, Any] = {
    "type": "record",
    "name": "Envelope",
    "fields": [
        {"name": "before", "type": ["null", VALUE], "default": None},
        {"name": "after", "type": ["null", "Value"], "default": None},
        {
            "name": "source",
            "type": {"type": "record", "name": "Source", "fields": [{"name": "ts_ms", "type": "long"}]},
        },
        {"name": "op", "type": "string"},
    ],
}


def link(number: int, *, connection: str = "c1", made_by: str = "push", deleted: bool = False) -> dict[str, Any]:
    """The envelope of one link of person `number`."""
    row = {
        "org_id": "org",
        "id": f"link_{connection}_{number}",
        "connection": connection,
        "external_type": "Person",
        "external_id": str(number),
        "part": "",
        "entity_type": "person",
        "sync_key": f"org/person_{number}",
        "made_by": made_by,
        "entity_id": f"person_{number}",
        "deleted_at": "2026-01-01T00:00:00Z" if deleted else None,
    }
    return {"before": None, "after": row, "source": {"ts_ms": 1}, "op": "c"}
