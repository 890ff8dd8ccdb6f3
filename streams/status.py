"""How everything stands: what runs, how each connection is, how far behind each consumer is.

`gather` is behind `syncline status` and never fails as a whole: a neighbour that does not answer is reported as such in
`unreachable`, with the rest. `for_api` is the same without what only the owner of the machine may know.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from psycopg.rows import dict_row

from schemas.problems import Problem
from streams.settings import Settings
from streams.store import operations, queries

KAFKA_TIMEOUT_S = 5.0
POSTGRES_TIMEOUT_S = 5

Json = dict[str, Any]


async def gather(settings: Settings, org_id: str, now: datetime) -> Json:
    """Everything, as JSON. `postgres.dsn` and `gateway.token` are secrets of this machine's owner.

    Returns:
        `{"home", "org", "postgres": {"dsn"}, "kafka": {"bootstrap"}, "connect": {"url"}, "registry": {"url"},
        "gateway": {"url", "token"}, "components": {name: {"state", "pid", …}}, "workers": [{"pid", "roles"}],
        "connections": […], "dead_letters": N, "conflicts": {"open", "oldest_s", "overdue"},
        "reviews": {the same},
        "capture": {"state", "code", "cause", "next_step", "lag_bytes", "forecast_s", "since", "at"} or None,
        "lag": {consumer: {topic: records}}, "unreachable": {name: cause}}`
    """
    unreachable: dict[str, str] = {}
    components = await asyncio.to_thread(_components, settings.home)
    base: Json = {
        "home": str(settings.home),
        "org": org_id,
        "postgres": {"dsn": settings.postgres_app_dsn.get_secret_value() if settings.postgres_app_dsn else ""},
        "kafka": {"bootstrap": settings.kafka_bootstrap},
        "connect": {"url": settings.connect_url},
        "registry": {"url": settings.registry_url},
        "gateway": {
            "url": settings.public_url or f"http://{settings.gateway_host}:{settings.gateway_port}",
            "token": settings.gateway_token.get_secret_value() if settings.gateway_token else "",
        },
        "components": components,
        "workers": workers(settings.home, components),
    }
    known = await _from_postgres(settings, org_id, now, unreachable)
    lag = await _lag(settings, known.pop("progress"), unreachable)
    return base | known | {"lag": lag, "unreachable": unreachable}


def for_api(status: Json) -> Json:
    """The status without credentials, places on this machine and process numbers."""
    names = ("org", "connections", "dead_letters", "conflicts", "reviews", "lag", "unreachable")
    shown = {name: status[name] for name in names}
    states = {name: part.get("state") for name, part in status["components"].items()}
    return shown | {"components": states, "workers": len(status["workers"])}


def workers(home: Path, components: Mapping[str, Json]) -> list[Json]:
    """The workers of this home that live: those that `syncline worker` noted, and the stack's own."""
    found = {}
    for note in sorted((home / "run" / "workers").glob("*.json")):
        try:
            told = json.loads(note.read_text(encoding="utf-8"))
            if psutil.Process(told["pid"]).create_time() == told["started"]:
                found[told["pid"]] = {"pid": told["pid"], "roles": told["roles"]}
        except (OSError, ValueError, KeyError, psutil.Error):
            continue  # a note that its worker could not take away
    pid = components.get("worker", {}).get("pid")
    if pid and pid not in found:
        found[pid] = {"pid": pid, "roles": []}
    return list(found.values())


def note_worker(home: Path, roles: list[str]) -> None:
    """Leave word of this process for `workers`; it need not be taken away, the dead are told by their start.

    A home that cannot be written, as in a container, keeps no word: nobody asks for status there.
    """
    process = psutil.Process()
    folder = home / "run" / "workers"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for note in folder.glob("*.json"):
            if note.stem.isdigit() and not psutil.pid_exists(int(note.stem)):
                note.unlink(missing_ok=True)
        told = {"pid": process.pid, "roles": roles, "started": process.create_time()}
        (folder / f"{process.pid}.json").write_text(json.dumps(told), encoding="utf-8")


async def _from_postgres(settings: Settings, org_id: str, now: datetime, unreachable: dict[str, str]) -> Json:
    try:
        conn = await psycopg.AsyncConnection.connect(
            settings.dsn("app"), autocommit=True, connect_timeout=POSTGRES_TIMEOUT_S
        )
        async with conn:
            return {
                "connections": await operations.overview(conn, org_id, now),
                "dead_letters": await operations.count_dead_letters(conn, org_id),
                **await operations.waiting_for_people(conn, org_id, now),
                "progress": await operations.progress(conn),
                "capture": await _capture(conn),
            }
    except psycopg.errors.UndefinedTable:
        unreachable["postgres"] = "the database is not migrated; run `syncline migrate`"
    except psycopg.Error as failure:
        unreachable["postgres"] = str(failure).partition("\n")[0]
    except Problem as problem:
        unreachable["postgres"] = problem.cause
    unknown = {"open": None, "oldest_s": None, "overdue": None}
    people = {"conflicts": unknown, "reviews": unknown}
    return {"connections": [], "dead_letters": None, **people, "progress": {}, "capture": None}


async def _capture(conn: psycopg.AsyncConnection[Any]) -> Json | None:
    """What the watch over capture saw last."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(queries("sweep")["capture_state"].encode())
        found = await cursor.fetchone()
    return found and found | {"since": found["since"].isoformat(), "at": found["at"].isoformat()}


async def _lag(
    settings: Settings, progress: Mapping[str, Mapping[tuple[str, int], int]], unreachable: dict[str, str]
) -> dict[str, dict[str, int]]:
    if not settings.kafka_bootstrap:
        unreachable["kafka"] = "no broker is configured"
        return {}
    topics = sorted({topic for offsets in progress.values() for topic, _ in offsets})
    try:
        ends = await asyncio.to_thread(_ends, settings.kafka_bootstrap, topics)
    except KafkaException as failure:
        unreachable["kafka"] = failure.args[0].str() if failure.args else "no answer"
        return {}
    return {consumer: behind(offsets, ends) for consumer, offsets in progress.items()}


def behind(offsets: Mapping[tuple[str, int], int], ends: Mapping[tuple[str, int], tuple[int, int]]) -> dict[str, int]:
    """Topic -> records not read yet, given (first, end) of each partition; without a position all of them. Pure."""
    lag: dict[str, int] = {}
    read = {topic for topic, _ in offsets}
    for (topic, partition), (first, end) in ends.items():
        if topic in read:
            at = max(offsets.get((topic, partition), first), first)
            lag[topic] = lag.get(topic, 0) + max(end - at, 0)
    return lag


def _ends(bootstrap: str, topics: list[str]) -> dict[tuple[str, int], tuple[int, int]]:
    """(topic, partition) -> (first offset there is, next one to be written)."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "syncline-status", "log_level": 0})
    try:
        listed = consumer.list_topics(timeout=KAFKA_TIMEOUT_S).topics
        found = {}
        for topic in topics:
            for partition in listed[topic].partitions if topic in listed else ():
                at = TopicPartition(topic, partition)
                found[topic, partition] = consumer.get_watermark_offsets(at, timeout=KAFKA_TIMEOUT_S)
        return found
    finally:
        consumer.close()


def _components(home: Path) -> dict[str, Json]:
    """What the embedded stack's supervisor tells; nothing where none runs."""
    from streams.stack import control  # noqa: PLC0415 - only where the extra `embedded` is of use
    from streams.stack.state import Home  # noqa: PLC0415

    try:
        answer = control.ask(Home(home).run / "control.sock", "status", timeout=10)
    except Problem:
        return {}
    components: dict[str, Json] = answer["components"]
    return components
