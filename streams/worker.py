"""The worker process: takes a slot, starts the Faust apps and the services it is given, ends when any of them fails.

`syncline worker` composes agents and services and calls `main`. Order: slot (Postgres) → topics (Kafka) → apps →
services → `worker_ready`. Down neighbours are waited for, with a line that names them. The process ends with 0 after
SIGTERM or SIGINT, having finished and committed what was begun; else with 1, so that its supervisor starts it again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import NoReturn, Protocol, TypeVar

import faust
import psycopg
import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.problems import Problem
from streams import app as edge
from streams import logging, progress, slots
from streams.agents import AgentSpec, Runner, cause
from streams.chunks import Partition
from streams.settings import Settings
from streams.watchdog import Watchdog

log = structlog.get_logger(__name__)

T = TypeVar("T")

SETTLE_S = 10.0
STOP_S = 20.0
HARD_S = 3.0


class Service(Protocol):
    """Something else that works in this process: the dispatcher, the jobs."""

    name: str

    async def run(self) -> None:
        """Work until `stop` is called. Returning earlier or raising ends the process with 1."""

    async def stop(self) -> None:
        """Begin nothing new, finish what was begun (within seconds), make `run` return."""


@dataclass
class _Group:
    """One Faust app and what belongs to it."""

    app: faust.App
    runners: list[Runner]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


async def patiently(what: str, attempt: Callable[[], Awaitable[T]], *, again_s: float = 1.0) -> T:
    """Do `attempt` until its neighbour `what` answers; a log line for every failure."""
    while True:
        try:
            return await attempt()
        except (psycopg.OperationalError, KafkaException, OSError) as error:
            log.warning("waiting_for", what=what, cause=str(error).partition("\n")[0])
            await asyncio.sleep(again_s)


class Worker:
    """One worker process.

    Args:
        settings: how to reach the neighbours.
        roles: names, for the log only.
        agents: agents of the same group share an app.
        services: run beside the apps.
        prefix: of Kafka consumer groups; for tests, which share a broker.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        roles: Sequence[str],
        agents: Iterable[AgentSpec] = (),
        services: Iterable[Service] = (),
        prefix: str = "syncline",
    ) -> None:
        self._settings = settings
        self._roles = list(roles)
        self._agents = sorted(agents, key=attrgetter("group"))
        self._services = list(services)
        self._prefix = prefix
        self._groups: list[_Group] = []
        self.stopping = asyncio.Event()
        """Set it to end the worker in good order."""
        self.slot: int | None = None
        """The worker's number, once it has one."""

    async def run(self) -> None:
        """Work until `stopping` is set. Raises what ended the work otherwise."""
        slot = await patiently("postgres", lambda: slots.take(self._settings.dsn("app")))
        self.slot = slot.number
        structlog.contextvars.bind_contextvars(slot=slot.number)
        watching: list[asyncio.Task[None]] = [asyncio.create_task(slot.hold())]
        orderly = False
        try:
            if await self._started(watching):
                await slot.announce(self._roles)
                log.info("worker_ready", roles=self._roles, pid=os.getpid(), agents=[a.name for a in self._agents])
                await self._until_stopped(watching)
            orderly = True
        except Exception as error:
            log.exception("worker_failed", code=getattr(error, "code", type(error).__name__), cause=cause(error))
            raise
        finally:
            await self._stop(watching, orderly=orderly)
            await slot.release()

    async def _started(self, watching: list[asyncio.Task[None]]) -> bool:
        """Start everything; False when `stopping` came first. Raises what went wrong."""
        starting = asyncio.create_task(self._start(watching))
        told = asyncio.create_task(self.stopping.wait())
        await asyncio.wait([starting, told, *watching], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if starting.done():
            starting.result()
            return True
        starting.cancel()
        await self._until_stopped(watching)
        return False

    async def _start(self, watching: list[asyncio.Task[None]]) -> None:
        topics = [topic for spec in self._agents for topic in spec.topics]
        if topics:
            await patiently("kafka", lambda: asyncio.to_thread(self._check_topics, topics))
        for name, specs in groupby(self._agents, key=attrgetter("group")):
            group = self._group(name, list(specs))
            self._groups.append(group)
            watching.append(asyncio.create_task(_crash_of(group.app)))
            await self._begin(group, watching)
            watchdog = Watchdog(edge.consumer(group.app), group.runners, self._settings.kafka_bootstrap)
            watching.append(asyncio.create_task(watchdog.run()))
        watching.extend(asyncio.create_task(_ended(service)) for service in self._services)

    async def _begin(self, group: _Group, watching: Sequence[asyncio.Task[None]]) -> None:
        # an app that crashes while it starts may never return from `start`
        starting = asyncio.create_task(group.app.start())
        await asyncio.wait([starting, *watching], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await self._until_stopped(watching)
        await starting

    def _check_topics(self, topics: Sequence[str]) -> None:
        known = AdminClient({"bootstrap.servers": self._settings.kafka_bootstrap, "log_level": 0}).list_topics(
            timeout=5
        )
        if missing := sorted(set(topics) - known.topics.keys()):
            raise Problem("topics_missing", f"these topics do not exist: {missing}", "Run `syncline up` or `doctor`.")

    def _group(self, name: str, specs: list[AgentSpec]) -> _Group:
        consumers = {topic: spec.name for spec in specs for topic in spec.topics}

        async def load(partitions: Sequence[Partition]) -> dict[Partition, int]:
            return await patiently("postgres", lambda: self._load(partitions, consumers))

        app = edge.create(
            self._settings,
            group=name,
            slot=self.slot or 0,
            topics=list(consumers),
            load_offsets=load,
            prefix=self._prefix,
        )
        return _Group(app, [edge.attach_spec(app, spec) for spec in specs])

    async def _load(self, partitions: Sequence[Partition], consumers: dict[str, str]) -> dict[Partition, int]:
        positions: dict[Partition, int] = {}
        async with await slots.connect(self._settings.dsn("app"), "syncline-offsets") as connection:
            for name in sorted({consumers[at.topic] for at in partitions}):
                asked = [at for at in partitions if consumers[at.topic] == name]
                positions |= await progress.load(connection.cursor(), name, asked)
        return positions

    async def _until_stopped(self, watching: Sequence[asyncio.Task[None]]) -> None:
        told = asyncio.create_task(self.stopping.wait())
        done, _ = await asyncio.wait([told, *watching], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        for task in done - {told}:
            task.result()  # none of them returns, so this raises what went wrong

    async def _stop(self, watching: Sequence[asyncio.Task[None]], *, orderly: bool) -> None:
        log.info("worker_stopping")
        last_resort = _end_within(2 * STOP_S)
        # after a failure what still answers is anybody's guess; what was not committed comes again
        for group in self._groups if orderly else ():
            await _finish(group.app)
        for service in self._services:
            with suppress(Exception):
                await asyncio.wait_for(service.stop(), STOP_S)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        last_resort.cancel()


async def _crash_of(app: faust.App) -> None:
    while not app.crashed:  # noqa: ASYNC110  mode's own event belongs to its loop of tasks
        await asyncio.sleep(0.1)
    raise app.crash_reason or RuntimeError(f"{app.conf.id} crashed")


async def _ended(service: Service) -> None:
    await service.run()
    raise Problem(
        "service_ended", f"the service `{service.name}` ended by itself", "See the log lines before this one."
    )


async def _finish(app: faust.App) -> None:
    """Stop reading, let handlers end, commit, close."""
    consumer = edge.consumer(app)
    with suppress(Exception):
        async with asyncio.timeout(STOP_S):
            consumer.stop_flow()
            await consumer.settle(SETTLE_S)
            await consumer.commit()
    with suppress(Exception):
        async with asyncio.timeout(STOP_S):
            await app.stop()


def _end_within(seconds: float) -> threading.Timer:
    """End the process with 1 unless it has ended by then: a part of Faust that waits for its broker ignores being
    cancelled, and would keep the process for ever."""

    def end() -> None:
        log.warning("worker_ended_hard", after_s=seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


async def run(
    settings: Settings,
    *,
    roles: Sequence[str],
    agents: Iterable[AgentSpec] = (),
    services: Iterable[Service] = (),
    prefix: str = "syncline",
) -> int:
    """Run a worker until a signal or a failure; the exit code. See `Worker` for the arguments."""
    return await drive(Worker(settings, roles=roles, agents=agents, services=services, prefix=prefix))


async def drive(worker: Worker) -> int:
    """Run this worker, as this process, until a signal or a failure; the exit code. After a failure the process ends
    within seconds, whatever its caller does."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stopping.set)
    working = asyncio.create_task(worker.run())
    told = asyncio.create_task(worker.stopping.wait())
    await asyncio.wait([working, told], return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        # in good order, or, where it still waits for a neighbour, at once
        await asyncio.wait([working], timeout=2 * STOP_S if worker.slot is not None else 0)
        working.cancel()
    told.cancel()
    return await _outcome(working)


async def _outcome(working: asyncio.Task[None]) -> int:
    try:
        await working
    except asyncio.CancelledError:
        return 0
    except Exception:  # noqa: BLE001  logged where it happened
        _end_within(HARD_S)
        return 1
    log.info("worker_stopped")
    return 0


def main(
    settings: Settings,
    *,
    roles: Sequence[str],
    agents: Iterable[AgentSpec] = (),
    services: Iterable[Service] = (),
    prefix: str = "syncline",
) -> NoReturn:
    """Run a worker as this process; does not return."""
    logging.configure(settings.log_level)
    code = asyncio.run(run(settings, roles=roles, agents=agents, services=services, prefix=prefix))
    sys.stderr.flush()
    os._exit(code)  # Faust's consumer thread may hang on a broker that went away; nothing is left to save
