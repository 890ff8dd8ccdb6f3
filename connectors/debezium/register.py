"""The connector's settings, made from the model and from where things are, and put to Kafka Connect.

Every setting is an invariant: `drift` compares what Connect has with what it should have, so that a hand that has
changed one is noticed before a change is lost. There are no `topic.creation.*` settings on purpose: topics are created
beforehand, with their partitions and retention.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx

from connectors.debezium.connect import Connect, Status
from schemas.problems import Problem

NAME = "syncline"
TOPIC_PREFIX = "cdc"
SETTLED_S = 1.0
"""How long everything must have been RUNNING: right after a change Connect still reports the state before it."""
POLL_S = 0.25
NO_CHANGES = frozenset({("sync", "heartbeat"), ("sync", "delivery")})

Captured = Mapping[tuple[str, str], Sequence[str]]
"""(schema, table) -> captured columns."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where Connect finds the database, as the capture role.

    Args:
        host: as seen from Connect, likewise the registry's URL.
        port: of Postgres.
        database: name of the canonical database.
        user: the capture role.
        password: itself, or a reference such as `${file:/run/secrets/connect.properties:capture_password}`, which the
            worker resolves with its config provider, so that its REST API never shows the password.
        registry_url: base URL of Apicurio Registry.
        sslmode: as in a DSN; empty: the driver's default.
    """

    host: str
    port: int
    database: str
    user: str
    password: str
    registry_url: str
    sslmode: str = ""


def build(source: Source, captured: Captured) -> dict[str, str]:
    """The complete settings of the connector."""
    template = importlib.resources.files("connectors.debezium") / "connector.json"
    fixed: dict[str, str] = json.loads(template.read_text(encoding="utf-8"))
    placed = {
        "database.hostname": source.host,
        "database.port": str(source.port),
        "database.dbname": source.database,
        "database.user": source.user,
        "database.password": source.password,
        "table.include.list": ",".join(re.escape(".".join(table)) for table in captured),
        "column.include.list": ",".join(
            rf"{re.escape('.'.join(table))}\.({'|'.join(columns)})" for table, columns in captured.items()
        ),
        "value.converter.apicurio.registry.url": f"{source.registry_url.rstrip('/')}/apis/registry/v2",
    }
    return {"name": NAME, **fixed, **placed} | ({"database.sslmode": source.sslmode} if source.sslmode else {})


def topics(captured: Captured) -> tuple[str, ...]:
    """Topics the connector writes changes to; a delivery is an event of ours, with a topic and a schema of its own."""
    return tuple(f"{TOPIC_PREFIX}.{schema}.{table}" for schema, table in captured if (schema, table) not in NO_CHANGES)


def drift(live: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Every setting that is not as it should be, as a sentence; secrets are named, never shown."""
    found: list[str] = []
    for key in sorted({*live, *wanted}):
        has, should = live.get(key), wanted.get(key)
        if has == should:
            continue
        if "password" in key:
            found.append(f"{key} differs")
        elif should is None:
            found.append(f"{key} is set to {has} and should not be set")
        else:
            found.append(f"{key} is {has if has is not None else 'not set'} and should be {should}")
    return tuple(found)


async def apply(
    connect_url: str,
    config: Mapping[str, str],
    *,
    patience_s: float = 60.0,
    transport: httpx.AsyncBaseTransport | None = None,
) -> bool:
    """Bring the connector to `config` and wait until it and its task run; may be repeated. True when it was changed.

    Raises:
        Problem: `connector_failed` with the innermost cause, `connector_refused`, `connector_slow`,
            `connect_unreachable`.
    """
    name = config["name"]
    async with Connect(connect_url, patience_s=patience_s, transport=transport) as connect:
        changed = await connect.config(name) != dict(config)
        if changed:
            await connect.put_config(name, config)
        status = await connect.status(name)
        if status and status.connector.state in ("PAUSED", "STOPPED"):
            await connect.resume(name)
            changed = True
        await _until_running(connect, name, changed=changed, patience_s=patience_s)
    return changed


async def _until_running(connect: Connect, name: str, *, changed: bool, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    running_since: float | None = None
    restarted = False
    while True:
        status = await connect.status(name)
        now = time.monotonic()
        running_since = (running_since or now) if status and status.running else None
        if running_since is not None and (not changed or now - running_since >= SETTLED_S):
            return
        if status and status.failed and not restarted:
            # What failed before this change is not restarted by it.
            await connect.restart_failed(name)
            restarted = True
            await asyncio.sleep(SETTLED_S)
        elif status and status.failed:
            raise failed(name, status)
        elif now > deadline:
            raise slow(name, status, patience_s)
        await asyncio.sleep(POLL_S)


def failed(name: str, status: Status) -> Problem:
    """The connector or its task is FAILED."""
    part = status.failed[0]
    return Problem(
        "connector_failed",
        f"the {part.name} of `{name}` failed: {part.cause or 'no reason given'}",
        "Mend the cause, then run `syncline connectors apply`; `syncline doctor` checks what it depends on.",
    )


def slow(name: str, status: Status | None, waited_s: float) -> Problem:
    """It neither runs nor fails."""
    states = (
        ", ".join(f"{part.name} {part.state}" for part in (status.connector, *status.tasks)) if status else "unknown"
    )
    return Problem(
        "connector_slow",
        f"`{name}` does not run after {waited_s:.0f} s ({states})",
        "Look at Kafka Connect's log; it may still be starting.",
    )


async def allow_any_change(
    registry_url: str, topic_names: Sequence[str], *, transport: httpx.AsyncBaseTransport | None = None
) -> tuple[str, ...]:
    """Set compatibility NONE on the cdc subjects, and on those only: their schemas follow the tables.

    Returns the subjects that the registry does not have yet; they get it at the next call.

    Raises:
        Problem: `registry_failed`.
    """
    absent: list[str] = []
    base = f"{registry_url.rstrip('/')}/apis/ccompat/v7"
    async with httpx.AsyncClient(timeout=10.0, transport=transport, trust_env=False) as http:
        for subject in (f"{topic}-value" for topic in topic_names):
            try:
                answer = await http.put(f"{base}/config/{subject}", json={"compatibility": "NONE"})
            except httpx.TransportError as error:
                raise registry_failed(registry_url, f"does not answer ({type(error).__name__})") from error
            if answer.status_code == 404:
                absent.append(subject)
            elif not answer.is_success:
                raise registry_failed(registry_url, f"answered {answer.status_code} for {subject}")
    return tuple(absent)


def registry_failed(url: str, what: str) -> Problem:
    """The registry cannot be asked."""
    return Problem("registry_failed", f"the schema registry at {url} {what}", "Start it and look at its log.")
