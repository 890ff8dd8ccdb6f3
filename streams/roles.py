"""The worker process, composed: which agents and services each role brings. The only module that knows both flows."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NoReturn

import uvloop

from connectors.contract import ExternalRecord
from streams import capture_watch, clock, logging, metrics, topics, worker
from streams.agents import AgentSpec
from streams.inbound import publish
from streams.inbound.agents import NAME as APPLY
from streams.inbound.agents import ApplyAgent
from streams.inbound.answers import Answered
from streams.inbound.applier import Applier
from streams.inbound.hydration import Hydrator
from streams.inbound.polls import Poller
from streams.inbound.schedule import Schedule
from streams.inbound.staging import Staging
from streams.inbound.subscriptions import Subscriptions
from streams.inbound.their_deletes import Decided
from streams.inbound.waiting import Waiting
from streams.outbound import arrivals
from streams.outbound.agents import NAME as PLAN
from streams.outbound.agents import PlanAgent
from streams.outbound.dispatcher import Dispatcher, Systems
from streams.outbound.links import Links
from streams.outbound.planner import Planner
from streams.outbound.sweeper import Sweeper
from streams.resources import Resources, manifest, opened
from streams.retention import Retention
from streams.settings import Settings
from streams.store.connections import Connection

ROLES = ("plan", "apply", "dispatch", "jobs")


class Watch:
    """The service that looks after the connector; see `streams.capture_watch`."""

    name = "capture"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._watching: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Watch until `stop`."""
        self._watching = asyncio.create_task(capture_watch.watch(self._settings))
        await self._watching

    async def stop(self) -> None:
        """End at once; there is nothing to finish."""
        if self._watching:
            self._watching.cancel()


async def work(settings: Settings, roles: Sequence[str]) -> int:
    """Run a worker with these roles until a signal or a failure; the exit code."""
    async with (
        opened(settings) as resources,
        publish.opened(settings.kafka_bootstrap, resources.schemas) as publisher,
        _jobs(resources, publisher, roles) as services,
    ):
        dispatcher = Dispatcher(
            resources.app,
            settings.dsn("app"),
            systems=Systems(manifest, resources.open, _refresh(publisher), resources.every_change),
            slot=lambda: running.slot or 0,
            now=clock.now,
            spread=clock.spread,
        )
        agents: list[AgentSpec] = []
        if "plan" in roles:
            agents += _planning(resources, dispatcher.wake, notify="dispatch" not in roles)
        if "apply" in roles:
            applier = Applier(resources.model, manifest, clock.now)
            agents.append(_applying(resources, applier, dispatcher.wake))
            services += [
                service(resources.applier, resources.codec, applier.apply, now=clock.now)
                for service in (Waiting, Staging, Decided, Answered)
            ]
        if "dispatch" in roles:
            services.append(dispatcher)
        running = worker.Worker(settings, roles=roles, agents=agents, services=services)
        return await worker.drive(running)


def _planning(resources: Resources, wake: Callable[[], None], *, notify: bool) -> list[AgentSpec]:
    """The agents `outbound.links` and `outbound.plan`; the planner asks the table of the former."""
    plan = PlanAgent(
        resources.app,
        resources.codec,
        Planner(manifest, lambda key: links.known(key), notify=notify),  # noqa: PLW0108  `links` is made from this agent
        root_type=resources.root_type,
        now=clock.now,
        wake=wake,
    )
    partitions = resources.settings.kafka_partitions
    links = Links(resources.codec, plan=plan.plan_linked, bury=plan.bury, partitions=partitions)
    return [links.spec(), AgentSpec(PLAN, topics.changes(resources.model.order), plan)]


def _applying(resources: Resources, applier: Applier, wake: Callable[[], None]) -> AgentSpec:
    """The agent `inbound.apply`."""
    apply = ApplyAgent(resources.applier, resources.codec, applier, now=clock.now, wake=wake)
    return AgentSpec(APPLY, (topics.INBOUND,), apply)


@asynccontextmanager
async def _jobs(
    resources: Resources, publisher: publish.Publisher, roles: Sequence[str]
) -> AsyncIterator[list[worker.Service]]:
    """Polls, reads of single records, webhook subscriptions, the watch over capture, the sweep, kept deliveries."""
    if "jobs" not in roles:
        yield []
        return
    settings = resources.settings
    poller = Poller(resources.app, publisher, manifest, partial(resources.client, priority="poll"), now=clock.now)
    schedule = Schedule(
        settings.dsn("app"), resources.app, resources.applier, poller, manifest, now=clock.now, spread=clock.spread
    )
    hydrator = Hydrator(
        resources.app,
        publisher,
        manifest=manifest,
        open_client=partial(resources.client, priority="poll"),
        hurry=schedule.hurry,
        now=clock.now,
        spread=clock.spread,
    )
    sweeper = Sweeper(
        resources.app,
        Planner(manifest, lambda _: ()),
        resources.model.order,
        root_type=resources.root_type,
        ends=arrivals.ends_of(
            settings.kafka_bootstrap, topics.changes(resources.model.order), settings.kafka_partitions
        ),
        now=clock.now,
        every_s=settings.sweep_every_s,
    )
    retention = Retention(resources.app, kept_days=settings.deliveries_kept_days, now=clock.now)
    subscriptions = Subscriptions(
        resources.app,
        resources.key,
        settings.public_url,
        manifest,
        partial(resources.client, priority="poll"),
        now=clock.now,
        spread=clock.spread,
    )
    yield [schedule, hydrator, subscriptions, Watch(settings), sweeper, retention]


def _refresh(publisher: publish.Publisher) -> Callable[[Connection, ExternalRecord], Awaitable[None]]:
    """A record that the dispatcher read goes the way of all of theirs: the applier decides about it."""

    async def refresh(connection: Connection, record: ExternalRecord) -> None:
        sender = publish.Sender(connection.org_id, connection.name, connection.system)
        await publisher.publish([publish.event_of(record, sender, source="fetch", received_at=clock.now())])

    return refresh


def run_worker(settings: Settings, roles: Sequence[str] = ROLES) -> NoReturn:
    """Be a worker process; does not return."""
    logging.configure(settings.log_level)
    metrics.serve(settings.metrics_host, settings.metrics_port)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # for Faust's threads as well
    code = asyncio.run(work(settings, roles))
    sys.stderr.flush()
    os._exit(code)  # Faust's consumer thread may hang on a broker that went away; nothing is left to save
