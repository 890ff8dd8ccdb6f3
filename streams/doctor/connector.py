"""Kafka Connect and the schema registry: reachable, running, and set as they must be."""

from __future__ import annotations

import re

import httpx

from connectors.debezium import register
from connectors.debezium.connect import Connect, Status
from schemas.model import Model
from schemas.problems import Problem
from streams import capture
from streams.doctor.findings import Check, from_faults, from_problem, ok, red, warn
from streams.settings import Settings
from streams.store import publication

PATIENCE_S = 2.0
OLDEST_DEBEZIUM = (3, 7)
"""Every final release before it loses changes at a restart."""
APPLY = "Run `syncline connectors apply`."


async def check_connect(settings: Settings, entities: Model) -> list[Check]:
    """All findings about Kafka Connect and the connector."""
    if not settings.connect_url:
        return [red("connect", "no Kafka Connect is configured", "Run `syncline up`, or set SYNCLINE_CONNECT_URL.")]
    try:
        async with Connect(settings.connect_url, patience_s=PATIENCE_S) as connect:
            version = await connect.version()
            live = await connect.config(register.NAME)
            status = await connect.status(register.NAME)
        wanted = capture.connector_config(settings, entities)
    except Problem as problem:
        return [from_problem("connect", problem)]
    found = [ok("connect", f"Kafka Connect {version} at {settings.connect_url}")]
    if live is None:
        return [*found, red("connector", f"`{register.NAME}` is not there", APPLY)]
    drifted = list(register.drift(live, wanted))
    return [*found, state_check(status), from_faults("connector settings", drifted, "every invariant holds", APPLY)]


def state_check(status: Status | None) -> Check:
    """Whether connector and task run, in a release that loses nothing."""
    if status is None or not (status.running or status.failed):
        parts = (status.connector, *status.tasks) if status else ()
        states = ", ".join(f"{part.name} {part.state}" for part in parts) or "no state yet"
        return red("connector", states, "Wait a moment; if it stays so, resume it or look at Kafka Connect's log.")
    if status.failed:
        problem = register.failed(register.NAME, status)
        return from_problem("connector", problem)
    if too_old(status.version):
        return red("connector", f"Debezium {status.version} loses changes at restarts", "Install 3.7.0.Final or newer.")
    return ok("connector", f"Debezium {status.version}, {len(status.tasks)} task running")


def too_old(version: str) -> bool:
    """Whether a Debezium version such as `3.6.1.Final` is one that loses changes; unknown ones are not judged."""
    match = re.match(r"(\d+)\.(\d+)\.", version)
    return match is not None and (int(match.group(1)), int(match.group(2))) < OLDEST_DEBEZIUM


async def check_registry(settings: Settings, entities: Model) -> list[Check]:
    """Reachable, and no rule stands in the way of a changed table."""
    url = settings.registry_url.rstrip("/")
    if not url:
        return [red("registry", "no schema registry is configured", "Run `syncline up`, or set SYNCLINE_REGISTRY_URL.")]
    base = f"{url}/apis/ccompat/v7"
    try:
        async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as http:
            info = (await http.get(f"{url}/apis/registry/v3/system/info")).raise_for_status().json()
            subjects = set((await http.get(f"{base}/subjects")).raise_for_status().json())
            strict = [
                f"{subject} has {level}"
                for topic in register.topics(publication.wanted(entities))
                if (subject := f"{topic}-value") in subjects
                if (level := await _level(http, f"{base}/config/{subject}")) not in ("NONE", "")
            ]
    except httpx.HTTPError as error:
        told = f"the schema registry at {url} does not answer ({type(error).__name__})"
        return [red("registry", told, "Start it: `syncline up` for the embedded stack; then look again.")]
    found = ok("registry", f"Apicurio Registry {info.get('version', 'of unknown version')} at {url}")
    if strict:
        told = f"{', '.join(strict)}: the connector will fail when a table changes"
        return [found, warn("compatibility", told, APPLY)]
    return [found, ok("compatibility", "schemas of cdc topics may follow their tables")]


async def _level(http: httpx.AsyncClient, url: str) -> str:
    answer = await http.get(url, params={"defaultToGlobal": "true"})
    return str(answer.json().get("compatibilityLevel", "")) if answer.is_success else ""
