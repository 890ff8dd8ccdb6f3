"""The composition root: builds everything from the settings, opens it, closes it. Only this module knows everybody."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn

from psycopg_pool import AsyncConnectionPool

from connectors import http, registry
from connectors.contract import Client, Manifest
from schemas import model as models
from schemas.codec import Codec
from schemas.model import Model
from schemas.registry import Registry
from streams import clock, connections, logging, topics, vault, worker
from streams.agents import AgentSpec
from streams.outbound.agents import NAME as PLAN
from streams.outbound.agents import PlanAgent
from streams.outbound.dispatcher import Dispatcher
from streams.outbound.links import Links
from streams.outbound.planner import Planner
from streams.settings import Settings
from streams.store import credentials
from streams.store.connections import Connection

ROLES = ("plan", "apply", "dispatch", "jobs")
POOL_MAX = 16
POOL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Resources:
    """What the parts share. `app` and `applier` are pools of the roles of these names, in autocommit."""

    settings: Settings
    model: Model
    key: vault.Key
    app: AsyncConnectionPool
    applier: AsyncConnectionPool
    schemas: Registry
    codec: Codec

    def root_type(self, entity_id: str) -> str | None:
        """The entity type of an id, None when its prefix is of no type."""
        found = self.model.type_of_id(entity_id)
        return found.name if found else None

    @asynccontextmanager
    async def client(self, connection: Connection) -> AsyncIterator[Client]:
        """The adapter's client of a connection, with its HTTP client and its secrets."""
        place = vault.Place(connection.org_id, connection.system, connection.name, "")
        async with self.app.connection() as conn:
            secrets = await credentials.adapter_secrets(conn, self.key, place)
        async with http.client(allow_http=connection.allow_http) as web:
            yield connections.open_client(connection, secrets, web)


def manifest(system: str) -> Manifest:
    """The manifest of a system."""
    return registry.find(system).manifest


def pool(settings: Settings, role: str) -> AsyncConnectionPool:
    """A pool of one role; opens at once and connects as it can, so that a database that is down is waited for."""
    return AsyncConnectionPool(
        settings.dsn(role),
        min_size=2,
        max_size=POOL_MAX,
        timeout=POOL_TIMEOUT_S,
        open=False,
        name=f"syncline-{role}",
        kwargs={"autocommit": True, "application_name": f"syncline-{role}"},
    )


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Resources]:
    """Everything, open; closed in reverse order."""
    async with AsyncExitStack() as stack:
        pools = {}
        for role in ("app", "applier"):
            pools[role] = pool(settings, role)
            await pools[role].open(wait=False)
            stack.push_async_callback(pools[role].close)
        schemas = Registry(settings.registry_url)
        stack.push_async_callback(schemas.aclose)
        yield Resources(
            settings=settings,
            model=models.load(),
            key=vault.load_key(settings),
            app=pools["app"],
            applier=pools["applier"],
            schemas=schemas,
            codec=Codec(schemas),
        )


async def work(settings: Settings, roles: Sequence[str]) -> int:
    """Run a worker with these roles until a signal or a failure; the exit code."""
    async with opened(settings) as resources:
        dispatcher = Dispatcher(
            resources.app,
            settings.dsn("app"),
            manifest=manifest,
            open_client=resources.client,
            slot=lambda: running.slot or 0,
            now=clock.now,
            spread=clock.spread,
        )
        agents: list[AgentSpec] = []
        services: list[worker.Service] = []
        if "plan" in roles:
            agents += _planning(resources, dispatcher.wake)
        if "dispatch" in roles:
            services.append(dispatcher)
        running = worker.Worker(settings, roles=roles, agents=agents, services=services)
        return await worker.drive(running)


def _planning(resources: Resources, wake: Callable[[], None]) -> list[AgentSpec]:
    """The agents `outbound.links` and `outbound.plan`; the planner asks the table of the former."""
    plan = PlanAgent(
        resources.app,
        resources.codec,
        Planner(manifest, lambda key: links.known(key)),  # noqa: PLW0108  `links` is made from this agent
        root_type=resources.root_type,
        now=clock.now,
        wake=wake,
    )
    partitions = resources.settings.kafka_partitions
    links = Links(resources.codec, plan=plan.plan_linked, bury=plan.bury, partitions=partitions)
    return [links.spec(), AgentSpec(PLAN, topics.changes(), plan)]


def run_worker(settings: Settings, roles: Sequence[str] = ROLES) -> NoReturn:
    """Be a worker process; does not return."""
    logging.configure(settings.log_level)
    code = asyncio.run(work(settings, roles))
    sys.stderr.flush()
    os._exit(code)  # Faust's consumer thread may hang on a broker that went away; nothing is left to save
