"""The slot of a worker: the lowest free number, held as a Postgres session advisory lock.

The number makes the worker's static Kafka membership and its table folder, so a worker that comes back finds its
partitions and tables again, and no two workers share them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import psycopg
import structlog

from schemas.problems import Problem

log = structlog.get_logger(__name__)

LOCK_CLASS = 0x53_4C_4F_54  # "SLOT"; the first half of the advisory lock's key
MOST = 256
CHECK_EVERY_S = 5.0


async def connect(dsn: str, name: str) -> psycopg.AsyncConnection:
    """A connection that notices a dead peer within about 20 s."""
    return await psycopg.AsyncConnection.connect(
        dsn,
        autocommit=True,
        application_name=name,
        connect_timeout=5,
        keepalives_idle=5,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=20_000,
    )


class Slot:
    """A held slot. Make it with `take`, keep it with `hold`."""

    def __init__(self, dsn: str, connection: psycopg.AsyncConnection, number: int) -> None:
        self._dsn = dsn
        self._connection = connection
        self.number = number

    async def hold(self, *, check_every_s: float = CHECK_EVERY_S) -> None:
        """Watch over the lock for ever; take it again when its connection breaks.

        Raises:
            Problem: `slot_lost` when another worker has taken the number meanwhile.
        """
        while True:
            await asyncio.sleep(check_every_s)
            try:
                await self._connection.execute("select 1")
            except psycopg.Error:
                log.warning("slot_connection_lost", slot=self.number)
                await self._regain()

    async def _regain(self) -> None:
        await self._connection.close()
        while True:
            try:
                self._connection = await connect(self._dsn, f"syncline-worker-{self.number}")
            except psycopg.OperationalError as error:
                log.warning("waiting_for", what="postgres", cause=str(error).partition("\n")[0])
                await asyncio.sleep(1.0)
                continue
            # the server may hold the dead session's lock until it notices; a fellow worker holds it for good
            for _ in range(20):
                if await lock(self._connection, self.number):
                    log.info("slot_regained", slot=self.number)
                    return
                await asyncio.sleep(1.0)
            raise Problem(
                "slot_lost",
                f"slot {self.number} belongs to another worker now",
                "Nothing to do: the worker ends and takes another slot when it is started again.",
            )

    async def announce(self, roles: Sequence[str]) -> None:
        """Show in pg_stat_activity that this worker works: `syncline-worker-0 ready plan,apply`."""
        name = f"syncline-worker-{self.number} ready {','.join(roles)}"[:63]
        with suppress(psycopg.Error):
            await self._connection.execute("select set_config('application_name', %s, false)", (name,))

    async def release(self) -> None:
        """Give the slot back."""
        await self._connection.close()


async def lock(connection: psycopg.AsyncConnection, number: int) -> bool:
    """Try to take the session lock of a slot."""
    cursor = await connection.execute("select pg_try_advisory_lock(%s, %s)", (LOCK_CLASS, number))
    row = await cursor.fetchone()
    return bool(row and row[0])


async def take(dsn: str) -> Slot:
    """Take the lowest free slot; one try at connecting.

    Raises:
        psycopg.OperationalError: Postgres cannot be reached.
        Problem: `no_slot` when all are taken.
    """
    connection = await connect(dsn, "syncline-worker")
    for number in range(MOST):
        if await lock(connection, number):
            await connection.execute("select set_config('application_name', %s, false)", (f"syncline-worker-{number}",))
            return Slot(dsn, connection, number)
    await connection.close()
    raise Problem("no_slot", f"all {MOST} worker slots are taken", "Stop workers that are not needed.")
