"""The HTTP calls of one connection to a sim."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx
import orjson

from connectors import answers, paging
from connectors.contract import (
    Accepted,
    CreateTier,
    Delivered,
    ExternalRecord,
    Failed,
    Manifest,
    Op,
    Outcome,
    Page,
    Subscription,
    Write,
)
from connectors.errors import ConnectorError, Rejected, Stale
from connectors.http import POLL_CAP_BYTES, Answer, exchange
from connectors.sim import records
from connectors.sim.fields import MARKER
from connectors.sim.settings import SimSettings

_JSON = {"content-type": "application/json"}
_WEBHOOKS = "/v1/webhooks"


class SimClient:
    """A sim as one connection sees it; see `connectors.contract.Client`.

    A frozen write is `{"method", "path", "headers", "body"}`, ready for a request of its own or for the batch endpoint.
    """

    def __init__(self, manifest: Manifest, settings: SimSettings, http: httpx.AsyncClient) -> None:
        self.batch_size = settings.batch_size
        self._tier = manifest.create_tier
        self._whole = manifest.writes_whole_record
        self._conditional = settings.conditional
        self._paging = settings.paging
        self._page_size = settings.page_size
        self._url = settings.url.rstrip("/")
        self._timeout_s = settings.timeout / 1000
        self._http = http

    def build(self, write: Write) -> bytes:
        """The frozen bytes of one write; pure."""
        headers: dict[str, str] = {}
        path = f"/v1/{write.external_type}/{write.external_id}"
        body: dict[str, Any] | None = None
        match write.op:
            case Op.CREATE if self._tier is CreateTier.CLIENT_ID:
                method, path = "PUT", f"/v1/{write.external_type}/{write.external_id or write.entity_id}"
                body = {**write.payload, MARKER: write.entity_id}
            case Op.CREATE:
                method, path = "POST", f"/v1/{write.external_type}"
                body = {**write.payload, MARKER: write.entity_id}
                if self._tier is CreateTier.KEYED:
                    headers["idempotency-key"] = write.key
            case Op.UPDATE:
                method, body = self._update(write)
                if self._conditional and write.version:
                    headers["if-match"] = write.version
            case Op.DELETE:
                method = "DELETE"
            case Op.MERGE:
                raise ValueError("a merge is told, never written")
        frozen = {"method": method, "path": path, "headers": headers, "body": body}
        return orjson.dumps(frozen, option=orjson.OPT_SORT_KEYS)

    def _update(self, write: Write) -> tuple[str, dict[str, Any]]:
        if self._whole:
            return "PUT", {**write.payload, MARKER: write.entity_id}
        wanted = write.changed or write.payload.keys()
        return "PATCH", {key: value for key, value in write.payload.items() if key in wanted}

    async def send(self, bodies: Sequence[bytes]) -> Sequence[Outcome]:
        """One write as a request of its own, several through the batch endpoint; one outcome each."""
        if not bodies:
            return []
        frozen = [orjson.loads(body) for body in bodies]
        try:
            if len(frozen) == 1:
                return [await self._one(frozen[0])]
            return await self._batch(frozen)
        except ConnectorError as error:
            return [Failed(error) for _ in bodies]

    async def find(self, body: bytes) -> ExternalRecord | None:
        """The record a create has made, by our marker. Raises ConnectorError."""
        frozen = orjson.loads(body)
        kind, marker = frozen["path"].split("/")[2], frozen["body"][MARKER]
        found = records.content(await self._call("GET", f"/v1/{kind}", params={MARKER: marker}))
        return records.record(kind, found["data"][0]) if found.get("data") else None

    async def check(self, token: str) -> Outcome:
        """What became of a write they answered with 202; `token` is the operation's path and the write's own."""
        place, _, path = token.partition(" ")
        try:
            answer = await self._call("GET", place)
            told = records.content(answer)
            if told.get("state") == "running":
                return Accepted(token, answer.status, _retry_after(answer))
            return _outcome(told["status"], told["body"], path)
        except ConnectorError as error:
            return Failed(error)

    async def fetch(self, external_type: str, external_id: str) -> ExternalRecord | None:
        """One record in full, None when there is none. Raises ConnectorError."""
        try:
            found = records.content(await self._call("GET", f"/v1/{external_type}/{external_id}"))
        except Rejected as refused:
            if refused.status == httpx.codes.NOT_FOUND:
                return None
            raise
        return records.record(external_type, found["data"])

    async def pages(self, external_type: str, since: datetime | None) -> AsyncIterator[Page]:
        """All records of a type changed at or after `since`. Raises ConnectorError."""
        query = {"limit": str(self._page_size)} | ({"updated_since": since.isoformat()} if since else {})
        if self._paging == "offset":
            async for page in self._by_offset(external_type, query):
                yield page
            return
        while True:
            answer = await self._list(external_type, query)
            content = records.content(answer)
            yield records.page(external_type, records.items(content), answer.date)
            if content.get("next") is None:
                return
            query["cursor"] = content["next"]

    async def _by_offset(self, external_type: str, query: dict[str, str]) -> AsyncIterator[Page]:
        dates: list[datetime | None] = []

        async def read(offset: int) -> list[Any]:
            answer = await self._list(external_type, query | {"offset": str(offset)})
            dates.append(answer.date)
            return records.items(records.content(answer))

        async for items in paging.walk(read, records.place):
            yield records.page(external_type, items, dates[0])

    async def _list(self, external_type: str, query: Mapping[str, str]) -> Answer:
        return await self._call("GET", f"/v1/{external_type}", params=query, cap_bytes=POLL_CAP_BYTES)

    async def subscriptions(self) -> Sequence[Subscription]:
        """All subscriptions there are. Raises ConnectorError."""
        answer = await self._call("GET", _WEBHOOKS)
        return records.subscriptions(records.content(answer))

    async def subscribe(self, url: str, secret: str, types: Collection[str]) -> Subscription:
        """Make one. Raises ConnectorError."""
        body = orjson.dumps({"url": url, "secret": secret, "types": sorted(types)})
        answer = await self._call("POST", _WEBHOOKS, body=body)
        (made,) = records.subscriptions({"data": [records.content(answer).get("data")]})
        return made

    async def unsubscribe(self, subscription_id: str) -> None:
        """End one. Raises ConnectorError."""
        try:
            await self._call("DELETE", f"{_WEBHOOKS}/{quote(subscription_id, safe='')}")
        except Rejected as refused:
            if refused.status != httpx.codes.NOT_FOUND:
                raise

    async def _one(self, frozen: Mapping[str, Any]) -> Outcome:
        body = None if frozen["body"] is None else orjson.dumps(frozen["body"])
        try:
            answer = await self._call(frozen["method"], frozen["path"], body=body, headers=frozen["headers"])
        except Rejected as refused:
            if frozen["method"] == "DELETE" and refused.status == httpx.codes.NOT_FOUND:
                return _delivered(frozen["path"], 404, None)
            raise
        if answer.status == httpx.codes.ACCEPTED:
            return Accepted(f"{answer.headers['location']} {frozen['path']}", answer.status, _retry_after(answer))
        return _delivered(frozen["path"], answer.status, records.content(answer).get("data"))

    async def _batch(self, frozen: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        answer = await self._call("POST", "/v1/batch", body=orjson.dumps({"items": frozen}))
        items = records.content(answer)["items"]
        return [_outcome(item["status"], item["body"], each["path"]) for each, item in zip(frozen, items, strict=True)]

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        cap_bytes: int = 1 << 20,
    ) -> Answer:
        return await exchange(
            self._http,
            method,
            self._url + path,
            content=body,
            headers={**(_JSON if body else {}), **(headers or {})},
            params=params,
            timeout_s=self._timeout_s,
            cap_bytes=cap_bytes,
            explain=_explain,
        )


def _outcome(status: int, body: Any, path: str) -> Outcome:
    """What one item of a batch, or a finished operation, came to."""
    problem = answers.classify(status, {}, None)
    if isinstance(problem, Rejected):
        if status == httpx.codes.NOT_FOUND and body is None:
            return _delivered(path, status, None)
        return Failed(_refusal(status, body))
    if problem:
        return Failed(problem)
    return _delivered(path, status, (body or {}).get("data"))


def _delivered(path: str, status: int, record: Any) -> Delivered:
    if record is None:
        return Delivered(path.rsplit("/", 1)[1], status)
    at = datetime.fromisoformat(record["updated_at"])
    return Delivered(str(record["id"]), status, external_version=str(record["version"]), external_updated_at=at)


def _explain(refused: Rejected, body: bytes) -> ConnectorError:
    """Their own words for a refusal."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return refused
    return _refusal(refused.status or 0, told)


def _refusal(status: int, body: Any) -> ConnectorError:
    if status == httpx.codes.PRECONDITION_FAILED:
        return Stale("http_412", "they hold a newer version", status=status)
    return Rejected(f"http_{status}", records.message(body), "Correct the record.", status=status)


def _retry_after(answer: Answer) -> float | None:
    return answers.retry_after(answer.headers.get("retry-after"), answer.date)
