"""DataCollect's mock sync server, type `mock-sync-server`: the reference adapter and the test double.

DataCollect's protocol: one URL, POST `{"data": [FormSubmission…]}`, any 2xx is success; GET `?since=` gives a bare JSON
array. DataCollect ships the client side only and no server; `emulator` is one. OUR ADDITIONS, which a server may leave
out: the answer to a POST tells each record's new timestamp, and changes are announced by signed webhooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from connectors.contract import ExternalRecord, Manifest
from connectors.systems.mock_sync_server import source
from connectors.systems.mock_sync_server.client import MockSyncClient
from connectors.systems.mock_sync_server.fields import MANIFEST
from connectors.systems.mock_sync_server.settings import MockSyncSettings


class MockSyncServer:
    """The adapter; see `connectors.contract.Adapter`."""

    manifest: Manifest = MANIFEST
    settings = MockSyncSettings

    def open(self, settings: Any, http: httpx.AsyncClient) -> MockSyncClient:
        """The client of one connection. Raises Unauthorized (`auth_unsupported`)."""
        return MockSyncClient(settings, http)

    def parse_webhook(self, body: bytes) -> Sequence[ExternalRecord]:
        """The facts in an authentic webhook; pure. Raises Rejected when it cannot be read."""
        return source.parse_webhook(body)


ADAPTER = MockSyncServer()
