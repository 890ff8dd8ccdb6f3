"""Their records to ours: the items of a pull and the bodies of webhooks. Pure.

An item is `{"id", "type": last submission type, "timestamp", "data": {…}}`. Other servers of the protocol send the
fields beside `id` instead of in `data`; both are read. What is no record is told apart from what is, and stops nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import orjson

from connectors.contract import ExternalRecord, Op, Page
from connectors.errors import Rejected, Suspicious
from connectors.http import Answer
from connectors.systems.mock_sync_server import submissions
from connectors.systems.mock_sync_server.fields import INDIVIDUAL, MANIFEST
from schemas.fields import Json
from schemas.problems import Problem

WEBHOOK_TYPE = "record.changed"
_ENVELOPE = frozenset({"id", "type", "timestamp", "guid", "entityGuid", "userId", "syncLevel", "data"})
_FIRST_TYPE = MANIFEST.aggregates[0].external_type


def read_page(answer: Answer, external_type: str) -> Page:
    """The records of one type in a pull's answer, which holds all types.

    Items whose type cannot be told are reported with the manifest's first type only, so that each is met once. An item
    without a timestamp happened when they answered: the `Date` of the answer, and then does not move `through`.

    Raises Suspicious (`answer_shape`) for anything but an array.
    """
    try:
        items = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        items = None
    if not isinstance(items, list):
        raise Suspicious(
            "answer_shape", "the pull did not answer with an array", "Check the URL.", status=answer.status
        )
    records: list[ExternalRecord] = []
    unreadable: list[tuple[bytes, Problem]] = []
    for item in items:
        read = read_item(item, answer.date)
        if isinstance(read, ExternalRecord):
            records.append(read)
        elif external_type == _FIRST_TYPE:
            unreadable.append((orjson.dumps(item), read))
    # The answer tells of all types at once, so a type without news has been read as far as the others: else a type
    # without records would be read from the beginning, with everything else, by every poll.
    through = max((r.occurred_at for r in records if r.external_version is not None), default=None)
    records = [record for record in records if record.external_type == external_type]
    return Page(records, through, unreadable, answer.date)


def read_item(item: Json, answered_at: datetime | None) -> ExternalRecord | Problem:
    """One item as a record, or why it is none."""
    if not isinstance(item, dict):
        return Problem("item_shape", "an item of the pull is no object")
    record_id = item.get("id")
    if not isinstance(record_id, str | int) or isinstance(record_id, bool) or record_id == "":
        return Problem("item_without_id", "an item has no id")
    timestamp = item.get("timestamp")
    occurred_at = submissions.time(timestamp) or answered_at
    if occurred_at is None:
        return Problem("item_without_time", "an item has no timestamp, nor the answer a date")
    data = item["data"] if isinstance(item.get("data"), dict) else {k: v for k, v in item.items() if k not in _ENVELOPE}
    submission_type = str(item.get("type", ""))
    external_type = submissions.external_type(submission_type, str(record_id), data)
    if external_type is None:
        return Problem("item_type_unknown", "an item tells neither an entityName nor a type we know")
    deleted = submission_type == submissions.DELETE
    return ExternalRecord(
        external_type=external_type,
        external_id=str(record_id),
        op=Op.DELETE if deleted else Op.UPDATE,
        occurred_at=occurred_at,
        payload={} if deleted else _payload(external_type, data),
        external_version=None if submissions.time(timestamp) is None else str(timestamp),
    )


def parse_webhook(body: bytes) -> list[ExternalRecord]:
    """The record in a webhook `{"type": "record.changed", "record": item}`; other types hold none.

    Raises Rejected (`webhook_unreadable`).
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Rejected("webhook_unreadable", "the webhook is no JSON") from None
    if not isinstance(content, dict) or "type" not in content:
        raise Rejected("webhook_unreadable", "the webhook is no object with a type")
    if content["type"] != WEBHOOK_TYPE:
        return []
    read = read_item(content.get("record"), None)
    if isinstance(read, Problem):
        raise Rejected("webhook_unreadable", read.cause)
    return [read]


def _payload(external_type: str, data: Mapping[str, Json]) -> dict[str, Json]:
    derived = {submissions.ENTITY_NAME} | ({"name"} if external_type == INDIVIDUAL else set())
    return {key: value for key, value in data.items() if key not in derived}
