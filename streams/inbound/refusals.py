"""What stands in an event's way, and whose business that is: nobody's (wait), a person's (review), the event's own.

The applier asks; nothing here touches the database.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import psycopg

from connectors.contract import MERGED_INTO
from schemas.events import InboundEvent
from schemas.fields import Json
from schemas.problems import Problem
from streams.inbound.incoming import Incoming, Unit

LONGEST_ID = 1000
"""Characters of an external id; an index cannot hold much more."""


def payload_of(event: InboundEvent) -> dict[str, Json]:
    """The whole record that an event holds; empty for a delete; for a merge, where the id of the other is.

    Raises:
        Problem: `id_unreadable`, `merge_unreadable`, `incomplete_event`, `payload_unreadable`.
    """
    if event.external_id and not _is_id(event.external_id):
        raise Problem("id_unreadable", "the record's id is too long or holds a zero character")
    if event.op == "delete" and event.complete:
        return {}
    if event.op == "hint" or not event.complete or not event.external_id:
        raise Problem("incomplete_event", "the event holds no whole record", "Poll the connection, or send it whole.")
    try:
        payload = orjson.loads(event.payload)
    except orjson.JSONDecodeError:
        payload = None
    if not isinstance(payload, dict):
        raise Problem("payload_unreadable", "the payload is no JSON object")
    if event.op == "merge" and not _is_id(payload.get(MERGED_INTO)):
        raise Problem("merge_unreadable", "the event does not say into which record this one was merged")
    return payload


def _is_id(text: Json) -> bool:
    return isinstance(text, str) and 0 < len(text) <= LONGEST_ID and "\x00" not in text


def passes_by_waiting(error: Exception) -> bool:
    """Whether no event is to blame: a neighbour is busy or down, or we are wrong about the database."""
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate or ""
    if isinstance(error, psycopg.errors.UniqueViolation):
        # Somebody linked the record at the same moment: the next try finds the link.
        return error.diag.constraint_name == "external_link_theirs"
    if isinstance(error, psycopg.IntegrityError | psycopg.DataError | psycopg.errors.RaiseException):
        return False
    return not state.startswith("54")  # a limit of the server that a value exceeds


def rule_of(error: psycopg.Error) -> str:
    """The name of the rule of the user's tables that refused a row."""
    return error.diag.constraint_name or error.diag.column_name or "a trigger"


def review(unit: Unit, each: Incoming, error: psycopg.Error) -> dict[str, Json]:
    """A review item that names the rule and keeps the record."""
    return kept(unit, each, "constraint", {"constraint": rule_of(error), "table": error.diag.table_name})


def kept(unit: Unit, each: Incoming, kind: str, detail: Mapping[str, Json]) -> dict[str, Json]:
    """A review item that keeps an event, so that it can be tried again."""
    event = each.event
    return {
        "org_id": event.org_id,
        "connection": event.connection,
        "kind": kind,
        "entity_type": unit.root.name,
        "subject": event.external_id,
        "value": each.raw.hex(),
        "detail": {
            **detail,
            "event_id": event.event_id.hex(),
            "external_type": event.external_type,
            "occurred_at": event.occurred_at,
            "position": each.position,
            # Postgres' JSON holds no zero character; such a payload is in the topic only.
            "payload": None if b"\\u0000" in event.payload else dict(each.payload),
        },
    }
