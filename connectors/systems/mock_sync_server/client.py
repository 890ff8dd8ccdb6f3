"""The HTTP calls of one mock-sync-server connection: batches out, one pull in."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime

import httpx

from connectors import config
from connectors.contract import ExternalRecord, Failed, Outcome, Page, Write
from connectors.errors import Ambiguous, ConnectorError, NotApplied, Rejected, Unauthorized
from connectors.http import POLL_CAP_BYTES, Answer, exchange
from connectors.systems.mock_sync_server import destination, source, submissions
from connectors.systems.mock_sync_server.settings import MockSyncSettings

LONGEST_WAIT_S = 2.0
"""Of the tries inside one delivery; whatever asks for longer goes back to the pipeline."""


class MockSyncClient:
    """A mock sync server as one connection sees it; see `connectors.contract.Client`.

    Args:
        sleep, monotonic: of the pause between batches and of the tries inside one delivery; for tests.
    """

    def __init__(
        self,
        settings: MockSyncSettings,
        http: httpx.AsyncClient,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.batch_size = settings.batch_size
        self._settings = settings
        self._http = http
        self._headers = {"content-type": "application/json", **_credential(settings)}
        self._sleep = sleep
        self._monotonic = monotonic
        self._pacing = asyncio.Lock()
        self._not_before = 0.0

    def build(self, write: Write) -> bytes:
        """The frozen bytes of one write; pure."""
        return destination.build(write)

    async def send(self, bodies: Sequence[bytes]) -> Sequence[Outcome]:
        """Send submissions in batches of `batchSize`, in order; one outcome each.

        A batch that fails ends the call: what comes after it is NotApplied, so that order is kept. A refused batch is
        halved until the refused submissions are alone, since the server stores all of a batch or nothing.
        """
        outcomes: list[Outcome] = []
        waiting = [bodies[i : i + self._settings.batch_size] for i in range(0, len(bodies), self._settings.batch_size)]
        while waiting:
            batch = waiting.pop(0)
            try:
                answer = await self._post_paced(destination.envelope(batch))
            except Rejected as refused:
                if len(batch) > 1:
                    half = len(batch) // 2
                    waiting[:0] = [batch[:half], batch[half:]]
                else:
                    outcomes.append(Failed(refused))
            except ConnectorError as error:
                outcomes.extend(Failed(error) for _ in batch)
                break
            else:
                outcomes.extend(destination.outcomes(batch, answer))
        not_sent = NotApplied("not_sent", "an earlier batch of the same call failed")
        return outcomes + [Failed(not_sent)] * (len(bodies) - len(outcomes))

    async def find(self, body: bytes) -> ExternalRecord | None:  # noqa: ARG002
        """Never needed: the ids are ours. Raises Rejected (`not_offered`)."""
        raise Rejected("not_offered", "the mock sync server has no search")

    async def check(self, token: str) -> Outcome:  # noqa: ARG002
        """Never needed: a 2xx is done."""
        return Failed(Rejected("not_offered", "the mock sync server does not postpone writes"))

    async def fetch(self, external_type: str, external_id: str) -> ExternalRecord | None:
        """One record, found in a pull of all: the protocol has no other way. Raises ConnectorError."""
        async for page in self.pages(external_type, None):
            for record in page.records:
                if record.external_id == external_id:
                    return record
        return None

    async def pages(self, external_type: str, since: datetime | None) -> AsyncIterator[Page]:
        """One page: all of the type changed after `since` (their comparison is strict). Raises ConnectorError."""
        answer = await exchange(
            self._http,
            "GET",
            self._settings.url,
            headers=self._headers,
            params={"since": "" if since is None else submissions.iso(since)},
            timeout_s=self._settings.timeout / 1000,
            cap_bytes=POLL_CAP_BYTES,
        )
        yield source.read_page(answer, external_type)

    async def _post_paced(self, body: bytes) -> Answer:
        """POST with the pause between batches, which holds for all calls of this client."""
        if not self._settings.delay_between_batches:
            return await self._post_patiently(body)
        async with self._pacing:
            await self._sleep(max(0.0, self._not_before - self._monotonic()))
            try:
                return await self._post_patiently(body)
            finally:
                self._not_before = self._monotonic() + self._settings.delay_between_batches / 1000

    async def _post_patiently(self, body: bytes) -> Answer:
        """POST the same bytes up to 1 + `retryAttempts` times, while the failure may pass by itself."""
        for attempt in range(self._settings.retry_attempts + 1):
            try:
                return await self._post(body)
            except (NotApplied, Ambiguous) as error:
                wait = min(0.1 * 2**attempt, LONGEST_WAIT_S)
                if isinstance(error, NotApplied) and error.retry_after is not None:
                    wait = error.retry_after
                if attempt == self._settings.retry_attempts or wait > LONGEST_WAIT_S:
                    raise
                await self._sleep(wait)
        raise AssertionError("unreachable")

    async def _post(self, body: bytes) -> Answer:
        timeout_s = self._settings.timeout / 1000
        return await exchange(
            self._http, "POST", self._settings.url, content=body, headers=self._headers, timeout_s=timeout_s
        )


def _credential(settings: MockSyncSettings) -> dict[str, str]:
    """The credential's header. Basic without a user sends none, as DataCollect does."""
    if settings.auth == config.AUTH_BASIC:
        pair = f"{settings.username}:{settings.password.get_secret_value()}".encode()
        return {"authorization": "Basic " + base64.b64encode(pair).decode()} if settings.username else {}
    if settings.auth == config.AUTH_API_KEY:
        return {"x-api-key": settings.api_key.get_secret_value()}
    if settings.auth == config.AUTH_NONE:
        return {}
    raise Unauthorized("auth_unsupported", f"the mock sync server has no authentication {settings.auth}", "Use basic.")
