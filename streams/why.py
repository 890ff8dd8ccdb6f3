"""Why a record did or did not sync: reads what is known of it, connection by connection, and says it in plain words.

Asked by `syncline why ID` and `GET /v1/why/{id}`. It reads only, and returns no personal data: ids, versions, times,
states and reasons.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TypeVar

from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from connectors.contract import Manifest
from schemas.model import Model
from schemas.problems import Problem
from streams.rules import explanations
from streams.rules.explanations import DeadLetter, Decision, Delivery, Entity, Facts, Intent, Link, Loser, Wait
from streams.store import connections, queries
from streams.store.connections import Connection

_SQL = queries("why")
_TYPEID = re.compile(r"([a-z]([a-z_]{0,61}[a-z])?)_[0-7][0-9a-hjkmnp-tv-z]{25}")
LIMIT = 5
"""Deliveries and decisions shown per connection."""

Conn = AsyncConnection[Any]
Row = Mapping[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Report:
    """The answer for one entity, or for one record of theirs that has no entity.

    Args:
        entity: our row, None while there is none.
        root: id of the root it syncs with; its own id for roots.
        connections: what is known at each connection, with the sentence.
    """

    asked: str
    entity: Entity | None
    root: str
    connections: Sequence[tuple[Facts, str]]

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values but for times, which stay datetimes."""
        listed = [{"sentence": sentence, **asdict(facts)} for facts, sentence in self.connections]
        entity = asdict(self.entity) if self.entity else None
        return {"asked": self.asked, "entity": entity, "root": self.root, "connections": listed}


@dataclass(frozen=True, slots=True)
class Asker:
    """What `why` needs beside the database.

    Args:
        manifest: system name -> manifest; raises Problem for a system whose adapter is gone.
    """

    org_id: str
    model: Model
    manifest: Callable[[str], Manifest]
    now: datetime


async def why(conn: Conn, asked: str, asker: Asker) -> list[Report]:
    """One report per entity that `asked` names: one for an entity id, perhaps several for an id of theirs.

    Raises:
        Problem: `id_unknown` when neither side has it, as far as we know.
    """
    if _TYPEID.fullmatch(asked) and asker.model.type_of_id(asked) is not None:
        return [await _entity_report(conn, asked, asked, asker)]
    values = {"org": asker.org_id, "id": asked}
    links = await _rows(conn, "links_by_external_id", values)
    ids = list(dict.fromkeys(row["entity_id"] for row in links if row["entity_id"]))
    reports = [await _entity_report(conn, asked, each, asker) for each in ids]
    unmatched = [row for row in links if not row["entity_id"]]
    if not reports:
        unmatched = unmatched or await _rows(conn, "events_by_external_id", values)
    if unmatched:
        reports.append(await _external_report(conn, asked, {row["connection"] for row in unmatched}, asker))
    if not reports:
        raise _unknown(asked, asker)
    return reports


async def _entity_report(conn: Conn, asked: str, entity_id: str, asker: Asker) -> Report:
    entity, root = await _entity(conn, entity_id, asker)
    known = await _known(conn, asked, entity_id, root, asker)
    reports = []
    for connection in await connections.list_all(conn, asker.org_id):
        facts = _facts(connection, known, asker.model.root_of(entity.entity_type).name, entity.entity_type, asker)
        reports.append((facts, explanations.explain(facts, entity, asker.now)))
    return Report(asked, entity, root, reports)


async def _external_report(conn: Conn, asked: str, names: set[str], asker: Asker) -> Report:
    decisions = await _rows(conn, "decisions_by_external_id", {"org": asker.org_id, "id": asked, "limit": LIMIT})
    reads = await _rows(conn, "reads", {"org": asker.org_id, "ids": [asked]})
    known = {"decisions": [*reads, *decisions]}
    reports = []
    for connection in await connections.list_all(conn, asker.org_id):
        if connection.name in names:
            facts = _facts(connection, known, next(iter(connection.gates), ""), "", asker)
            reports.append((facts, explanations.explain(facts, None, asker.now)))
    return Report(asked, None, "", reports)


async def _entity(conn: Conn, entity_id: str, asker: Asker) -> tuple[Entity, str]:
    """Our row, living or not, and the id of its root."""
    entity_type = asker.model.type_of_id(entity_id)
    if entity_type is None:
        raise _unknown(entity_id, asker)
    parent = sql.Identifier(entity_type.parent.name) if entity_type.parent else sql.SQL("id")
    statement = sql.SQL(
        "select version, origin, modified_at, deleted_at, {} as root from canon.{} where org_id = %s and id = %s"
    )
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement.format(parent, sql.Identifier(entity_type.name)), (asker.org_id, entity_id))
        row = await cursor.fetchone()
    if row:
        root = row.pop("root") or entity_id
        return Entity(entity_type.name, entity_id, **row), root
    gone = await _rows(conn, "tombstone", {"org": asker.org_id, "id": entity_id})
    if not gone:
        raise _unknown(entity_id, asker)
    return Entity(**gone[0]), entity_id


async def _known(conn: Conn, asked: str, entity_id: str, root: str, asker: Asker) -> dict[str, list[Row]]:
    ids = [entity_id, root]
    values = {"org": asker.org_id, "ids": ids, "root": root, "limit": LIMIT}
    known = {
        name: await _rows(conn, name, values)
        for name in ("links", "intents", "waits", "deliveries", "decisions", "conflicts", "losers")
    }
    theirs = [link["external_id"] for link in known["links"]]
    reads = await _rows(conn, "reads", {"org": asker.org_id, "ids": theirs})
    known["decisions"] = [*reads, *known["decisions"]]
    keys = [f"{link['connection']}/{link['external_type']}/{link['external_id']}" for link in known["links"]]
    subjects = values | {"subjects": [*ids, *theirs]}
    known["reviews"] = await _rows(conn, "reviews", subjects)
    known["dead_letters"] = await _rows(
        conn, "dead_letters", values | {"keys": [*ids, f"{asker.org_id}/{root}", *keys, asked]}
    )
    return known


def _facts(
    connection: Connection, known: Mapping[str, Sequence[Row]], root_type: str, entity_type: str, asker: Asker
) -> Facts:
    here = {
        name: [
            {k: v for k, v in row.items() if k != "connection"} for row in rows if row["connection"] == connection.name
        ]
        for name, rows in known.items()
    }
    return Facts(
        connection=connection.name,
        system=connection.system,
        state=connection.state,
        state_reason=connection.state_reason,
        option=connection.option,
        gate=connection.gates.get(root_type, ""),
        takes_type=_takes(asker, connection.system, root_type, entity_type),
        link=_first(Link, here.get("links", [])),
        intent=_first(Intent, here.get("intents", [])),
        waits=[Wait(**row) for row in here.get("waits", [])],
        deliveries=[Delivery(**row) for row in here.get("deliveries", [])],
        decisions=[Decision(**row) for row in here.get("decisions", [])],
        losers=[Loser(**row) for row in here.get("losers", [])],
        conflicts=[row["field"] for row in here.get("conflicts", [])],
        reviews=[row["kind"] for row in here.get("reviews", [])],
        dead_letters=[DeadLetter(**row) for row in here.get("dead_letters", [])],
    )


def _takes(asker: Asker, system: str, root_type: str, entity_type: str) -> bool:
    """Whether the system has the type; a part must be among the parts of its root's aggregate."""
    try:
        aggregate = asker.manifest(system).for_root(root_type)
    except Problem:
        return True  # an adapter that is gone says nothing about the type
    if aggregate is None:
        return False
    return entity_type in ("", root_type) or any(part.entity_type == entity_type for part in aggregate.parts)


def _first(kind: Callable[..., _T], rows: Sequence[Row]) -> _T | None:
    return kind(**rows[0]) if rows else None


async def _rows(conn: Conn, name: str, values: Mapping[str, Any]) -> list[Row]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL[name].encode(), values)
        return list(await cursor.fetchall())


def _unknown(asked: str, asker: Asker) -> Problem:
    prefixes = ", ".join(f"{entity.prefix}_…" for entity in asker.model)
    return Problem(
        "id_unknown",
        f"neither our tables nor any link or event of theirs has the id {asked!r} in {asker.org_id}",
        f"Our ids look like {prefixes}; theirs are known once they were linked or an event of them came.",
    )
