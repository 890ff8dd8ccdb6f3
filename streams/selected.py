"""Selective push: chosen entities, also where nothing unlinked goes by itself (option 3), and *link and push*.

Called by the CLI and the REST API, like `streams.queues`. The wish is like any other: the dispatcher creates what has
no link and updates what has one; it closes the review item that a change of an unlinked entity left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from connectors.contract import Manifest
from schemas.fields import Aggregate
from schemas.model import Model
from schemas.problems import Problem
from streams import queues
from streams.queues import By, Conn, Row
from streams.store import connections, queries, waits, wishes
from streams.store.connections import Connection

LONGEST_ID = 1000
"""Characters of an external id; an index cannot hold much more."""

_SQL = queries("queues")


@dataclass(frozen=True, slots=True)
class Systems:
    """What the model and the adapters say. `manifest` is by system name."""

    model: Model
    manifest: Callable[[str], Manifest]


async def push(
    conn: Conn, by: By, ids: Sequence[str], systems: Systems, *, connection: str | None = None, link: str | None = None
) -> list[Row]:
    """Push chosen entities, a part by its root, linked or not.

    Args:
        connection: may be left out where only one takes them.
        link: their id of the one entity that is given: the two are linked before it is pushed.

    Returns:
        For each root its `entity_id`, `connection` and the `state` of the wish.

    Raises:
        Problem: `id_unknown`, `connection_unknown`, `connection_ambiguous`, `not_connected`, `type_not_taken`,
            `link_taken`, `link_invalid`.
    """
    async with conn.transaction():
        roots = await _roots(conn, by, ids, systems.model)
        if link is not None and len(roots) != 1:
            raise Problem("link_invalid", "an id of theirs belongs to one entity", "Give one ID with --link.")
        if link is not None and not 0 < len(link) <= LONGEST_ID:
            raise Problem("link_invalid", f"an id of theirs has 1 to {LONGEST_ID} characters", "Give their id.")
        target = await _target(conn, by, set(roots.values()), systems.manifest, connection)
        manifest = systems.manifest(target.system)
        aggregates = {root_type: _aggregate(target, manifest, root_type) for root_type in roots.values()}
        if link is not None:
            [(entity_id, entity_type)] = roots.items()
            await _link(conn, by, target, aggregates[entity_type], entity_id, link)
        wanted = [
            queues.wish(target, aggregates[roots[each]].external_type, roots[each], each, "selected")
            for each in sorted(roots)
        ]
        await wishes.add(conn, wanted, now=by.now)
        await conn.execute(
            _SQL["close_reviews"],
            {"org": by.org_id, "connection": target.name, "ids": list(roots), "now": by.now},
        )
        for each in roots:
            detail = {"connection": target.name} | ({"external_id": link} if link is not None else {})
            await queues.audit(conn, by, "push.linked" if link is not None else "push.selected", each, **detail)
        return await _states(conn, by, target, aggregates, roots)


async def _roots(conn: Conn, by: By, ids: Sequence[str], model: Model) -> dict[str, str]:
    """The roots of these entities, each with its type."""
    roots: dict[str, str] = {}
    for entity_id in dict.fromkeys(ids):
        entity = model.type_of_id(entity_id)
        if entity is None:
            raise _unknown(by, entity_id)
        parent = sql.Identifier(entity.parent.name) if entity.parent else sql.Identifier("id")
        statement = sql.SQL("select {} from canon.{} where org_id = %s and id = %s and deleted_at is null")
        cursor = await conn.execute(statement.format(parent, sql.Identifier(entity.name)), (by.org_id, entity_id))
        row = await cursor.fetchone()
        if row is None:
            raise _unknown(by, entity_id)
        roots[row[0]] = model.root_of(entity.name).name
    return roots


async def _target(
    conn: Conn, by: By, types: set[str], manifest: Callable[[str], Manifest], name: str | None
) -> Connection:
    if name is not None:
        target = await connections.load_connection(conn, by.org_id, name)
        if target.state == "disconnected":
            raise Problem("not_connected", f"{name} is disconnected", "Connect it again with `syncline connect`.")
        return target
    able = [
        c
        for c in await connections.list_all(conn, by.org_id)
        if c.state != "disconnected" and types <= c.gates.keys() and all(map(manifest(c.system).for_root, types))
    ]
    if not able:
        raise Problem("type_not_taken", f"no connection takes {', '.join(sorted(types))}", "Connect one that does.")
    if len(able) > 1:
        names = ", ".join(c.name for c in able)
        raise Problem("connection_ambiguous", f"{names} take this", "Name one with --connection.")
    return able[0]


def _aggregate(target: Connection, manifest: Manifest, root_type: str) -> Aggregate:
    found = manifest.for_root(root_type)
    if found is None or root_type not in target.gates:
        raise Problem(
            "type_not_taken", f"{target.name} does not take {root_type}", f"It takes: {', '.join(target.gates)}."
        )
    return found


async def _link(conn: Conn, by: By, target: Connection, aggregate: Aggregate, entity_id: str, external_id: str) -> None:
    """Link the two, unless one of them is linked with another; a write that was in doubt about this goes on."""
    values = {
        "org": by.org_id,
        "connection": target.name,
        "external_type": aggregate.external_type,
        "external_id": external_id,
        "type": aggregate.root,
        "entity": entity_id,
    }
    for row in await queues.rows(conn, "links", values):
        theirs, ours = row["external_id"], row["entity_id"]
        if (ours or entity_id, theirs) != (entity_id, external_id):
            raise _taken(target, ours, theirs)
    try:
        await conn.execute(_SQL["link"], values)
    except psycopg.errors.UniqueViolation as error:  # by somebody else, at this very moment
        raise _taken(target, entity_id, external_id) from error
    await waits.release(conn, by.org_id, target.name, [entity_id], now=by.now)
    await queues.unpark(conn, by, entity_id, target.name, "linked")


async def _states(
    conn: Conn, by: By, target: Connection, aggregates: Mapping[str, Aggregate], roots: Mapping[str, str]
) -> list[Row]:
    told = []
    for root_type, aggregate in aggregates.items():
        ids = [each for each, of in roots.items() if of == root_type]
        values = {"org": by.org_id, "connection": target.name, "external_type": aggregate.external_type, "ids": ids}
        states = {row["entity_id"]: row["state"] for row in await queues.rows(conn, "states", values)}
        told += [{"entity_id": each, "connection": target.name, "state": states[each]} for each in ids]
    return told


def _taken(target: Connection, ours: str, theirs: str) -> Problem:
    return Problem("link_taken", f"{ours} and {theirs} of {target.name} are linked already", "See `syncline why`.")


def _unknown(by: By, entity_id: str) -> Problem:
    return Problem("id_unknown", f"{by.org_id} has no living row {entity_id!r}", "Give ids of ours, like person_01h….")
