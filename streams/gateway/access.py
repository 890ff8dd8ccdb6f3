"""Who may call: deny by default, one bearer token, and a check at start that no route was forgotten."""

from __future__ import annotations

import hmac
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import iter_route_contexts

from schemas.problems import Problem

PUBLIC = frozenset({"/healthz", "/readyz", "/metrics", "/hooks/{token}"})
"""Paths without the token: probes, metrics, and webhooks, which have a path token and a signature of their own."""


async def authorised(request: Request) -> None:
    """Let the request pass if it carries the token. Raises Problem (`unauthorised`)."""
    expected = request.app.state.api.settings.gateway_token
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    several = len(request.headers.getlist("authorization")) != 1
    if (
        expected is None
        or several
        or scheme.lower() != "bearer"
        or not same(given.strip(), expected.get_secret_value())
    ):
        raise Problem(
            "unauthorised",
            "this needs the API's bearer token",
            "Send `Authorization: Bearer …`; `syncline status --json` shows the token of a stack of your own.",
        )


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
    return dependant is not None and (dependant.call is authorised or any(map(_asks, dependant.dependencies)))
