"""Writes to FormSubmissions, and the answer to a POST back to one outcome per submission. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from connectors.contract import Delivered, Failed, Op, Outcome, Write
from connectors.errors import Ambiguous
from connectors.http import Answer
from connectors.systems.mock_sync_server import submissions
from connectors.systems.mock_sync_server.fields import INDIVIDUAL
from schemas.fields import Json


def build(write: Write) -> bytes:
    """One write as the bytes of one FormSubmission: the whole record, under the write's key.

    The record's id is ours for a create: a repeat meets the same record.
    """
    data: dict[str, Json] = {submissions.ENTITY_NAME: write.external_type}
    if write.op is not Op.DELETE:
        data |= write.payload
        if write.external_type == INDIVIDUAL:
            data["name"] = submissions.full_name(data)
    submission = {
        "guid": write.key,
        "entityGuid": write.external_id or write.entity_id,
        "type": _type(write),
        "data": data,
        "timestamp": submissions.iso(write.at),
        "userId": submissions.USER_ID,
        "syncLevel": submissions.SYNC_LEVEL_EXTERNAL,
    }
    return orjson.dumps(submission, option=orjson.OPT_SORT_KEYS)


def envelope(bodies: Sequence[bytes]) -> bytes:
    """The body of one POST."""
    return b'{"data":[' + b",".join(bodies) + b"]}"


def outcomes(bodies: Sequence[bytes], answer: Answer) -> list[Outcome]:
    """What a 2xx says of each submission: delivered, with their timestamp where the answer tells it.

    A body that calls itself JSON and is cut is Ambiguous; any other body is as good as none.
    """
    told: dict[str, str] = {}
    if answer.says_json and answer.body:
        try:
            told = _timestamps(orjson.loads(answer.body))
        except orjson.JSONDecodeError:
            error = Ambiguous("answer_unreadable", "the answer's JSON is broken", status=answer.status)
            return [Failed(error) for _ in bodies]
    return [_delivered(orjson.loads(body), told, answer.status) for body in bodies]


def _type(write: Write) -> str:
    return submissions.DELETE if write.op is Op.DELETE else f"{write.op}-{submissions.kind(write.external_type)}"


def _timestamps(content: Json) -> dict[str, str]:
    items = content.get("data") if isinstance(content, dict) else None
    if not isinstance(items, list):
        return {}
    return {
        str(item["guid"]): item["timestamp"]
        for item in items
        if isinstance(item, dict) and "guid" in item and isinstance(item.get("timestamp"), str)
    }


def _delivered(submission: dict[str, Json], told: dict[str, str], status: int) -> Delivered:
    version = told.get(submission["guid"])
    return Delivered(
        external_id=submission["entityGuid"],
        status=status,
        external_version=version,
        external_updated_at=submissions.time(version),
    )
