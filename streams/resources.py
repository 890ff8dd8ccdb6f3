"""The composition root: what the processes share, built from the settings, opened, and closed in reverse order.

`streams.roles` makes a worker of it, `streams.gateway.serve` a gateway.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from connectors import http, registry
from connectors.contract import Client, Manifest
from schemas.codec import Codec
from schemas.model import Model
from schemas.registry import Registry
from streams import clock, connections, vault
from streams.clock_watch import ClockWatch
from streams.outbound.budgets import Budget, Opened
from streams.outbound.planner import Planner
from streams.rules.budgets import Priority
from streams.settings import Settings
from streams.store import credentials
from streams.store.budgets import Row
from streams.store.connections import Connection
from streams.store.migrate import model_of

POOL_MAX = 16
POOL_TIMEOUT_S = 10.0
BY_KEY = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
"""What the processes ask for is some rows by key; statistics of tables that change by the second would make the planner
read whole tables."""


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

    def every_change(self, entity_type: str) -> bool:
        """Whether an entity type is event-like: every version of it is sent."""
        return self.model[entity_type].every_change

    @asynccontextmanager
    async def open(self, connection: Connection, priority: Priority = "lane") -> AsyncIterator[Opened]:
        """The adapter's client of a connection, with its HTTP client and its secrets, and the budget of its calls."""
        place = vault.Place(connection.org_id, connection.system, connection.name, "")
        async with self.app.connection() as conn:
            secrets = await credentials.adapter_secrets(conn, self.key, place)
        row = Row(self.app, connection, clock.now)
        budget = Budget(row, priority=priority, now=clock.now, spread=clock.spread)
        watch = ClockWatch(self.app, connection, clock.now)
        async with (
            aclosing(watch),
            http.client(
                allow_http=connection.allow_http,
                allow_private=connection.allow_private,
                http2=connection.http2,
                compress=connection.compress,
                before=budget.acquire,
                after=budget.note,
                timed=watch.begin,
            ) as web,
            aclosing(budget),
        ):
            yield Opened(connections.open_client(connection, secrets, web), budget)

    @asynccontextmanager
    async def client(self, connection: Connection, priority: Priority = "lane") -> AsyncIterator[Client]:
        """The client alone, for who does not look at the budget: its calls wait for their turn."""
        async with self.open(connection, priority) as opened:
            yield opened.client


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
        kwargs={"prepare_threshold": 1, "autocommit": True, "application_name": f"syncline-{role}", "options": BY_KEY},
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
            model=model_of(settings),
            key=vault.load_key(settings),
            app=pools["app"],
            applier=pools["applier"],
            schemas=schemas,
            codec=Codec(schemas),
        )


def plan_all(now: Callable[[], datetime] = clock.now) -> connections.PlanAll:
    """What `push --all` and `resync` do, for the service that changes connections."""
    planner = Planner(manifest, lambda _: ())

    async def plan(conn: AsyncConnection[Any], org_id: str, name: str, wanted: Manifest, reason: str) -> int:
        return await planner.plan_all(conn, org_id, name, wanted, now=now(), reason=reason)

    return plan
