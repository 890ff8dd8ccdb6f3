"""How far each agent has come, stored in Postgres with the effect itself: `sync.progress`.

A handler calls `advance` in its transaction; the compare-and-set makes sure that the records it worked on follow those
whose effects are stored. The loser of a race gets `Late`, rolls back and skips what is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import psycopg
from psycopg.rows import tuple_row

from streams.chunks import Chunk, Late, Partition

TABLE = """
create table if not exists sync.progress (
    consumer text not null,
    topic text not null,
    partition int not null,
    next_offset bigint not null,
    updated_at timestamptz not null default now(),
    primary key (consumer, topic, partition)
)"""
"""The table as the migrations make it; for tests that have no migrations."""

_LOAD = """
select topic, partition, next_offset from sync.progress
where consumer = %s and (topic, partition) in (
    select topic, partition from json_to_recordset(%s::json) as w(topic text, partition int)
)
"""

# rows are locked in key order, so two workers that race for several partitions cannot deadlock
_ADVANCE = """
with wanted as materialized (
    select topic, partition, "first", "end"
    from json_to_recordset(%(spans)s::json) as w(topic text, partition int, "first" bigint, "end" bigint)
    order by topic, partition
), moved as (
    insert into sync.progress as p (consumer, topic, partition, next_offset)
    select %(consumer)s, topic, partition, "end" from wanted order by topic, partition
    on conflict (consumer, topic, partition) do update
    set next_offset = excluded.next_offset, updated_at = now()
    where p.next_offset = (select w."first" from wanted w where w.topic = p.topic and w.partition = p.partition)
    returning p.topic, p.partition
)
select topic, partition from moved
"""


async def load(
    cursor: psycopg.AsyncCursor[Any], consumer: str, partitions: Iterable[Partition]
) -> dict[Partition, int]:
    """The stored next offsets of `consumer`; partitions without one are left out."""
    cursor.row_factory = tuple_row
    wanted = orjson.dumps([{"topic": at.topic, "partition": at.partition} for at in partitions]).decode()
    await cursor.execute(_LOAD, (consumer, wanted))
    return {Partition(topic, partition): offset for topic, partition, offset in await cursor.fetchall()}


def spans(chunks: Sequence[Chunk]) -> dict[Partition, tuple[int, int]]:
    """From where to where the chunks reach in each partition. Chunks of one partition must follow each other."""
    reach: dict[Partition, tuple[int, int]] = {}
    for chunk in chunks:
        first, end = reach.get(chunk.at, (chunk.first, chunk.first))
        if end != chunk.first:
            raise ValueError(
                f"chunks of {chunk.topic}/{chunk.partition} do not follow each other: {end}, {chunk.first}"
            )
        reach[chunk.at] = (first, chunk.end)
    return reach


async def advance(cursor: psycopg.AsyncCursor[Any], consumer: str, chunks: Sequence[Chunk]) -> None:
    """Store that `consumer` has done `chunks`, inside the transaction of their effect; one statement.

    Raises:
        Late: somebody else has done some of them; roll back. The runner works out what is left and calls again.
    """
    reach = spans(chunks)
    rows = [{"topic": a.topic, "partition": a.partition, "first": f, "end": e} for a, (f, e) in reach.items()]
    cursor.row_factory = tuple_row
    await cursor.execute(_ADVANCE, {"consumer": consumer, "spans": orjson.dumps(rows).decode()})
    moved = {Partition(topic, partition) for topic, partition in await cursor.fetchall()}
    if len(moved) < len(reach):
        stored = await load(cursor, consumer, reach.keys() - moved)
        # what this statement moved goes back with the transaction, to where we went on from
        raise Late({at: first if at in moved else stored.get(at) for at, (first, _) in reach.items()})
