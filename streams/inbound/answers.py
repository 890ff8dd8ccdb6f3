"""Records about which a person decided who they are: one of ours, or somebody new.

`read` tells the matching what was decided, for the event that was kept and for all that they say of the record until it
is linked; nobody is asked twice. `Answered` is the service that applies what was kept: its event leaves the ledger,
where it stood as parked, and goes the plain way of any event.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import AsyncConnection

from streams.inbound.incoming import Unit
from streams.inbound.kept import Kept
from streams.inbound.loaded import Loaded
from streams.rules.matching import Answer
from streams.store import queries

Conn = AsyncConnection[Any]

_SQL = queries("matching")


async def read(conn: Conn, unit: Unit, loaded: Loaded, external_ids: Iterable[str]) -> dict[str, Answer]:
    """Their ids -> what was decided, of the records about which it holds."""
    cursor = await conn.execute(_SQL["answers"], {**unit.scope, "ids": sorted(external_ids)})
    found = {external_id: Answer(entity_id, told_at) async for external_id, entity_id, told_at in cursor}
    return {each: answer for each, answer in found.items() if answer.holds(loaded.records[each].unlinked_at)}


class Answered(Kept):
    """The service. The items are closed first: what cannot be as it was decided makes one of its own."""

    name = "inbound.answers"
    batch = 200
    any_due, due, taken = _SQL["any_answered"], _SQL["answered"], _SQL["take_up"]
