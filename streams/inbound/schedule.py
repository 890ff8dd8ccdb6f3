"""When to poll: one job per (connection, external type) in the job queue, each arranging its own next run.

`tend` runs every few seconds in every worker of the role `jobs`, and repeats harmlessly: it queues the polls that are
missing (a new connection, one that was resumed, a job that was lost), takes over from workers that died, moves
`applied_through`, and fills in references that came too early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta

import procrastinate
import psycopg
import structlog
from procrastinate import exceptions, jobs
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from connectors.contract import Manifest
from schemas.problems import Problem
from streams.inbound import late_references, polls
from streams.inbound.polls import Poller
from streams.store import connections
from streams.store.connections import Connection

QUEUE = "polls"
TASK = "poll"
TEND_EVERY_S = 10.0
FETCH_EVERY_S = 0.5
"""How often the queue is asked for jobs that have become due."""
HEARTBEAT_S = 5.0
DEAD_AFTER_S = 20.0
"""A worker that gave no sign for so long is dead; with `TEND_EVERY_S` its jobs go on within 30 s."""
AT_ONCE = 4
LONGEST_S = 3600.0
JITTER = 0.1

_log = structlog.get_logger("inbound.schedule")


def delay_s(interval_s: float, failures: int, spread: float) -> float:
    """Seconds to the next poll: the interval, doubled by every failure in a row up to an hour, ± 10 % of jitter."""
    grown = min(interval_s * 2.0 ** min(failures, 16), max(interval_s, LONGEST_S))
    return grown * (1 + JITTER * (2 * spread - 1))


class Schedule:
    """The service of the role `jobs`; see `streams.worker.Service`.

    Args:
        dsn: of the role `app`.
        app, applier: pools of these roles, in autocommit.
        spread: a random number from 0 to 1, for jitter.
    """

    name = "jobs"

    def __init__(
        self,
        dsn: str,
        app: AsyncConnectionPool,
        applier: AsyncConnectionPool,
        poller: Poller,
        manifest: Callable[[str], Manifest],
        *,
        now: Callable[[], datetime],
        spread: Callable[[], float],
    ) -> None:
        connector = procrastinate.PsycopgConnector(
            conninfo=dsn, kwargs={"options": "-c search_path=jobs", "application_name": "syncline-jobs"}, max_size=4
        )
        self._jobs = procrastinate.App(connector=connector)
        self._jobs.task(name=TASK, queue=QUEUE)(self._poll)
        self._app, self._applier, self._poller, self._manifest = app, applier, poller, manifest
        self._now, self._spread = now, spread
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Work until `stop` is called."""
        working = asyncio.create_task(self._work_for_ever())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            working.cancel()
            stopping.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    async def _work_for_ever(self) -> None:
        while True:
            try:
                async with self._jobs.open_async(), asyncio.TaskGroup() as group:
                    group.create_task(self._tend_for_ever())
                    group.create_task(self._work())
            except* (exceptions.ConnectorException, psycopg.OperationalError, PoolTimeout) as errors:
                _log.warning("jobs_wait", error=type(errors.exceptions[0]).__name__)
            await asyncio.sleep(1)

    async def _work(self) -> None:
        await self._jobs.run_worker_async(
            queues=[QUEUE],
            concurrency=AT_ONCE,
            fetch_job_polling_interval=FETCH_EVERY_S,
            delete_jobs="successful",
            install_signal_handlers=False,
            update_heartbeat_interval=HEARTBEAT_S,
            stalled_worker_timeout=DEAD_AFTER_S,
            shutdown_graceful_timeout=5.0,
        )

    async def stop(self) -> None:
        """Begin nothing new; a poll that is running may end, or is repeated by another worker."""
        self._stopping.set()

    async def _tend_for_ever(self) -> None:
        while True:
            try:
                await self.tend()
            except (psycopg.OperationalError, PoolTimeout, exceptions.ConnectorException) as error:
                _log.warning("tend_waits", error=type(error).__name__)
            await asyncio.sleep(TEND_EVERY_S)

    async def tend(self) -> None:
        """Put right whatever is not as it should be; see the module."""
        await self._clear()
        queued: dict[str | None, jobs.Job] = {}
        for status in ("doing", "todo"):
            listed = await self._jobs.job_manager.list_jobs_async(queue=QUEUE, status=status)
            queued |= {job.queueing_lock: job for job in listed}
        for connection in await self._connections():
            for external_type in self._types(connection):
                await self._ensure(connection, external_type, queued)
        async with self._app.connection() as conn:
            await polls.settle(conn)
        async with self._applier.connection() as conn:
            await late_references.resolve(conn, self._now())

    async def _clear(self) -> None:
        """Take away the jobs of workers that died. They hold the lock of their poll, which is then queued afresh."""
        manager = self._jobs.job_manager
        for job in await manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=DEAD_AFTER_S):
            _log.warning("poll_taken_over", job=job.id, lock=job.lock)
            if job.id is not None:
                with suppress(exceptions.ConnectorException):  # another worker was quicker
                    await manager.finish_job_by_id_async(job.id, status=jobs.Status.FAILED, delete_job=True)

    async def _connections(self) -> list[Connection]:
        async with self._app.connection() as conn:
            return [c for c in await connections.list_active(conn) if c.mode in ("scheduled", "both")]

    def _types(self, connection: Connection) -> list[str]:
        try:
            manifest = self._manifest(connection.system)
        except Problem as problem:
            _log.error("poll_impossible", connection=connection.name, code=problem.code)
            return []
        return [a.external_type for a in manifest.aggregates if connection.is_live(a.root)]

    async def _ensure(self, connection: Connection, external_type: str, queued: Mapping[str | None, jobs.Job]) -> None:
        """Queue the poll if it is neither waiting nor running, or waits longer than its interval says by now."""
        job = queued.get(_lock(connection, external_type))
        if job is not None and job.status == "todo" and job.scheduled_at is not None and job.id is not None:
            latest = self._now() + timedelta(
                seconds=max(delay_s(connection.interval_s(external_type), 0, 1), TEND_EVERY_S)
            )
            if job.scheduled_at <= latest or await self._failures(connection, external_type):
                return
            # The interval was shortened since.
            await self._jobs.job_manager.cancel_job_by_id_async(job.id, delete_job=True)
        elif job is not None:
            return
        await self._defer(connection, external_type, 0)

    async def _failures(self, connection: Connection, external_type: str) -> int:
        async with self._app.connection() as conn:
            cursor = await conn.execute(
                "select failures from sync.checkpoint where org_id = %s and connection = %s and external_type = %s",
                (connection.org_id, connection.name, external_type),
            )
            row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def _defer(self, connection: Connection, external_type: str, in_s: float) -> None:
        lock = _lock(connection, external_type)
        deferrer = self._jobs.configure_task(
            TASK, queue=QUEUE, lock=lock, queueing_lock=lock, schedule_in={"seconds": in_s} if in_s else None
        )
        with suppress(exceptions.AlreadyEnqueued):
            await deferrer.defer_async(
                org_id=connection.org_id, connection=connection.name, external_type=external_type
            )

    async def hurry(self, connection: Connection, external_type: str) -> None:
        """Poll now, unless a poll is running, or about to begin. Only in a worker in which this service runs."""
        manager, lock = self._jobs.job_manager, _lock(connection, external_type)
        try:
            listed = list(await manager.list_jobs_async(queue=QUEUE, queueing_lock=lock))
            if any(job.status == "doing" for job in listed):
                return
            for job in listed:
                later = job.status == "todo" and job.scheduled_at is not None and job.scheduled_at > self._now()
                if later and job.id is not None:
                    await manager.cancel_job_by_id_async(job.id, delete_job=True)
            await self._defer(connection, external_type, 0)
        except (exceptions.ConnectorException, exceptions.AppNotOpen) as error:
            _log.warning("hurry_failed", connection=connection.name, type=external_type, error=type(error).__name__)

    async def _poll(self, org_id: str, connection: str, external_type: str) -> None:
        """The job: one poll, then its successor. A connection that does not work has none; `tend` begins again."""
        found = await self._working(org_id, connection)
        if found is None or external_type not in self._types(found):
            return
        failures = 1
        try:
            polled = await self._poller.poll(found, external_type)
            failures = polled.failures
            async with self._app.connection() as conn:
                await polls.settle(conn, org_id, connection)
        except (psycopg.OperationalError, PoolTimeout) as error:
            _log.warning("poll_waits", connection=connection, type=external_type, error=type(error).__name__)
        await self._defer(found, external_type, delay_s(found.interval_s(external_type), failures, self._spread()))

    async def _working(self, org_id: str, name: str) -> Connection | None:
        async with self._app.connection() as conn:
            for found in await connections.list_active(conn, org_id):
                if found.name == name and found.mode in ("scheduled", "both"):
                    return found
        return None


def _lock(connection: Connection, external_type: str) -> str:
    return f"poll/{connection.org_id}/{connection.name}/{external_type}"
