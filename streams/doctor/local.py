"""This machine: the key file and the gateway."""

from __future__ import annotations

import stat

import httpx

from schemas.problems import Problem
from streams import vault
from streams.doctor.findings import Check, from_problem, ok, red, warn
from streams.settings import Settings

TIMEOUT_S = 2.0


async def check(settings: Settings) -> list[Check]:
    """Key and gateway."""
    return [check_key(settings), await _gateway(settings)]


def check_key(settings: Settings) -> Check:
    """The key file is there, holds a key, and nobody else may read it."""
    try:
        vault.load_key(settings)
    except Problem as problem:
        return from_problem("key file", problem)
    path = vault.key_path(settings)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return red("key file", f"{path} has mode {mode:04o}: others may read it", f"Run `chmod 600 {path}`.")
    return ok("key file", f"{path}, mode {mode:04o}")


async def _gateway(settings: Settings) -> Check:
    url = f"http://{settings.gateway_host}:{settings.gateway_port}"
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
            answer = await http.get(f"{url}/healthz")
    except httpx.HTTPError:
        return warn("gateway", f"nothing answers at {url}: no webhooks, no API", "Run `syncline gateway`.")
    if not answer.is_success:
        return warn("gateway", f"{url}/healthz answers {answer.status_code}", "Look at the gateway's log.")
    return ok("gateway", f"answers at {url}")
