"""The mock sync server DataCollect has no copy of: its client's protocol, answered.

It keeps what it is sent as DataCollect's own server would (`data` merged key by key), takes a repeated submission for
what it is, and compares `since` strictly, as its client needs. Own faults: `object` (a pull that is no array), `no-id`,
`no-timestamp` (of the pull's first item), `equal-timestamps` (a batch does not move the clock), `reject` (option
`last_name`: a batch with such an individual is refused with 422).
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from connectors.emulators.world import Call, Reply, World, reply
from connectors.systems.mock_sync_server import seeds, submissions
from connectors.systems.mock_sync_server.fields import CAMPUS, HOUSEHOLD, INDIVIDUAL
from connectors.systems.mock_sync_server.source import WEBHOOK_TYPE
from schemas.fields import Json

BATCH_LIMIT = 100
KEPT_GUIDS = 1_000_000
STALE_S = 2.0
_REQUIRED = ("guid", "entityGuid", "type", "timestamp", "userId")
_TYPES = (CAMPUS, HOUSEHOLD, INDIVIDUAL)


@dataclass(slots=True)
class _Record:
    id: str
    type: str
    timestamp: str
    data: dict[str, Json]

    def item(self) -> dict[str, Json]:
        return {"id": self.id, "type": self.type, "timestamp": self.timestamp, "data": self.data}


class MockSyncServer:
    """The server; see `connectors.emulators.world.System`. A record in its state is an item of its pull."""

    own_faults: ClassVar[Collection[str]] = ("object", "no-id", "no-timestamp", "equal-timestamps", "reject")

    def __init__(self, world: World) -> None:
        self._world = world
        self._records: dict[str, dict[str, _Record]] = {kind: {} for kind in _TYPES}
        self._guids: dict[str, str] = {}

    def connection(self, url: str) -> dict[str, Json]:
        """The `externalSync` document of a connection to this server."""
        return {"type": "mock-sync-server", "url": f"{url}/mock-sync", "extraFields": []}

    def webhook_secret(self) -> str:
        """A Standard Webhooks secret."""
        return "whsec_" + base64.b64encode(b"mock-sync-server-emulator-secret").decode()

    def control(self, name: str, content: Json) -> Json:  # noqa: ARG002
        """Nothing beside faults."""
        return None

    def handle(self, call: Call) -> Reply:
        """POST takes submissions, GET gives records, at any path."""
        if call.method == "POST":
            return self._push(call)
        if call.method == "GET":
            return self._pull(call)
        return reply(405, {"error": "POST submissions or GET records"})

    def records(self) -> Mapping[str, Mapping[str, Json]]:
        """Type -> id -> the record as an item of a pull."""
        return {
            kind: {r.id: r.item() for r in records.values() if r.type != submissions.DELETE}
            for kind, records in self._records.items()
        }

    def deleted(self) -> Mapping[str, Collection[str]]:
        """Type -> ids of deleted records."""
        return {
            kind: [r.id for r in records.values() if r.type == submissions.DELETE]
            for kind, records in self._records.items()
        }

    def put(self, kind: str, record_id: str | None, fields: Mapping[str, Any]) -> Json:
        """Add or edit a record as its own user would: the fields are merged into its `data`."""
        records = self._records[kind]
        record_id = record_id or str(uuid.UUID(int=self._world.dice.getrandbits(128), version=4))
        verb = "update" if record_id in records else "create"
        data = {submissions.ENTITY_NAME: kind, **fields}
        return self._store(kind, record_id, f"{verb}-{submissions.kind(kind)}", data).item()

    def remove(self, kind: str, record_id: str) -> bool:
        """Delete a record as its own user would."""
        found = self._records[kind].get(record_id)
        if found is None or found.type == submissions.DELETE:
            return False
        self._store(kind, record_id, submissions.DELETE, {submissions.ENTITY_NAME: kind})
        return True

    def seed(self, count: int) -> None:
        """Add campuses, households and `count` individuals that were always there."""
        for kind, record_id, data in seeds.records(count, self._world.dice):
            timestamp = submissions.iso(self._world.clock.stamp())
            self._records[kind][record_id] = _Record(record_id, f"create-{submissions.kind(kind)}", timestamp, data)

    def _push(self, call: Call) -> Reply:
        try:
            content = orjson.loads(call.body)
        except orjson.JSONDecodeError:
            return reply(400, {"error": "the body is no JSON"})
        items = content.get("data") if isinstance(content, dict) else None
        if not isinstance(items, list):
            return reply(400, {"error": "the body must be {data: [submission, …]}"})
        if len(items) > BATCH_LIMIT:
            return reply(413, {"error": f"at most {BATCH_LIMIT} submissions"})
        for i, item in enumerate(items):
            mistake = _mistake(item)
            if mistake:
                return reply(400, {"error": f"data[{i}]: {mistake}"})
        keys = [item["entityGuid"] for item in items]
        kinds = {self._kind(item) for item in items}
        kind = kinds.pop() if len(kinds) == 1 else None
        refused = self._refused(call, items)
        if refused is not None:
            return reply(422, {"error": f"data[{refused}]: refused"}, kind=kind, keys=keys)
        again = self._world.strikes("equal-timestamps", call) is not None
        answer = [self._apply(item, again=again) for item in items]
        return reply(200, {"status": "success", "data": answer}, kind=kind, keys=keys)

    def _refused(self, call: Call, items: list[dict[str, Json]]) -> int | None:
        """Index of the first submission a `reject` fault is about."""
        fault = self._world.strikes("reject", call)
        if fault is None:
            return None
        name = fault.options.get("last_name")
        return next((i for i, item in enumerate(items) if name in (None, item["data"].get("lastName"))), None)

    def _apply(self, item: dict[str, Json], *, again: bool) -> dict[str, str]:
        guid, record_id, submission_type = item["guid"], item["entityGuid"], item["type"]
        self._world.journal.count("submissions")
        kind = self._kind(item)
        if guid in self._guids:
            self._world.journal.count("duplicate_guids")
        else:
            if len(self._guids) >= KEPT_GUIDS:
                del self._guids[next(iter(self._guids))]
            timestamp = submissions.iso(self._world.clock.now())
            if kind is not None:
                if submission_type.startswith("create-"):
                    self._world.journal.created(kind, record_id)
                timestamp = self._store(kind, record_id, submission_type, item["data"], again=again).timestamp
            self._guids[guid] = timestamp
        return {"guid": guid, "entityGuid": record_id, "timestamp": self._guids[guid]}

    def _kind(self, item: dict[str, Json]) -> str | None:
        """The type of the record a submission is about; None for one we only take note of."""
        told = submissions.external_type(item["type"], item["entityGuid"], item["data"])
        return told or next((kind for kind in _TYPES if item["entityGuid"] in self._records[kind]), None)

    def _store(self, kind: str, record_id: str, change: str, data: dict[str, Json], *, again: bool = False) -> _Record:
        timestamp = submissions.iso(self._world.clock.stamp(again=again))
        records = self._records[kind]
        before = records.get(record_id)
        held = {} if before is None or before.type == submissions.DELETE else before.data
        if change in (submissions.ADD_MEMBER, submissions.REMOVE_MEMBER):
            data = {"memberIds": submissions.members(change, held, data)}
        if change != submissions.DELETE:
            data = {**held, **data}
        record = records[record_id] = _Record(record_id, change, timestamp, data)
        self._world.announce(record_id, orjson.dumps({"type": WEBHOOK_TYPE, "record": record.item()}))
        return record

    def _pull(self, call: Call) -> Reply:
        since = call.query.get("since", "")
        known = submissions.time(since)
        after = since if known is None else submissions.iso(known)
        stale = self._world.strikes("stale-read", call)
        until = "~"
        if stale is not None:
            now = self._world.clock.now().timestamp() - stale.options.get("seconds", STALE_S)
            until = submissions.iso(submissions.time(now * 1000) or self._world.clock.now())
        found = [r for records in self._records.values() for r in records.values() if after < r.timestamp <= until]
        found.sort(key=lambda r: r.timestamp)
        items = [record.item() for record in found]
        for fault, key in (("no-id", "id"), ("no-timestamp", "timestamp")):
            if items and self._world.strikes(fault, call):
                del items[0][key]
        content: Json = {"records": items} if self._world.strikes("object", call) else items
        return reply(200, content)


def _mistake(item: Json) -> str:
    """What is wrong with a submission, as DataCollect's own validation sees it; empty when nothing."""
    if not isinstance(item, dict):
        return "must be an object"
    for name in _REQUIRED:
        value = item.get(name)
        if not isinstance(value, str) or not value:
            return f"{name} is required and must be a text that is not empty"
    if not isinstance(item.get("data"), dict) or not item["data"]:
        return "data is required and must have a key"
    return ""


EMULATOR = MockSyncServer
