"""The REST API under /v1: how everything stands, connections, why, dead letters.

Pushes are in `gateway.pushes`, what people decide is in `gateway.desk`.

Place in the flow: beside the webhooks, on the same gateway. It reads Postgres and changes connections through
`streams.connections`; it never applies an event. `install` adds it to an app, which must not serve documents of its
own: OpenAPI is at /v1/openapi.json and asks for the token, too.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request

from connectors import config
from streams import status, why
from streams.connections import Connected
from streams.gateway import desk, events, failures, pushes
from streams.gateway.parameters import NAME_MOST, Connection, Number, guarded_router
from streams.gateway.services import Given, Services
from streams.gateway.shapes import (
    ChangedOut,
    ChangeIn,
    ConnectedOut,
    ConnectIn,
    ConnectionOut,
    DeadLetterOut,
    PauseIn,
    PlannedOut,
    ProblemOut,
    StatusOut,
    WebhookOut,
    WhyOut,
    described,
)
from streams.store import connections, operations

router = guarded_router()
_MISSING = described({404: "There is none."})
_CHANGED = described({404: "There is none.", 409: "Its state does not allow it."})

Name = Annotated[str, Path(max_length=NAME_MOST, description="Name of the connection.")]


def install(app: FastAPI, given: Services) -> None:
    """Add the API to an app, with its errors. Call `access.check_routes(app)` when all routes are there."""
    app.state.api = given
    app.include_router(router)
    app.include_router(pushes.router)
    app.include_router(desk.router)
    app.include_router(events.router)
    failures.install(app)


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> dict[str, Any]:
    """The description of this API."""
    found: dict[str, Any] = request.app.openapi()
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    schemas.setdefault("ProblemOut", ProblemOut.model_json_schema())
    found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{"token": []}]
    return found


@router.get("/status")
async def show_status(given: Given) -> StatusOut:
    """How everything stands."""
    told = await status.gather(given.settings, given.settings.org_id, given.now())
    return StatusOut.model_validate(status.for_api(told))


@router.get("/connections")
async def list_connections(given: Given) -> list[ConnectionOut]:
    """All connections, disconnected ones too."""
    async with given.pool.connection() as conn:
        return [ConnectionOut.of(row) for row in await connections.list_all(conn, given.settings.org_id)]


@router.post(
    "/connections",
    status_code=201,
    responses=described({409: "The name is taken.", 422: "The configuration cannot be used."}),
)
async def connect(body: ConnectIn, given: Given) -> ConnectedOut:
    """Connect an external system; changes flow as soon as this answers."""
    loaded = config.load(body.external_sync)
    async with given.pool.connection() as conn:
        made = await given.service.connect(
            conn, given.settings.org_id, body.name, loaded, body.choices(), update=body.update
        )
    return _connected(made)


@router.get("/connections/{name}", responses=_MISSING)
async def show_connection(name: Name, given: Given) -> ConnectionOut:
    """One connection."""
    async with given.pool.connection() as conn:
        return ConnectionOut.of(await connections.load_connection(conn, given.settings.org_id, name))


@router.patch(
    "/connections/{name}", responses={**_CHANGED, **described({422: "The choices do not fit the system or the model."})}
)
async def change(name: Name, body: ChangeIn, given: Given) -> ChangedOut:
    """Change single choices; what is not named stays. Where `needs_resync`, records over there follow by a resync."""
    async with given.pool.connection() as conn:
        made = await given.service.change(conn, given.settings.org_id, name, body.changes())
    return ChangedOut(
        connection=ConnectionOut.of(made.connection),
        changed=list(made.names),
        released=made.released,
        needs_resync=made.needs_resync,
    )


@router.delete("/connections/{name}", responses=_CHANGED)
async def disconnect(name: Name, given: Given) -> ConnectionOut:
    """Disconnect: credentials are destroyed, webhooks refused, links kept."""
    async with given.pool.connection() as conn:
        return ConnectionOut.of(await given.service.disconnect(conn, given.settings.org_id, name))


@router.post("/connections/{name}/pause", responses=_CHANGED)
async def pause(name: Name, body: PauseIn, given: Given) -> ConnectionOut:
    """Send and poll nothing until it is resumed; changes wait, nothing is lost."""
    async with given.pool.connection() as conn:
        return ConnectionOut.of(await given.service.pause(conn, given.settings.org_id, name, body.reason))


@router.post("/connections/{name}/resume", responses=_CHANGED)
async def resume(name: Name, given: Given) -> ConnectionOut:
    """Go on after a pause, also one that Syncline made itself."""
    async with given.pool.connection() as conn:
        return ConnectionOut.of(await given.service.resume(conn, given.settings.org_id, name))


@router.post("/connections/{name}/push-all", status_code=202, responses=_CHANGED)
async def push_all(name: Name, given: Given) -> PlannedOut:
    """Plan a push of every living row of the types this connection takes."""
    async with given.pool.connection() as conn:
        return PlannedOut(planned=await given.service.push_all(conn, given.settings.org_id, name))


@router.post("/connections/{name}/resync", status_code=202, responses=_CHANGED)
async def resync(name: Name, given: Given) -> PlannedOut:
    """Plan every record anew, behind all live changes: after filters, fields, options or bulk changes."""
    async with given.pool.connection() as conn:
        return PlannedOut(planned=await given.service.resync(conn, given.settings.org_id, name))


@router.get("/why/{id:path}", responses=_MISSING)
async def explain(id: Annotated[str, Path(max_length=1000)], given: Given) -> list[WhyOut]:  # noqa: A002 - its name in the URL
    """Why a record did or did not sync; `id` is ours or theirs."""
    asker = why.Asker(given.settings.org_id, given.model, given.manifest, given.now())
    async with given.pool.connection() as conn:
        return [WhyOut.model_validate(report.as_json()) for report in await why.why(conn, id, asker)]


@router.get("/dead-letters")
async def list_dead_letters(
    given: Given,
    connection: Connection = None,
    closed: Annotated[bool, Query(description="Also those that were redriven or dropped.")] = False,  # noqa: FBT002 - a query flag
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[DeadLetterOut]:
    """Dead letters, newest first."""
    async with given.pool.connection() as conn:
        rows = await operations.dead_letters(conn, given.settings.org_id, connection, closed=closed, limit=limit)
    return [DeadLetterOut.model_validate(row) for row in rows]


@router.get("/dead-letters/{number}", responses=_MISSING)
async def show_dead_letter(number: Number, given: Given) -> DeadLetterOut:
    """One dead letter."""
    async with given.pool.connection() as conn:
        return DeadLetterOut.model_validate(await operations.dead_letter(conn, given.settings.org_id, number))


def _connected(made: Connected) -> ConnectedOut:
    hook = made.webhook
    return ConnectedOut(
        connection=ConnectionOut.of(made.connection),
        webhook=WebhookOut(url=hook.url.get_secret_value(), secret=hook.secret.get_secret_value()),
        waiting=dict(made.waiting),
        unread=list(made.unread),
    )
