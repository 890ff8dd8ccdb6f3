"""The mock sync server's adapter: submissions, batches, tries, pauses, and items of every shape."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors import config
from connectors.contract import Delivered, ExternalRecord, Failed, Op, Write
from connectors.errors import Ambiguous, NotApplied, Rejected, Suspicious, Unauthorized
from connectors.systems import mock_sync_server
from connectors.systems.mock_sync_server import source, submissions
from connectors.systems.mock_sync_server.client import MockSyncClient
from connectors.systems.mock_sync_server.settings import MockSyncSettings
from schemas.fields import Json
from schemas.problems import Problem

SAMPLES = Path(mock_sync_server.__file__).parent / "samples"
AT = datetime(2025, 10, 3, 9, 15, 0, 123999, tzinfo=UTC)
URL = "http://localhost:3000/mock-sync"


def write(
    n: int = 1, op: Op = Op.CREATE, kind: str = "individual", external_id: str | None = None, **data: Json
) -> Write:
    return Write(op, kind, f"person_{n}", external_id, data, frozenset(), f"key-{n}", AT)


class Wire:
    """Answers requests by a function, keeps them, and counts what the client slept."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response], **settings: Any) -> None:
        self.requests: list[httpx.Request] = []
        self.slept: list[float] = []
        self.now = 100.0
        self._answer = answer
        http = httpx.AsyncClient(transport=httpx.MockTransport(self._handle))
        made = MockSyncSettings(url=URL, **settings)
        self.client = MockSyncClient(made, http, sleep=self._sleep, monotonic=lambda: self.now)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        made = self._answer(request)
        # as from the wire: read when somebody reads it
        return httpx.Response(made.status_code, headers=made.headers, stream=httpx.ByteStream(made.content))

    async def send(self, count: int) -> list[Any]:
        return list(await self.client.send([self.client.build(write(n)) for n in range(count)]))

    @property
    def batches(self) -> list[list[str]]:
        return [[item["guid"] for item in json.loads(request.content)["data"]] for request in self.requests]


def ok(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text="OK")


def test_a_create_is_a_form_submission() -> None:
    data = {"firstName": "Siân", "middleName": None, "lastName": "O'Brien", "emails": [{"id": "email_1"}]}
    assert json.loads(Wire(ok).client.build(write(1, **data))) == {
        "guid": "key-1",
        "entityGuid": "person_1",
        "type": "create-individual",
        "data": {**data, "entityName": "individual", "name": "Siân O'Brien"},
        "timestamp": "2025-10-03T09:15:00.123Z",
        "userId": "syncline",
        "syncLevel": 2,
    }


@pytest.mark.covers("C10")
@pytest.mark.parametrize(
    ("op", "kind", "expected"),
    [
        (Op.CREATE, "individual", "create-individual"),
        (Op.UPDATE, "individual", "update-individual"),
        (Op.CREATE, "household", "create-group"),
        (Op.UPDATE, "campus", "update-group"),
        (Op.DELETE, "campus", "delete-entity"),
        (Op.DELETE, "individual", "delete-entity"),
    ],
)
def test_submission_types_and_ids(op: Op, kind: str, expected: str) -> None:
    submission = json.loads(Wire(ok).client.build(write(1, op, kind, "theirs")))
    assert submission["type"] == expected
    assert submission["entityGuid"] == "theirs"
    assert submission["data"]["entityName"] == kind
    if op is Op.DELETE:
        assert submission["data"] == {"entityName": kind}


@pytest.mark.covers("F012", "F032")
@pytest.mark.parametrize(("size", "sizes"), [(100, [100, 1]), (25, [25, 25, 25, 25, 1]), (1000, [101])])
async def test_a_batch_never_holds_more_than_batch_size(size: int, sizes: list[int]) -> None:
    wire = Wire(ok, batch_size=size)
    outcomes = await wire.send(101)
    assert [len(batch) for batch in wire.batches] == sizes
    assert [guid for batch in wire.batches for guid in batch] == [f"key-{n}" for n in range(101)]
    assert [outcome.external_id for outcome in outcomes] == [f"person_{n}" for n in range(101)]


@pytest.mark.parametrize(
    ("response", "version"),
    [
        (httpx.Response(200), None),
        (httpx.Response(201, text="OK"), None),
        (httpx.Response(204), None),
        (httpx.Response(200, json=[]), None),
        (httpx.Response(200, json={"status": "success"}), None),
        (httpx.Response(200, json={"data": [{"guid": "other", "timestamp": "2025-01-01T00:00:00Z"}]}), None),
        (httpx.Response(200, json={"data": [{"guid": "key-0", "timestamp": 7}, 3]}), None),
        (
            httpx.Response(200, json={"data": [{"guid": "key-0", "timestamp": "2025-01-01T00:00:00Z"}]}),
            "2025-01-01T00:00:00Z",
        ),
    ],
)
async def test_any_2xx_is_success(response: httpx.Response, version: str | None) -> None:
    (outcome,) = await Wire(lambda _: response).send(1)
    assert isinstance(outcome, Delivered)
    assert outcome.external_version == version
    assert (outcome.external_updated_at is None) == (version is None)


async def test_broken_json_is_perhaps_applied() -> None:
    response = httpx.Response(200, content=b'{"status":', headers={"content-type": "application/json"})
    (outcome,) = await Wire(lambda _: response).send(1)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, Ambiguous)


@pytest.mark.covers("F013")
async def test_retry_attempts_send_the_same_bytes_again() -> None:
    answers = [503, 429, 200]
    wire = Wire(lambda _: httpx.Response(answers.pop(0)), retry_attempts=3)
    (outcome,) = await wire.send(1)
    assert isinstance(outcome, Delivered)
    assert len({request.content for request in wire.requests}) == 1
    assert wire.slept == [0.1, 0.2]


@pytest.mark.parametrize(
    ("status", "headers", "tries", "error"),
    [
        (500, {}, 4, Ambiguous),
        (429, {}, 4, NotApplied),
        (429, {"retry-after": "1"}, 4, NotApplied),
        (429, {"retry-after": "30"}, 1, NotApplied),
        (401, {}, 1, Unauthorized),
        (422, {}, 1, Rejected),
        (302, {}, 1, Suspicious),
    ],
)
async def test_only_what_may_pass_is_tried_again(status: int, headers: dict[str, str], tries: int, error: type) -> None:
    wire = Wire(lambda _: httpx.Response(status, headers=headers), retry_attempts=3)
    (outcome,) = await wire.send(1)
    assert isinstance(outcome, Failed)
    assert type(outcome.error) is error
    assert len(wire.requests) == tries


async def test_without_retry_attempts_there_is_one_try() -> None:
    wire = Wire(lambda _: httpx.Response(500))
    await wire.send(1)
    assert len(wire.requests) == 1


@pytest.mark.covers("F014")
async def test_the_pause_is_between_batches_only() -> None:
    wire = Wire(ok, batch_size=10, delay_between_batches=500)
    await wire.send(25)
    assert wire.slept == [0.0, 0.5, 0.5]
    wire.now += 60
    await wire.send(1)
    assert wire.slept[-1] == 0.0


@pytest.mark.covers("C11")
async def test_after_a_failed_batch_nothing_is_sent() -> None:
    answers = [200, 500, 200]
    wire = Wire(lambda _: httpx.Response(answers.pop(0)), batch_size=2)
    outcomes = await wire.send(6)
    kinds = [type(o.error) if isinstance(o, Failed) else None for o in outcomes]
    assert kinds == [None, None, Ambiguous, Ambiguous, NotApplied, NotApplied]
    assert len(wire.requests) == 2


@pytest.mark.covers("C17")
async def test_a_refused_batch_is_halved_to_the_refused_one() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400 if b'"key-5"' in request.content else 200)

    wire = Wire(answer)
    outcomes = await wire.send(8)
    assert [isinstance(outcome, Failed) for outcome in outcomes] == [n == 5 for n in range(8)]
    assert isinstance(outcomes[5].error, Rejected)
    assert len(wire.requests) <= 7


@pytest.mark.covers("F007", "F086")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"auth": "none", "username": "u", "password": "p"}, {}),
        ({"auth": "basic"}, {}),
        (
            {"auth": "basic", "username": "u", "password": "ü"},
            {"authorization": "Basic " + base64.b64encode("u:ü".encode()).decode()},
        ),
        ({"auth": "api-key", "api_key": "k"}, {"x-api-key": "k"}),
    ],
)
async def test_credentials(settings: dict[str, str], expected: dict[str, str]) -> None:
    wire = Wire(ok, **settings)
    await wire.send(1)
    sent = wire.requests[0].headers
    assert {name: sent[name] for name in ("authorization", "x-api-key") if name in sent} == expected


@pytest.mark.covers("F086")
def test_an_unsupported_authentication_is_an_authentication_failure() -> None:
    with pytest.raises(Unauthorized, match="auth_unsupported"):
        Wire(ok, auth="kerberos")


@pytest.mark.covers("F032")
@pytest.mark.parametrize(
    ("since", "sent"), [(None, ""), (AT, "2025-10-03T09:15:00.123Z"), (AT + timedelta(microseconds=1), None)]
)
async def test_a_pull_tells_since_when_in_their_precision(since: datetime | None, sent: str | None) -> None:
    wire = Wire(lambda _: httpx.Response(200, json=[]))
    async for _ in wire.client.pages("individual", since):
        pass
    assert wire.requests[0].url.params["since"] == (sent if sent is not None else "2025-10-03T09:15:00.124Z")


ANSWERED = datetime(2025, 10, 3, 10, 0, tzinfo=UTC)
TIME = "2025-10-03T09:15:00.123Z"


def record(kind: str, record_id: str, payload: Json, op: Op = Op.UPDATE, version: str | None = TIME) -> ExternalRecord:
    occurred_at = ANSWERED if version is None else datetime(2025, 10, 3, 9, 15, 0, 123000, tzinfo=UTC)
    return ExternalRecord(kind, record_id, op, occurred_at, payload, version)


ITEMS: list[tuple[Json, ExternalRecord | str]] = [
    (
        {"id": "1", "type": "update-individual", "timestamp": TIME, "data": {"firstName": "A", "name": "A B"}},
        record("individual", "1", {"firstName": "A"}),
    ),
    (
        {"id": "1", "type": "create-group", "timestamp": TIME, "data": {"entityName": "campus", "name": "N"}},
        record("campus", "1", {"name": "N"}),
    ),
    (
        {"id": "1", "type": "external-pull", "timestamp": TIME, "data": {"entityName": "household", "name": "N"}},
        record("household", "1", {"name": "N"}),
    ),
    (
        {"id": "1", "timestamp": TIME, "entityName": "individual", "firstName": "flat"},
        record("individual", "1", {"firstName": "flat"}),
    ),
    ({"id": 7, "timestamp": TIME, "data": {"entityName": "campus"}}, record("campus", "7", {})),
    (
        {"id": "person_01h", "type": "delete-entity", "timestamp": TIME, "data": {}},
        record("individual", "person_01h", {}, Op.DELETE),
    ),
    (
        {"id": "1", "type": "delete-entity", "timestamp": TIME, "data": {"entityName": "campus"}},
        record("campus", "1", {}, Op.DELETE),
    ),
    ({"id": "1", "data": {"entityName": "campus"}}, record("campus", "1", {}, version=None)),
    ({"id": "1", "timestamp": "noon", "data": {"entityName": "campus"}}, record("campus", "1", {}, version=None)),
    ({"id": "1", "timestamp": True, "data": {"entityName": "campus"}}, record("campus", "1", {}, version=None)),
    ({"timestamp": TIME, "data": {"entityName": "campus"}}, "item_without_id"),
    ({"id": "", "timestamp": TIME, "data": {"entityName": "campus"}}, "item_without_id"),
    ({"id": True, "timestamp": TIME, "data": {"entityName": "campus"}}, "item_without_id"),
    ({"id": ["1"], "timestamp": TIME, "data": {"entityName": "campus"}}, "item_without_id"),
    ({"id": "1", "type": "delete-entity", "timestamp": TIME, "data": {}}, "item_type_unknown"),
    ({"id": "1", "type": "create-group", "timestamp": TIME, "data": {"name": "N"}}, "item_type_unknown"),
    ({"id": "1", "timestamp": TIME, "data": {"entityName": ["x"]}}, "item_type_unknown"),
    ("text", "item_shape"),
    (None, "item_shape"),
]


@pytest.mark.covers("C4", "C5")
@pytest.mark.parametrize(("item", "expected"), ITEMS)
def test_items_of_every_shape(item: Json, expected: ExternalRecord | str) -> None:
    read = source.read_item(item, ANSWERED)
    if isinstance(expected, str):
        assert isinstance(read, Problem)
        assert read.code == expected
    else:
        assert read == expected


def test_an_item_without_any_time_is_no_record() -> None:
    read = source.read_item({"id": "1", "data": {"entityName": "campus"}}, None)
    assert isinstance(read, Problem)
    assert read.code == "item_without_time"


@pytest.mark.parametrize("body", [b"{}", b'{"records":[]}', b"null", b"", b"<html>", b'"x"'])
async def test_a_pull_that_is_no_array_is_suspicious(body: bytes) -> None:
    wire = Wire(lambda _: httpx.Response(200, content=body))
    with pytest.raises(Suspicious, match="answer_shape"):
        _ = [page async for page in wire.client.pages("campus", None)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2025-10-03T09:15:00Z", datetime(2025, 10, 3, 9, 15, tzinfo=UTC)),
        ("2025-10-03T11:15:00+02:00", datetime(2025, 10, 3, 9, 15, tzinfo=UTC)),
        ("2025-10-03 09:15:00", datetime(2025, 10, 3, 9, 15, tzinfo=UTC)),
        (1759482900000, datetime(2025, 10, 3, 9, 15, tzinfo=UTC)),
        (1e30, None),
        ("", None),
        ("0001-01-01T00:00:00+14:00", None),
        ({}, None),
    ],
)
def test_times(value: Json, expected: datetime | None) -> None:
    assert submissions.time(value) == expected


@pytest.mark.covers("C9")
def test_members_are_added_and_removed_several_at_once() -> None:
    held = {"memberIds": ["a"]}
    several = {"members": [{"guid": "a"}, {"guid": "b"}, {"guid": "c"}, {"guid": "c"}, {}, 1], "memberId": "d"}
    assert submissions.members(submissions.ADD_MEMBER, held, several) == ["a", "d", "b", "c"]
    assert submissions.members(submissions.REMOVE_MEMBER, held, several) == []
    assert submissions.members(submissions.ADD_MEMBER, {}, {}) == []


def test_the_samples_are_what_the_adapter_reads_and_writes() -> None:
    read = {path.stem: path.read_bytes() for path in SAMPLES.glob("*.json")}
    made = config.settings(config.load(read["external-sync"]), MockSyncSettings)
    assert (made.batch_size, made.retry_attempts) == (25, 3)
    assert [r.external_type for r in mock_sync_server.ADAPTER.parse_webhook(read["webhook"])] == ["individual"]
    items = [source.read_item(item, None) for item in json.loads(read["pull"])]
    assert [item.external_type for item in items if isinstance(item, ExternalRecord)] == [
        "household",
        "individual",
        "individual",
    ]
    (submission,) = json.loads(read["push"])["data"]
    data = {k: v for k, v in submission["data"].items() if k not in ("entityName", "name")}
    made_write = Write(
        Op.CREATE,
        "individual",
        submission["entityGuid"],
        None,
        data,
        frozenset(),
        submission["guid"],
        datetime(2025, 10, 3, 9, 15, tzinfo=UTC),
    )
    assert json.loads(Wire(ok).client.build(made_write)) == submission
