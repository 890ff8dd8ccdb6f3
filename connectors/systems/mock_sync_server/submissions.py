"""DataCollect's FormSubmission, as this adapter and its emulator write and read it. Pure.

    {"guid", "entityGuid", "type", "data": {…}, "timestamp": ISO, "userId",
     "syncLevel": 0 local | 1 remote | 2 external}

All but syncLevel is required and not empty, `data` must have a key. A group's `data.entityName` tells which
kind of group it is; we set it in every submission.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from connectors.systems.mock_sync_server.fields import CAMPUS, HOUSEHOLD, INDIVIDUAL
from schemas.fields import Json

USER_ID = "syncline"
SYNC_LEVEL_EXTERNAL = 2
DELETE = "delete-entity"
ADD_MEMBER, REMOVE_MEMBER = "add-member", "remove-member"
ENTITY_NAME = "entityName"

_ID_PREFIXES = {"campus": CAMPUS, "household": HOUSEHOLD, "person": INDIVIDUAL}


def kind(external_type: str) -> str:
    """`individual` or `group`, the second half of a submission type."""
    return INDIVIDUAL if external_type == INDIVIDUAL else "group"


def external_type(submission_type: str, record_id: str, data: Mapping[str, Json]) -> str | None:
    """Which of the manifest's types a record is of, or None when nothing tells.

    The record itself says it best; a delete may carry no data, and then the ids we made do.
    """
    named = data.get(ENTITY_NAME)
    if named in (CAMPUS, HOUSEHOLD, INDIVIDUAL):
        return str(named)
    if submission_type.endswith("-individual"):
        return INDIVIDUAL
    return _ID_PREFIXES.get(record_id.rpartition("_")[0])


def iso(at: datetime) -> str:
    """A time as JavaScript writes it, UTC with milliseconds, rounded down."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time(value: Json) -> datetime | None:
    """A timestamp of theirs, aware and UTC; None when it is none. Numbers are milliseconds since 1970."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000, UTC)
        parsed = datetime.fromisoformat(value) if isinstance(value, str) else None
        if parsed is None:
            return None
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def members(change: str, held: Mapping[str, Json], data: Mapping[str, Json]) -> list[str]:
    """`memberIds` of a group after an `add-member` or `remove-member`, which name one member or several."""
    named = [data["memberId"]] if data.get("memberId") else []
    named += [m.get("guid") for m in data.get("members") or () if isinstance(m, dict) and m.get("guid")]
    before = list(held.get("memberIds") or ())
    if change == REMOVE_MEMBER:
        return [member for member in before if member not in named]
    return before + [member for member in dict.fromkeys(named) if member not in before]


def full_name(data: Mapping[str, Json]) -> str:
    """The `name` DataCollect shows for an individual; derived, so we write it and never read it back."""
    parts = (data.get("firstName"), data.get("middleName"), data.get("lastName"))
    return " ".join(str(part) for part in parts if part) or "Unnamed Individual"
