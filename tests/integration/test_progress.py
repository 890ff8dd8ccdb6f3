"""The compare-and-set of positions, on a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import psycopg
import pytest

from streams import progress
from streams.chunks import Chunk, Late, Partition

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]
A, B = Partition("a", 0), Partition("b", 3)


def chunk(at: Partition, first: int, end: int) -> Chunk:
    return Chunk(at.topic, at.partition, first, end, [SimpleNamespace(offset=n) for n in range(first, end)])


@pytest.fixture
async def conn(fresh_database) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(fresh_database.dsn("admin"), autocommit=True) as made:
        await made.execute("create schema sync")
        await made.execute(progress.TABLE)
        yield made


async def stored(conn: psycopg.AsyncConnection, *partitions: Partition) -> dict[Partition, int]:
    return await progress.load(conn.cursor(), "x", partitions or (A, B))


async def test_chunks_of_many_partitions_advance_at_once(conn: psycopg.AsyncConnection) -> None:
    await progress.advance(conn.cursor(), "x", [chunk(A, 0, 5), chunk(B, 7, 9), chunk(A, 5, 8)])
    assert await stored(conn) == {A: 8, B: 9}
    await progress.advance(conn.cursor(), "x", [chunk(A, 8, 20)])
    assert await stored(conn) == {A: 20, B: 9}
    assert await progress.load(conn.cursor(), "y", [A]) == {}, "each consumer has its own"


async def test_a_gap_between_chunks_needs_no_excuse(conn: psycopg.AsyncConnection) -> None:
    await progress.advance(conn.cursor(), "x", [chunk(A, 0, 5)])
    gap = Chunk("a", 0, 5, 12, [SimpleNamespace(offset=10), SimpleNamespace(offset=11)])
    await progress.advance(conn.cursor(), "x", [gap])
    assert await stored(conn, A) == {A: 12}


@pytest.mark.parametrize(("done", "first"), [(8, 0), (3, 0), (0, 3)])
async def test_who_does_not_go_on_from_what_is_stored_is_late(
    conn: psycopg.AsyncConnection, done: int, first: int
) -> None:
    await conn.execute("insert into sync.progress values ('x', 'a', 0, %s)", (done,))
    with pytest.raises(Late) as late:
        async with conn.transaction():
            await progress.advance(conn.cursor(), "x", [chunk(A, first, 8), chunk(B, 0, 4)])
    assert late.value.positions == {A: done, B: 0}, "what moved in the call goes back"
    assert await stored(conn) == {A: done}


async def test_of_two_racing_workers_one_is_late(conn: psycopg.AsyncConnection, fresh_database) -> None:
    await conn.execute("insert into sync.progress values ('x', 'a', 0, 4)")
    async with await psycopg.AsyncConnection.connect(fresh_database.dsn("admin")) as other:
        await progress.advance(other.cursor(), "x", [chunk(A, 4, 8)])

        racing = asyncio.create_task(progress.advance(conn.cursor(), "x", [chunk(A, 4, 6)]))
        await asyncio.sleep(0.05)
        assert not racing.done(), "it waits for the other's transaction"
        await other.commit()
        with pytest.raises(Late) as late:
            await racing
    assert late.value.positions == {A: 8}


def test_chunks_that_do_not_follow_each_other_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="do not follow"):
        progress.spans([chunk(A, 0, 5), chunk(A, 6, 8)])
