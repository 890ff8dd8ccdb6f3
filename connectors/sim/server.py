"""The emulated sim: every behaviour the outbound engine must survive, switched on by the control API.

POST /_emulator/limits    {"calls": N, "per_s": S}; {} takes the limit away. Fixed windows, told in X-RateLimit-*
POST /_emulator/reject    {"type", "field", "equals", "message"}: such records are refused with 422; {} for none
POST /_emulator/settings  {"read_lag_s", "key_ttl_s", "later": writes are answered with 202, "error_200": refusals too,
                           "drift": N: before each of the next N pages the oldest record of the list is edited,
                           "patience": failed tries in a row after which a webhook subscription is deactivated}
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar

import orjson

from connectors.contract import CreateTier
from connectors.emulators.outbox import Subscriber
from connectors.emulators.world import JSON, Call, Reply, World, reply
from connectors.sim import items
from connectors.sim.fields import CAMPUSES, HOUSEHOLDS, MARKER, PEOPLE, REFERRALS
from connectors.sim.records import WEBHOOK_TYPE
from schemas.fields import Json

KINDS = (CAMPUSES, HOUSEHOLDS, PEOPLE, REFERRALS)
KEPT_KEYS = 1_000_000
PAGE = 100
STALE = timedelta(seconds=2)
Item = dict[str, Json]


@dataclass(slots=True)
class Settings:
    """What the control API sets."""

    read_lag_s: float = 0.0
    key_ttl_s: float = 24 * 3600.0
    later: bool = False
    error_200: bool = False
    drift: int = 0
    patience: int = 20
    reject: Mapping[str, str] = field(default_factory=dict)


class SimServer:
    """The server; see `connectors.emulators.world.System`. A record in its state is what GET answers."""

    own_faults: ClassVar[Collection[str]] = ("reject", "equal-timestamps")
    tier: ClassVar[CreateTier] = CreateTier.KEYED
    nested: ClassVar[bool] = False
    """Items of lists have ids, and a write replaces the whole record."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._records: dict[str, dict[str, Item]] = {kind: {} for kind in KINDS}
        self._deleted: dict[str, dict[str, Item]] = {kind: {} for kind in KINDS}
        self._made: dict[str, datetime] = {}
        self._by_marker: dict[tuple[str, str], str] = {}
        self._keys: dict[str, tuple[datetime, bytes, Reply]] = {}
        self._operations: dict[str, tuple[int, bytes]] = {}
        self._settings = Settings()
        self._limits = Limits(world)

    def connection(self, url: str) -> dict[str, Json]:
        """The `externalSync` document of a connection to this server."""
        return {"type": f"sim-{self.tier.value.replace('_', '-')}", "url": url, "extraFields": []}

    def webhook_secret(self) -> str:
        """A Standard Webhooks secret."""
        return "whsec_c2ltLWVtdWxhdG9yLXNlY3JldC1vZi0zMi1ieXRlcw=="

    def control(self, name: str, content: Any) -> Json:
        """What the control API sets beside faults; None for a name it does not know. Raises ValueError."""
        match name:
            case "limits":
                self._limits.set(int(content.get("calls", 0)), float(content.get("per_s", 0)))
            case "reject":
                self._settings.reject = dict(content)
            case "settings":
                for key, value in content.items():
                    if key not in Settings.__slots__:
                        raise ValueError(f"there is no setting {key}")
                    setattr(self._settings, key, value)
            case _:
                return None
        return {"status": "ok"}

    def handle(self, call: Call) -> Reply:
        """Answer one request within the limits."""
        spent = self._limits.spend()
        if spent:
            return spent
        told = self._batch(call) if call.path == "/v1/batch" else self._route(call)
        return self._limits.tell(told)

    def records(self) -> Mapping[str, Mapping[str, Json]]:
        """Type -> id -> record."""
        return self._records

    def deleted(self) -> Mapping[str, Collection[str]]:
        """Type -> ids of deleted records."""
        return self._deleted

    def put(self, kind: str, record_id: str | None, fields: Mapping[str, Any]) -> Json:
        """Add or edit a record as its own user would."""
        return self._store(kind, record_id or self._new_id(), dict(fields), announce=True)

    def remove(self, kind: str, record_id: str) -> bool:
        """Delete a record as its own user would."""
        return self._remove(kind, record_id)

    def seed(self, count: int) -> None:
        """Add a campus, a household and `count` people that were always there."""
        campus = self._store(CAMPUSES, self._new_id(), {"name": "North", "code": "N"}, announce=False)
        home = self._store(HOUSEHOLDS, self._new_id(), {"name": "Seed"}, announce=False)
        if not count:
            self._records = {kind: {} for kind in KINDS}
        for n in range(count):
            fields = {"first_name": f"Seed{n}", "last_name": "Person", "campus_id": campus["id"]}
            self._store(PEOPLE, self._new_id(), {**fields, "household_id": home["id"]}, announce=False)

    def _route(self, call: Call) -> Reply:
        _, _, kind, record_id, *_ = [*call.path.split("/"), "", "", "", ""]
        if kind == "operations":
            return self._operation(call.path)
        if kind == "webhooks":
            return self._webhooks(record_id, call)
        if kind not in self._records:
            return _refuse(404, f"there is no {kind}")
        if call.method == "GET":
            return self._get(kind, record_id, call)
        try:
            body = orjson.loads(call.body) if call.body else {}
        except orjson.JSONDecodeError:
            return _refuse(400, "the body is no JSON")
        return self._write(kind, record_id, body, call)

    def _write(self, kind: str, record_id: str, body: Item, call: Call) -> Reply:
        if refusal := self._refusal(kind, body, call):
            return refusal
        match call.method:
            case "POST" if not record_id:
                told = self._keyed(kind, body, call)
            case "PUT" if self.tier is CreateTier.CLIENT_ID and record_id:
                told = self._create(kind, record_id, body)
            case "PUT" if self.nested and record_id:
                told = self._edit(kind, record_id, body, call.headers.get("if-match"))
            case "PATCH" if not self.nested:
                told = self._edit(kind, record_id, body, call.headers.get("if-match"))
            case "DELETE":
                gone = self._remove(kind, record_id)
                return Reply(204 if gone else 404, b"", {}, kind, (record_id,))
            case _:
                return _refuse(405, f"{call.method} is not offered here")
        return self._postponed(told) if self._settings.later and told.status < 300 else told

    def _refusal(self, kind: str, body: Item, call: Call) -> Reply | None:
        rule = self._settings.reject
        struck = self._world.strikes("reject", call)
        if struck is not None and struck.options.get("last_name") in (None, body.get("last_name")):
            rule = {"type": kind, "message": "refused"}
        refused = rule and rule.get("type") == kind and body.get(rule.get("field", "")) == rule.get("equals")
        if not refused:
            return None
        status = 200 if self._settings.error_200 else 422
        return _refuse(status, rule.get("message", "refused"), kind=kind, marker=str(body.get(MARKER, "")))

    def _keyed(self, kind: str, body: Item, call: Call) -> Reply:
        """A create; under a key that is known still, the answer it had."""
        key = call.headers.get("idempotency-key") if self.tier is CreateTier.KEYED else None
        if key is None:
            return self._create(kind, self._new_id(), body)
        known, now = self._keys.get(key), self._world.clock.now()
        if known and now - known[0] < timedelta(seconds=self._settings.key_ttl_s):
            self._world.journal.count("repeats")
            return known[2] if known[1] == call.body else _refuse(422, "the key was used for another body")
        told = self._create(kind, self._new_id(), body)
        if len(self._keys) >= KEPT_KEYS:
            del self._keys[next(iter(self._keys))]
        self._keys[key] = (now, call.body, told)
        return told

    def _create(self, kind: str, record_id: str, body: Item) -> Reply:
        if record_id not in self._records[kind]:
            self._world.journal.created(kind, str(body.get(MARKER, record_id)))
        record = self._store(kind, record_id, body, announce=True)
        return reply(201, {"data": record}, kind=kind, keys=(record_id,))

    def _edit(self, kind: str, record_id: str, body: Item, if_match: str | None) -> Reply:
        held = self._records[kind].get(record_id)
        if held is None:
            return _refuse(404, "there is no such record", kind=kind, marker=record_id)
        if if_match is not None and if_match != str(held["version"]):
            return _refuse(412, "the record has changed since", kind=kind, marker=record_id)
        if self.nested and items.ids(body) - items.ids(held):
            return _refuse(422, "an item has an id that is none of this record's", kind=kind, marker=record_id)
        record = self._store(kind, record_id, body, announce=True, whole=self.nested)
        return reply(200, {"data": record}, kind=kind, keys=(record_id,))

    def _get(self, kind: str, record_id: str, call: Call) -> Reply:
        records = self._records[kind]
        if record_id:
            held = records.get(record_id)
            return reply(200, {"data": held}, kind=kind) if held else _refuse(404, "there is no such record")
        if MARKER in call.query:
            if self.tier is not CreateTier.SEARCH:
                return _refuse(400, "there is no such search")
            return reply(200, {"data": self._search(kind, call.query[MARKER])}, kind=kind)
        return self._list(kind, call)

    def _search(self, kind: str, marker: str) -> list[Item]:
        seen = self._world.clock.now() - timedelta(seconds=self._settings.read_lag_s)
        record_id = self._by_marker.get((kind, marker))
        visible = record_id in self._records[kind] and self._made[record_id] <= seen if record_id else False
        return [self._records[kind][record_id]] if visible and record_id else []

    def _list(self, kind: str, call: Call) -> Reply:
        if self._settings.drift and self._records[kind]:
            self._settings.drift -= 1
            oldest = min(self._records[kind].values(), key=lambda e: (e["updated_at"], e["id"]))
            self._store(kind, oldest["id"], {}, announce=False)
        limit = min(int(call.query.get("limit", PAGE)), 500)
        since, cursor = call.query.get("updated_since", ""), call.query.get("cursor", "")
        wanted = [*self._records[kind].values(), *self._deleted[kind].values()]
        if self._world.strikes("stale-read", call):
            horizon = (self._world.clock.now() - STALE).isoformat(timespec="milliseconds")
            wanted = [each for each in wanted if each["updated_at"] <= horizon]
        floor = _canonical(since)
        wanted = sorted((e for e in wanted if e["updated_at"] >= floor), key=lambda e: (e["updated_at"], e["id"]))
        if cursor:
            wanted = [each for each in wanted if f"{each['updated_at']}~{each['id']}" > cursor]
        wanted = wanted[int(call.query.get("offset", 0)) :]
        page, more = wanted[:limit], len(wanted) > limit
        following = f"{page[-1]['updated_at']}~{page[-1]['id']}" if more else None
        return reply(200, {"data": page, "next": following}, kind=kind)

    def _batch(self, call: Call) -> Reply:
        items: list[Json] = []
        keys: list[str] = []
        for each in orjson.loads(call.body)["items"]:
            body = b"" if each["body"] is None else orjson.dumps(each["body"])
            told = self._route(Call(each["method"], each["path"], {}, each["headers"], body))
            items.append({"status": told.status, "body": orjson.loads(told.body) if told.body else None})
            keys += told.keys
        return reply(200, {"items": items}, keys=keys)

    def _postponed(self, told: Reply) -> Reply:
        place = f"/v1/operations/{len(self._operations) + 1}"
        self._operations[place] = (0, orjson.dumps({"status": told.status, "body": orjson.loads(told.body)}))
        headers = {"content-type": JSON, "location": place, "retry-after": "1"}
        return Reply(202, b"{}", headers, told.type, told.keys)

    def _operation(self, place: str) -> Reply:
        if place not in self._operations:
            return _refuse(404, "there is no such operation")
        asked, told = self._operations[place]
        self._operations[place] = (asked + 1, told)
        return Reply(200, told) if asked else reply(200, {"state": "running"})

    def _webhooks(self, subscription_id: str, call: Call) -> Reply:
        outbox = self._world.outbox
        match call.method:
            case "GET" if not subscription_id:
                return reply(200, {"data": list(map(_subscription, outbox.subscribers()))})
            case "POST" if not subscription_id:
                return self._subscribed(call.body)
            case "DELETE" if subscription_id:
                return Reply(204 if outbox.unsubscribe(subscription_id) else 404, b"")
            case _:
                return _refuse(405, f"{call.method} is not offered here")

    def _subscribed(self, body: bytes) -> Reply:
        try:
            asked = orjson.loads(body)
            url, secret, types = str(asked["url"]), str(asked["secret"]), frozenset(asked.get("types") or ())
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return _refuse(400, "a subscription has `url`, `secret` and perhaps `types`")
        if not types <= set(KINDS) or not url.startswith(("http://", "https://")):
            return _refuse(422, "there is no such type, or the URL cannot be called")
        made = Subscriber(self._new_id(), url, secret, types, self._settings.patience)
        self._world.outbox.subscribe(made)
        return reply(201, {"data": _subscription(made)})

    def _store(self, kind: str, record_id: str, fields: Item, *, announce: bool, whole: bool = False) -> Item:
        fields = items.numbered(fields, self._new_id) if self.nested else fields
        again = self._world.faults.draw(("equal-timestamps",), f"/v1/{kind}") is not None
        stamp = self._world.clock.stamp(again=again)
        before = self._records[kind].get(record_id) or self._deleted[kind].pop(record_id, {"version": 0})
        version = int(before["version"]) + 1
        before = {} if before.get("deleted") else before
        own = {"id": record_id, "version": version, "updated_at": stamp.isoformat(timespec="milliseconds")}
        record = {MARKER: None, **({} if whole else before), **fields, **own}
        self._records[kind][record_id] = record
        self._made.setdefault(record_id, stamp)
        if record[MARKER]:
            self._by_marker[kind, str(record[MARKER])] = record_id
        if announce:
            self._announce(kind, record)
        return record

    def _remove(self, kind: str, record_id: str) -> bool:
        held = self._records[kind].pop(record_id, None)
        if held is None:
            return False
        stamp = self._world.clock.stamp().isoformat(timespec="milliseconds")
        gone = {"id": record_id, "deleted": True, "version": held["version"] + 1, "updated_at": stamp}
        self._deleted[kind][record_id] = gone
        self._announce(kind, gone)
        return True

    def _announce(self, kind: str, record: Item) -> None:
        body = orjson.dumps({"type": WEBHOOK_TYPE, "kind": kind, "record": record})
        self._world.announce(f"{kind}/{record['id']}", body)

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._world.dice.getrandbits(128), version=4))


class Limits:
    """A fixed window of calls, told in the headers of every answer. Remembers when calls came, for nothing else."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._calls, self._per_s = 0, 0.0
        self._window: datetime | None = None
        self._used = 0
        self.refused: deque[datetime] = deque(maxlen=1000)

    def set(self, calls: int, per_s: float) -> None:
        """So many calls per so many seconds; a window that has begun goes on."""
        self._calls, self._per_s = calls, per_s

    def spend(self) -> Reply | None:
        """Count one call; the refusal when there is none left."""
        if not self._calls:
            return None
        now = self._world.clock.now()
        if self._window is None or now >= self._window + timedelta(seconds=self._per_s):
            self._window, self._used = now, 0
        if self._used >= self._calls:
            self.refused.append(now)
            wait = str(max(1, -int(-self._left(now) // 1)))
            return self.tell(Reply(429, b'{"error":"too many requests"}', {"content-type": JSON, "retry-after": wait}))
        self._used += 1
        return None

    def tell(self, told: Reply) -> Reply:
        """The answer with the headers of the limit."""
        if not self._calls:
            return told
        headers = {
            **told.headers,
            "x-ratelimit-limit": str(self._calls),
            "x-ratelimit-remaining": str(max(0, self._calls - self._used)),
            "x-ratelimit-reset": f"{self._left(self._world.clock.now()):.3f}",
            "x-ratelimit-period": f"{self._per_s:g}",
        }
        return Reply(told.status, told.body, headers, told.type, told.keys)

    def _left(self, now: datetime) -> float:
        if self._window is None:
            return 0.0
        return max(0.0, self._per_s - (now - self._window).total_seconds())


def _subscription(known: Subscriber) -> Json:
    return {"id": known.id, "url": known.url, "types": sorted(known.types), "active": known.active}


def _refuse(status: int, message: str, *, kind: str | None = None, marker: str = "") -> Reply:
    content = {"error": {"code": "refused", "message": message}}
    return reply(status, content, kind=kind, keys=(marker,) if marker else ())


def _canonical(since: str) -> str:
    """A time as the records write it, so that texts compare as times do."""
    return datetime.fromisoformat(since).isoformat(timespec="milliseconds") if since else ""
