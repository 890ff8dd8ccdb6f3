"""The gateway's web application: probes, metrics, webhooks, the REST API; errors as problem+json.

Made from open resources by `streams.gateway.serve`, and by tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg
import psycopg_pool
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from psycopg import AsyncConnection

from connectors import registry
from schemas.problems import Problem
from streams import clock, connections, vault
from streams.gateway import access, api, failures, webhooks
from streams.gateway.metrics import Exposition
from streams.gateway.services import Services
from streams.gateway.webhooks import Ingress
from streams.inbound.publish import Publisher, Sender
from streams.inbound.redrive import Redriver
from streams.resources import Resources, manifest, plan_all
from streams.store import credentials

PROBE_S = 3.0
AGAIN_S = 5
"""What `Retry-After` says when a neighbour is down."""
WEBHOOK_STATUS = {
    "webhook_refused": 401,
    "body_too_slow": 408,
    "body_too_large": 413,
    "event_too_large": 413,
    "gateway_busy": 503,
    "kafka_unavailable": 503,
    "registry_unreachable": 503,
}

_log = structlog.get_logger("gateway.app")


def create(resources: Resources, publisher: Publisher) -> FastAPI:
    """The application. `resources` and `publisher` are open and stay so while it serves.

    Raises:
        Problem: `route_unprotected`.
    """
    app = FastAPI(title="Syncline", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.ingress = Ingress(resources.app, publisher, registry.find, webhook_secrets(resources.key), clock.now)
    app.state.probes = {"postgres": _postgres(resources), "kafka": publisher.reach}
    app.state.exposition = Exposition(resources.app, now=clock.now)
    app.add_api_route("/healthz", healthz, include_in_schema=False)
    app.add_api_route("/readyz", readyz, include_in_schema=False)
    app.add_api_route("/metrics", metrics, include_in_schema=False)
    app.include_router(webhooks.router)
    api.install(app, _services(resources, publisher))
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(psycopg.OperationalError, _postgres_down)
    app.add_exception_handler(psycopg_pool.PoolTimeout, _postgres_down)
    access.check_routes(app)
    return app


def webhook_secrets(key: vault.Key) -> webhooks.SecretsOf:
    """Where the ingress gets a connection's secrets from: the vault."""

    async def live(conn: AsyncConnection[Any], sender: Sender) -> Sequence[str]:
        place = vault.Place(sender.org_id, sender.system, sender.connection, "")
        found = await credentials.webhook_secrets(conn, key, place, clock.now())
        return [secret.get_secret_value() for secret in found]

    return live


async def healthz() -> Response:
    """The process answers."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Whether webhooks can be taken: Postgres and Kafka answer."""
    probes: dict[str, Callable[[], Awaitable[None]]] = request.app.state.probes
    told = dict(zip(probes, await asyncio.gather(*(_probe(probe) for probe in probes.values())), strict=True))
    ready = all(answer == "ok" for answer in told.values())
    return JSONResponse(told, 200 if ready else 503)


async def metrics(request: Request) -> Response:
    """What Prometheus reads: this process, and the database."""
    exposition: Exposition = request.app.state.exposition
    return Response(generate_latest() + await exposition.text(), media_type=CONTENT_TYPE_LATEST)


async def _probe(probe: Callable[[], Awaitable[None]]) -> str:
    try:
        async with asyncio.timeout(PROBE_S):
            await probe()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not ready
        return type(error).__name__
    return "ok"


def _postgres(resources: Resources) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        async with resources.app.connection(timeout=PROBE_S) as conn:
            await conn.execute("select 1")

    return ask


def _services(resources: Resources, publisher: Publisher) -> Services:
    service = connections.service(resources.settings, "api", plan_all())
    republish = Redriver(publisher, resources.codec)
    return Services(
        resources.settings, resources.app, service, resources.model, manifest, clock.now, republish, publisher
    )


async def _problem(_: Request, problem: Any) -> Response:
    status = WEBHOOK_STATUS.get(problem.code)
    answer = failures.answer(problem, status)
    if status == 503:
        answer.headers["retry-after"] = str(AGAIN_S)
    if status == 401:
        # Webhooks have no bearer token to ask for.
        del answer.headers["www-authenticate"]
    return answer


async def _postgres_down(_: Request, error: Any) -> Response:
    _log.warning("postgres_unreachable", error=type(error).__name__)
    answer = failures.answer(Problem("postgres_unreachable", "the database does not answer", "Try again in a moment."))
    answer.headers["retry-after"] = str(AGAIN_S)
    return answer
