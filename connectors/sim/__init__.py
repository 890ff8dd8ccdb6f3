"""The sim: a REST system of our own that can behave like any real one, to prove the pipeline with.

Four types share this code, one for each create tier: `sim-keyed` honours an `Idempotency-Key`, `sim-client-id` takes
the id we choose, `sim-search` can only be asked for our marker, and that late, `sim-none` cannot be asked at all.
A fifth, `sim-nested`, is keyed, gives the items of its lists ids of its own, and knows a write by PUT only.

    POST   /v1/{kind}            create, 201 {"data": record}; `Idempotency-Key` (sim-keyed)
    PUT    /v1/{kind}/{id}       create (sim-client-id) or replace (sim-nested)
    PATCH  /v1/{kind}/{id}       the given fields; `If-Match: VERSION` refuses with 412 when it is older
    DELETE /v1/{kind}/{id}       204, 404 when it is gone
    GET    /v1/{kind}/{id}       {"data": record}
    GET    /v1/{kind}            ?external_ref= finds by our marker, once the read lag is over;
                                 ?updated_since=&cursor=&offset=&limit= lists {"data": [record], "next": cursor},
                                 gone ones as {"id", "deleted", "updated_at"}
    POST   /v1/batch             {"items": [{"method", "path", "headers", "body"}]} -> {"items": [{"status", "body"}]}
    GET    /v1/operations/{id}   what became of a 202
    GET    /v1/webhooks          {"data": [{"id", "url", "types", "active"}]}
    POST   /v1/webhooks          {"url", "secret", "types"}: 201 {"data": subscription}; deactivated after some tries in
                                 a row that failed
    DELETE /v1/webhooks/{id}     204, 404 when it is gone

A record has `id`, `external_ref` (our id), `version` and `updated_at` beside its fields. `connectors.sim.server` says
what can be set while it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx

from connectors.contract import CreateTier, ExternalRecord, Manifest
from connectors.sim import records
from connectors.sim.client import SimClient
from connectors.sim.fields import MANIFEST, MARKER
from connectors.sim.settings import SimSettings


class Sim:
    """The adapter of one tier; see `connectors.contract.Adapter`."""

    settings = SimSettings

    def __init__(self, tier: CreateTier, manifest: Manifest = MANIFEST, name: str = "") -> None:
        name = name or f"sim-{tier.value.replace('_', '-')}"
        marker = MARKER if tier is CreateTier.SEARCH else ""
        aggregates = tuple(replace(each, marker=marker) for each in manifest.aggregates)
        self.manifest = replace(manifest, name=name, title=f"Sim ({name[4:]})", create_tier=tier, aggregates=aggregates)

    def open(self, settings: Any, http: httpx.AsyncClient) -> SimClient:
        """The client of one connection."""
        return SimClient(self.manifest, settings, http)

    def parse_webhook(self, body: bytes) -> Sequence[ExternalRecord]:
        """The facts in an authentic webhook; pure. Raises Rejected when it cannot be read."""
        return records.parse_webhook(body)
