"""The Faust apps of a worker, one per agent group, with Faust's traps handled in one place.

`streams.worker` makes them, `attach` gives them their agents. What is set here and why: no web server (it would listen
on all interfaces and show table contents); no leader topic; an explicit origin and agent names (they reach group and
topic names); raw bytes; static membership, so that a restart within the session does not rebalance; own table folder
and URL per slot, because Faust tells members apart by URL and RocksDB takes one process per folder.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import faust
from yarl import URL

from streams.agents import AgentSpec, Handler, Runner, Waiting
from streams.chunks import Delivery
from streams.settings import Settings
from streams.transport import ChunkConsumer, ChunkTransport, LoadOffsets, Undecoded

SESSION_S = 10.0
HEARTBEAT_S = 2.0
COMMIT_EVERY_S = 1.0
FETCH_BYTES = 4 * 2**20
FETCH_RECORDS = 5_000


async def _nothing_stored(_: Any) -> dict[Any, int]:
    return {}


def create(
    settings: Settings,
    *,
    group: str,
    slot: int,
    topics: Sequence[str] = (),
    load_offsets: LoadOffsets = _nothing_stored,
    prefix: str = "syncline",
) -> faust.App:
    """An app without agents.

    Args:
        group: the agent group; `PREFIX-GROUP` is the Kafka consumer group and the prefix of changelog topics.
        slot: the worker's number; makes the static membership id.
        topics: all topics the group will read.
        load_offsets: reads stored positions, for agents that store them.
        prefix: for tests, which share a broker.
    """
    app_id = f"{prefix}-{group}"
    app = faust.App(
        app_id,
        broker=f"kafka://{settings.kafka_bootstrap}",
        origin="streams",
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        # Faust uses the URL as the name of a member; two members with one name would share their assignment
        canonical_url=f"http://worker-{slot}:6066",
        key_serializer="raw",
        value_serializer="raw",
        topic_partitions=settings.kafka_partitions,
        topic_replication_factor=1,
        consumer_group_instance_id=_instance_id(app_id, slot, topics),
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=FETCH_BYTES,
        broker_max_poll_records=FETCH_RECORDS,
        broker_session_timeout=SESSION_S,
        broker_heartbeat_interval=HEARTBEAT_S,
        broker_rebalance_timeout=30.0,
        broker_commit_interval=COMMIT_EVERY_S,
        producer_acks=-1,
        store="rocksdb://",
        datadir=_datadir(settings, app_id, slot),
        worker_redirect_stdouts=False,
    )
    app.transport = ChunkTransport([URL(f"kafka://{settings.kafka_bootstrap}")], app, load_offsets=load_offsets)
    return app


def _instance_id(app_id: str, slot: int, topics: Sequence[str]) -> str:
    # a static member that comes back gets its old assignment unseen, so with other topics it must be another member
    wanted = hashlib.sha256("\n".join(sorted(topics)).encode()).hexdigest()[:6]
    return f"{app_id}-worker-{slot}-{wanted}"


def _datadir(settings: Settings, app_id: str, slot: int) -> Path:
    folder = settings.home / "tables" / f"{app_id}-{slot}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def attach(app: faust.App, name: str, topics: Sequence[str], handler: Handler, *, stored: bool = True) -> Runner:
    """Give the app an agent; see `AgentSpec` for the arguments. Call before the app starts."""
    return attach_spec(app, AgentSpec(name, tuple(topics), handler, stored))


def attach_spec(app: faust.App, spec: AgentSpec) -> Runner:
    """Give the app an agent. The runner that is returned starts and ends with it."""
    transport = cast("ChunkTransport", app.transport)
    runner = Runner(spec)
    transport.runners.append(runner)
    if spec.stored:
        transport.stored_topics.update(spec.topics)
    if spec.binding is not None:
        spec.binding.bind(app)
    # raw on the topic as well: Faust would wrap the value in a codec otherwise
    channel = app.topic(*spec.topics, schema=Undecoded(key_type=bytes, value_type=bytes))

    async def agent(stream: Any) -> None:
        stream.enable_acks = False
        working = asyncio.create_task(_run(app, runner))
        try:
            async for event in stream.events():
                runner.put(_waiting(app, event))
        finally:
            working.cancel()

    app.agent(channel, name=spec.name, concurrency=1)(agent)
    return runner


async def _run(app: faust.App, runner: Runner) -> None:
    try:
        await runner.run()
    except Exception as error:  # noqa: BLE001  whatever it is, the app ends without acknowledging
        await app.crash(error)


def _waiting(app: faust.App, event: Any) -> Waiting:
    delivery: Delivery = event.value
    return Waiting(
        delivery.chunk,
        ack=lambda: event.message.ack(app.consumer),
        ours=lambda: delivery.live and not app.should_stop,
    )


def consumer(app: faust.App) -> ChunkConsumer:
    """The app's consumer, for the worker's stop and watchdog."""
    return cast("ChunkConsumer", app.consumer)
