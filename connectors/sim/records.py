"""The sims' records to ours: items of answers and webhooks. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import orjson

from connectors.contract import ExternalRecord, Op, Page, Subscription
from connectors.errors import Ambiguous, Rejected, Suspicious
from connectors.http import Answer
from schemas import forms
from schemas.fields import Json
from schemas.problems import Problem

WEBHOOK_TYPE = "record.changed"
_OWN = frozenset({"id", "version", "updated_at"})


def record(kind: str, item: Json) -> ExternalRecord:
    """One item as a record. Raises Problem (`item_shape`, `time_unreadable`)."""
    try:
        occurred_at = forms.instant(item["updated_at"])
        deleted = bool(item.get("deleted"))
        return ExternalRecord(
            external_type=kind,
            external_id=str(item["id"]),
            op=Op.DELETE if deleted else Op.UPDATE,
            occurred_at=occurred_at,
            payload={} if deleted else {key: value for key, value in item.items() if key not in _OWN},
            external_version=str(item["version"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Problem("item_shape", "an item is no record of the sim") from None


def items(content: Json) -> list[Json]:
    """The items of a list. Raises Suspicious (`answer_shape`)."""
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise Suspicious("answer_shape", "the poll did not answer with a list", "Check the URL.")
    found: list[Json] = content["data"]
    return found


def place(item: Json) -> tuple[str, str]:
    """What a list is sorted by."""
    return (str(item.get("updated_at", "")), str(item.get("id", ""))) if isinstance(item, dict) else ("", "")


def page(kind: str, items: Iterable[Json], date: datetime | None) -> Page:
    """One page of a poll."""
    found: list[ExternalRecord] = []
    unreadable: list[tuple[bytes, Problem]] = []
    for item in items:
        try:
            found.append(record(kind, item))
        except Problem as problem:
            unreadable.append((orjson.dumps(item), problem))
    through = max((each.occurred_at for each in found), default=None)
    return Page(found, through, unreadable, date)


def subscriptions(content: Json) -> list[Subscription]:
    """The webhook subscriptions in an answer. Raises Suspicious."""
    try:
        return [
            Subscription(str(item["id"]), str(item["url"]), frozenset(item["types"]), bool(item["active"]))
            for item in content["data"]
        ]
    except (KeyError, TypeError):
        raise Suspicious("answer_shape", "the answer lists no subscriptions", "Check the URL.") from None


def parse_webhook(body: bytes) -> list[ExternalRecord]:
    """The record in a webhook `{"type", "kind", "record"}`. Raises Rejected (`webhook_unreadable`)."""
    try:
        content = orjson.loads(body)
        if content["type"] != WEBHOOK_TYPE:
            return []
        return [record(content["kind"], content["record"])]
    except (orjson.JSONDecodeError, KeyError, TypeError, Problem):
        raise Rejected("webhook_unreadable", "the webhook tells of no record") from None


def content(answer: Answer) -> Any:
    """An answer's JSON.

    Raises Ambiguous (`answer_unreadable`) when it is cut, Rejected for an error that is told with a 200.
    """
    if not answer.body:
        return {}
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        raise Ambiguous("answer_unreadable", "the answer's JSON is broken", status=answer.status) from None
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        raise Rejected(str(found["error"].get("code", "error_in_200")), message(found), status=answer.status)
    return found


def message(found: Any) -> str:
    """What they say of a refusal, cut to a line."""
    error = found.get("error") if isinstance(found, dict) else None
    told = error.get("message") if isinstance(error, dict) else error
    return str(told or "the sim refused the record")[:300]
