"""Changes to wishes: one statement raises `wanted_seq` for every (connection, root) a batch of changes concerns.

Called by the `outbound.plan` agent with its open transaction, by `push --all`, and by whatever else wants a root sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import orjson
from psycopg import AsyncConnection

from connectors.contract import Manifest
from streams.rules.routing import Route, Target, Verdict, route
from streams.store import accounting, aggregates, connection_changes, connections, queries, wishes
from streams.store.accounting import RouteKey, Seen
from streams.store.connections import Connection
from streams.store.wishes import Wish

_SQL = queries("outbound")


@dataclass(slots=True)
class Touched:
    """A root that changed, itself or in its parts.

    Args:
        committed_at: COMMIT of the oldest of the changes.
        origins: where the changes came from: `local`, `bulk`, or a connection's name.
    """

    org_id: str
    root_type: str
    root_id: str
    committed_at: datetime
    origins: set[str] = field(default_factory=set)

    @property
    def sync_key(self) -> str:
        """The Kafka key of the root, its parts and its links."""
        return f"{self.org_id}/{self.root_id}"


@dataclass(slots=True)
class Planned:
    """What planning came to: intents raised, where each root went at each connection, how many were looked at."""

    intents: int = 0
    routes: Counter[RouteKey] = field(default_factory=Counter)
    seen: Counter[Seen] = field(default_factory=Counter)
    linked_by_table: int = 0
    linked_by_query: int = 0


class Planner:
    """Plans pushes. Stateless but for its collaborators.

    Args:
        manifest: system name -> manifest.
        known_links: sync key -> names of the connections the `links` table knows it linked with. It may know less
            than is true, never more.
        notify: wake dispatchers of other processes; not needed where this process has one.
    """

    def __init__(
        self, manifest: Callable[[str], Manifest], known_links: Callable[[str], Collection[str]], *, notify: bool = True
    ) -> None:
        self._manifest = manifest
        self._notify = notify
        self._known_links = known_links

    async def plan(
        self,
        conn: AsyncConnection,
        touched: Iterable[Touched],
        *,
        now: datetime,
        reason: str = "change",
        only: str = "",
        priority: int = wishes.LIVE,
    ) -> Planned:
        """Plan a batch inside the caller's transaction, for all connections or `only` one."""
        roots = list(touched)
        targets = await _targets(conn, {root.org_id for root in roots}, only)
        planned = Planned()
        linked = await self._linked(conn, roots, targets, planned)
        wanted: list[Wish] = []
        reviews = []
        for root in roots:
            for target in targets.get(root.org_id, ()):
                planned.seen[root.org_id, target.name, root.root_type] += 1
                aggregate = self._manifest(target.system).for_root(root.root_type)
                told = route(
                    root.origins,
                    Target(target.name, target.option, target.state, target.gates.get(root.root_type, "")),
                    takes_type=aggregate is not None,
                    linked=(root.sync_key, target.name) in linked,
                )
                key = RouteKey(root.org_id, target.name, root.root_type, told.verdict.value, told.reason)
                planned.routes[key] += 1
                if aggregate and told.verdict in (Verdict.PUSH, Verdict.HOLD):
                    wanted.append(_wish(root, target, aggregate.external_type, told, reason) | {"priority": priority})
                elif told.verdict is Verdict.REVIEW:
                    reviews.append(_review(root, target))
        await wishes.add(conn, wanted, now=now, notify=self._notify)
        if reviews:
            await conn.execute(_SQL["review"], {"rows": orjson.dumps(reviews).decode()})
        planned.intents = len(wanted)
        await accounting.count_routes(conn, planned.routes, planned.seen, now=now)
        return planned

    async def plan_all(
        self,
        conn: AsyncConnection,
        org_id: str,
        connection: str,
        manifest: Manifest,
        *,
        now: datetime,
        reason: str = "push_all",
    ) -> int:
        """Wish every living root of the connection's types to be sent, and every linked one, so that what left a filter
        or was deleted can leave there too; behind all live changes. How many were planned."""
        count = 0
        for aggregate in manifest.aggregates:
            living = await aggregates.living(conn, aggregate.root, org_id)
            linked = await connection_changes.linked_roots(conn, org_id, connection, aggregate.root)
            ids = sorted({*living, *linked})
            for start in range(0, len(ids), 5000):
                batch = [Touched(org_id, aggregate.root, each, now, {"local"}) for each in ids[start : start + 5000]]
                planned = await self.plan(
                    conn, batch, now=now, reason=reason, only=connection, priority=wishes.BACKFILL
                )
                count += planned.intents
        return count

    async def _linked(
        self,
        conn: AsyncConnection,
        roots: Sequence[Touched],
        targets: Mapping[str, Sequence[Connection]],
        planned: Planned,
    ) -> set[tuple[str, str]]:
        """(sync key, connection) pairs, linked or about to be; asked only where it decides something: option 3."""
        linked, unknown = set(), set()
        for root in roots:
            for target in targets.get(root.org_id, ()):
                if target.option != 3:
                    continue
                if target.name in self._known_links(root.sync_key):
                    linked.add((root.sync_key, target.name))
                    planned.linked_by_table += 1
                else:
                    unknown.add(root.sync_key)
        if unknown:
            planned.linked_by_query += len(unknown)
            ids = [key.rpartition("/")[2] for key in unknown]
            cursor = await conn.execute(_SQL["links_of"], {"keys": sorted(unknown), "ids": ids})
            linked.update([(key, name) async for key, name in cursor])
        return linked


async def _targets(conn: AsyncConnection, orgs: Collection[str], only: str) -> Mapping[str, Sequence[Connection]]:
    """The connections of these organisations, read in the same transaction, so that no setting is ever stale."""
    found: dict[str, list[Connection]] = {}
    for org in sorted(orgs):
        listed = await connections.list_all(conn, org)
        found[org] = [c for c in listed if c.state != "disconnected" and only in ("", c.name)]
    return found


def _wish(root: Touched, target: Connection, external_type: str, told: Route, reason: str) -> Wish:
    return {
        "org_id": root.org_id,
        "connection": target.name,
        "external_type": external_type,
        "entity_type": root.root_type,
        "entity_id": root.root_id,
        "state": "PENDING" if told.verdict is Verdict.PUSH else "HELD",
        "reason": reason if told.verdict is Verdict.PUSH else told.reason,
        "committed_at": root.committed_at,
    }


def _review(root: Touched, target: Connection) -> dict[str, str]:
    return {"org_id": root.org_id, "connection": target.name, "entity_type": root.root_type, "entity_id": root.root_id}
