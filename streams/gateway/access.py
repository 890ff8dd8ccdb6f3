"""Who may call: deny by default, one bearer token, keys of programs that bring events, and a check at start that no
route was forgotten."""

from __future__ import annotations

import hmac
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import iter_route_contexts

from schemas.problems import Problem
from streams.store import api_keys

PUBLIC = frozenset({"/healthz", "/readyz", "/metrics", "/hooks/{token}"})
"""Paths without the token: probes, metrics, and webhooks, which have a path token and a signature of their own."""


async def authorised(request: Request) -> None:
    """Let the request pass if it carries the token. Raises Problem (`unauthorised`)."""
    if not _has_token(request):
        raise Problem(
            "unauthorised",
            "this needs the API's bearer token",
            "Send `Authorization: Bearer …`; `syncline status --json` shows the token of a stack of your own.",
        )


async def brings_events(request: Request) -> api_keys.Holder:
    """Whose events a request brings: an API key's, or those of the token's organisation. Raises Problem
    (`unauthorised`)."""
    services = request.app.state.api
    if _has_token(request):
        return api_keys.Holder(services.settings.org_id, None, "api")
    if (given := _bearer(request)).startswith(api_keys.PREFIX):
        async with services.pool.connection() as conn:
            found = await api_keys.holder(conn, given, api_keys.EVENTS, services.now())
        if found is not None:
            return found
    raise Problem(
        "unauthorised",
        "this needs an API key",
        "Make one with `syncline keys create` and send it as `Authorization: Bearer …`.",
    )


def _has_token(request: Request) -> bool:
    expected = request.app.state.api.settings.gateway_token
    return expected is not None and same(_bearer(request), expected.get_secret_value())


def _bearer(request: Request) -> str:
    """The bearer token of a request, empty when it has none or several."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    several = len(request.headers.getlist("authorization")) != 1
    return "" if several or scheme.lower() != "bearer" else given.strip()


def same(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in a time that tells nothing; an empty one is equal to none."""
    return bool(expected) and hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def check_routes(app: FastAPI) -> None:
    """Every route is public by name or asks for the token; called once, at start.

    Raises:
        Problem: `route_unprotected`.
    """
    for route in iter_route_contexts(app.routes):
        path = getattr(route, "path", repr(route))
        if path in PUBLIC or _asks(getattr(route, "dependant", None)):
            continue
        raise Problem("route_unprotected", f"the route {path} neither asks for the token nor is listed as public")


def _asks(dependant: Any) -> bool:
    """Whether a route's dependencies have the check; mounted apps and plain routes have none."""
    return dependant is not None and (
        dependant.call in (authorised, brings_events) or any(map(_asks, dependant.dependencies))
    )
