"""Webhook subscriptions at systems whose API makes them: made, watched, made again when they stopped, removed.

A service of the role `jobs`. For every connection to such a system a row of `sync.subscription` says when to look next;
a look lists what they have, and brings it to exactly one subscription with our URL, our newest secret and the types in
scope. What was lost while there was none, the polls bring. After a disconnect it is removed through the adapter, later
if their system is away, and only then are the credentials destroyed that this takes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, cast

import psycopg
import structlog
from prometheus_client import Counter
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from connectors import registry
from connectors.contract import Client, Manifest, Subscriber
from schemas.problems import Problem
from streams import vault
from streams.rules import subscriptions as rules
from streams.rules.subscriptions import Held, Wanted
from streams.store import connection_changes, connections, credentials
from streams.store import subscriptions as store
from streams.store.connections import Connection
from streams.store.subscriptions import Row
from streams.turns import InTurns

TURN_S = 5.0
EVERY_S = 300.0
"""From one look to the next when all is well."""
LOOK_S = 50.0
LEASE = timedelta(seconds=60)
"""A look that takes longer was that of a worker that died."""
AT_ONCE = 4
GIVE_UP_AFTER = timedelta(days=7)
"""A system that is away for so long after a disconnect keeps its subscription, which nobody answers."""

LOOKS = Counter(
    "syncline_subscription_looks", "Looks at webhook subscriptions by how they ended", ["connection", "outcome"]
)

OpenClient = Callable[[Connection], AbstractAsyncContextManager[Client]]
_log = structlog.get_logger("inbound.subscriptions")


class Subscriptions(InTurns):
    """See `streams.worker.Service`.

    Args:
        pool: of the role `app`, in autocommit.
        public_url: how external systems reach the gateway; empty: they do not, and nothing is subscribed.
        open_client: the client of a connection, as an async context manager.
        spread: a random number from 0 to 1, for jitter.
    """

    name = "subscriptions"

    def __init__(
        self,
        pool: AsyncConnectionPool[Any],
        key: vault.Key,
        public_url: str,
        manifest: Callable[[str], Manifest],
        open_client: OpenClient,
        *,
        now: Callable[[], datetime],
        spread: Callable[[], float],
    ) -> None:
        super().__init__()
        self._pool, self._key, self._public_url = pool, key, public_url.rstrip("/")
        self._manifest, self._open_client = manifest, open_client
        self._now, self._spread = now, spread

    async def take_turn(self) -> float:
        """See `InTurns`; a look ends within its time, or is repeated by another worker."""
        await self.tend()
        return TURN_S

    async def tend(self) -> None:
        """One turn: look at all that is due. Raises OperationalError, PoolTimeout."""
        async with self._pool.connection() as conn:
            await store.expect(conn, subscribing(self._manifest), now=self._now())
        await asyncio.gather(*(self._look_at_all() for _ in range(AT_ONCE)))

    async def _look_at_all(self) -> None:
        while not self.stopping.is_set():
            now = self._now()
            async with self._pool.connection() as conn:
                row = await store.claim(conn, now=now, until=now + LEASE)
            if row is None:
                return
            await self._look(row)

    async def _look(self, row: Row) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                async with self._pool.connection() as conn:
                    connection = await connections.load_connection(conn, row.org_id, row.connection)
                outcome = await (self._leave if row.state == "leaving" else self._keep)(row, connection)
        except (psycopg.OperationalError, PoolTimeout):
            raise
        except Problem as problem:
            outcome = await self._failed(row, problem.code)
        except TimeoutError:
            outcome = await self._failed(row, "timeout")
        except Exception as error:  # noqa: BLE001 - whatever an adapter does, the next look begins afresh
            _log.exception("subscription_failed", connection=row.connection, error=type(error).__name__)
            outcome = await self._failed(row, type(error).__name__)
        LOOKS.labels(row.connection, outcome).inc()

    async def _keep(self, row: Row, connection: Connection) -> str:
        """Have exactly one, as it is wanted; none where webhooks are of no use."""
        if not self._public_url:
            return await self._looked(row, "no_public_url")
        wanted, secret = await self._wanted(connection)
        hears = _hears(connection)
        async with self._client(connection) as client:
            listed = await client.subscriptions()
            held = Held(row.external_id, row.secret_name)
            todo = rules.steps(wanted if hears else None, held, listed, {wanted.url})
            if todo.create:
                made = await client.subscribe(wanted.url, secret, wanted.types)
                async with self._pool.connection() as conn:
                    kept = await store.made(conn, row, made.id, wanted.secret_name)
                _log.info("subscription_made", connection=row.connection, again=row.external_id is not None)
                if not kept:  # disconnected meanwhile: the next look removes it
                    return "left"
            for each in todo.remove:
                await client.unsubscribe(each)
        if not hears:
            return await self._looked(row, "wanted", "not_in_use", gone=True)
        return await self._looked(row, "active", outcome="made" if todo.create else "active")

    async def _leave(self, row: Row, connection: Connection) -> str:
        """Remove ours, then the credentials that it took."""
        urls = await self._urls(connection)
        async with self._client(connection) as client:
            todo = rules.steps(None, Held(row.external_id, None), await client.subscriptions(), urls)
            for each in todo.remove:
                await client.unsubscribe(each)
        return await self._forget(row, "removed")

    async def _forget(self, row: Row, outcome: str, code: str = "") -> str:
        async with self._pool.connection() as conn, conn.transaction():
            found = await connections.load_connection(conn, row.org_id, row.connection, lock=True)
            if found.state == "disconnected" and await store.forget(conn, row):
                await credentials.destroy(conn, row.org_id, row.connection)
                detail = {"external_id": row.external_id, "code": code}
                await connection_changes.audit(
                    conn, row.org_id, "jobs", f"subscription.{outcome}", row.connection, detail
                )
        return outcome

    async def _failed(self, row: Row, code: str) -> str:
        leaving = row.state == "leaving"
        _log.warning("subscription_waits", connection=row.connection, leaving=leaving, code=code)
        if leaving and self._now() >= row.since + GIVE_UP_AFTER:
            return await self._forget(row, "abandoned", code)
        await self._looked(row, "leaving" if leaving else "failing", code, failures=row.failures + 1)
        return code

    async def _looked(
        self,
        row: Row,
        state: store.State,
        cause: str | None = None,
        *,
        failures: int = 0,
        gone: bool = False,
        outcome: str = "",
    ) -> str:
        now = self._now()
        due = now + timedelta(seconds=rules.pause_s(failures, EVERY_S, self._spread()))
        async with self._pool.connection() as conn:
            await store.looked(conn, row, state, now=now, due=due, cause=cause, failures=failures, gone=gone)
        return outcome or state

    async def _wanted(self, connection: Connection) -> tuple[Wanted, str]:
        """What there shall be, and the secret to give them."""
        place = vault.Place(connection.org_id, connection.system, connection.name, "")
        async with self._pool.connection() as conn:
            token = await credentials.get(conn, self._key, place.named(credentials.WEBHOOK_TOKEN))
            name, secret = await credentials.newest_webhook(conn, self._key, place)
        aggregates = self._manifest(connection.system).aggregates
        types = frozenset(each.external_type for each in aggregates if connection.is_live(each.root))
        return Wanted(self._url(token.get_secret_value()), types, name), secret.get_secret_value()

    async def _urls(self, connection: Connection) -> set[str]:
        """The URL that a subscription of ours may have whose id we never learned."""
        place = vault.Place(connection.org_id, connection.system, connection.name, credentials.WEBHOOK_TOKEN)
        async with self._pool.connection() as conn:
            return {self._url((await credentials.get(conn, self._key, place)).get_secret_value())}

    def _url(self, token: str) -> str:
        return f"{self._public_url}/hooks/{token}"

    @asynccontextmanager
    async def _client(self, connection: Connection) -> AsyncIterator[Subscriber]:
        async with self._open_client(connection) as client:
            yield cast(Subscriber, client)


def subscribing(manifest: Callable[[str], Manifest]) -> list[str]:
    """The installed systems whose API makes subscriptions; one that is broken is left out."""
    found = []
    for name in registry.names():
        with contextlib.suppress(Problem):
            if manifest(name).subscribes:
                found.append(name)
    return found


def _hears(connection: Connection) -> bool:
    """Whether webhooks are of use to it: it is not one that is only polled, and has something in scope."""
    return connection.mode in ("realtime", "both") and "live" in connection.gates.values()
