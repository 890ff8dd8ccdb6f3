"""Records of which only a hint or a part came, read in full: the service that fulfils the wishes of `fetching`.

    sync.fetch_intent → claim (a lease) → Client.fetch → inbound.events, source `fetch` → done, as far as it was claimed

A wish counts up with every event that makes it, and is fulfilled up to the count that was claimed before the read: what
happens during a read causes another. A worker that dies between publishing and settling has its reads repeated by
another; the same record is the same event, which has no second effect.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
import structlog
from prometheus_client import Counter
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from connectors.contract import Client, Delivered, ExternalRecord, Failed, Manifest, Op
from connectors.errors import Ambiguous, ConnectorError, Rejected
from schemas.events import InboundEvent
from schemas.problems import Problem
from streams.inbound import dead_letters
from streams.inbound.incoming import Incoming
from streams.inbound.publish import Place, Publisher, Sender, event_of
from streams.rules import hydration as rules
from streams.rules.breakers import Breaker
from streams.rules.hydration import Again, Found, GiveUp, Gone, Next, Tries
from streams.store import clock_errors, connection_changes, connections, fetches
from streams.store.connections import Connection
from streams.store.fetches import Claim
from streams.turns import InTurns

EVERY_S = 0.5
READ_S = 45.0
"""The longest a read takes, its wait for the rate budget included."""
LEASE = timedelta(seconds=60)

READ = Counter("syncline_fetches", "Reads of single records by how they ended", ["connection", "outcome"])

OpenClient = Callable[[Connection], AbstractAsyncContextManager[Client]]
Hurry = Callable[[Connection, str], Awaitable[None]]
"""Polls one external type of a connection as soon as may be."""

_NEIGHBOURS = (psycopg.OperationalError, PoolTimeout)
_log = structlog.get_logger("inbound.hydration")


@dataclass(frozen=True, slots=True)
class Read:
    """What one read came to.

    Args:
        record: what they hold, where they answered with it.
        error: why they did not answer.
    """

    claim: Claim
    next: Next
    record: ExternalRecord | None = None
    error: ConnectorError | None = None


class Hydrator(InTurns):
    """The service; see `streams.worker.Service`.

    Args:
        pool: of the role `app`, in autocommit.
        open_client: the client of a connection, as an async context manager; its calls wait for the rate budget.
        hurry: asked for a poll where it does the work of many reads.
        spread: a random number from 0 to 1.
    """

    name = "inbound.hydration"

    def __init__(
        self,
        pool: AsyncConnectionPool,
        publisher: Publisher,
        *,
        manifest: Callable[[str], Manifest],
        open_client: OpenClient,
        hurry: Hurry,
        now: Callable[[], datetime],
        spread: Callable[[], float],
    ) -> None:
        super().__init__()
        self._pool = pool
        self._publisher = publisher
        self._manifest = manifest
        self._open_client = open_client
        self._hurry = hurry
        self._now = now
        self._spread = spread
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def take_turn(self) -> float:
        """Begin to read for the connections that have something due; they do not wait for each other."""
        async with self._pool.connection() as conn:
            due = await fetches.due_connections(conn, self._now())
        self._running = {place: task for place, task in self._running.items() if not task.done()}
        for place in due - self._running.keys():
            self._running[place] = asyncio.create_task(self._work(*place))
        return EVERY_S

    async def run(self) -> None:
        """Read until `stop`; what was not settled by then is read again by another worker."""
        await super().run()
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _work(self, org_id: str, name: str) -> None:
        try:
            async with self._pool.connection() as conn:
                connection = await connections.load_connection(conn, org_id, name)
            await self.hydrate(connection)
        except (*_NEIGHBOURS, Problem) as error:
            code = getattr(error, "code", type(error).__name__)
            _log.warning("fetches_wait", connection=name, error=code)
        except Exception as error:  # noqa: BLE001 - an adapter that cannot be opened must not stop the others
            _log.exception("fetches_failed", connection=name, error=type(error).__name__)

    async def hydrate(self, connection: Connection) -> int:
        """Read what is due of one connection, round by round; how many reads.

        Raises:
            Problem: Kafka or the registry does not answer, or the connection cannot be opened; leases run out.
            psycopg.OperationalError, psycopg_pool.PoolTimeout: the database is down.
        """
        polled = await self._left_to_polls(connection)
        manifest, count = self._manifest(connection.system), 0
        claims = await self._claim(connection, manifest, polled)
        if not claims:
            return 0
        async with self._open_client(connection) as client:
            while claims:
                reads = await asyncio.gather(*(self._read(client, connection, manifest, each) for each in claims))
                await self._record(connection, reads)
                count += len(reads)
                if any(isinstance(each.next, rules.Stop) for each in reads) or self.stopping.is_set():
                    break
                claims = await self._claim(connection, manifest, polled)
        return count

    async def _left_to_polls(self, connection: Connection) -> list[str]:
        """The types whose many reads one poll does, which is asked for."""
        aggregates = {a.external_type: a for a in self._manifest(connection.system).aggregates}
        async with self._pool.connection() as conn:
            found = await fetches.pending(conn, connection)
        left = []
        for each in found:
            aggregate = aggregates.get(each.external_type)
            polled = connection.mode in ("scheduled", "both") and aggregate is not None
            polled = polled and connection.is_live(aggregate.root if aggregate else "")
            if not rules.by_poll(each.count, polled=polled, failures=each.failures):
                continue
            left.append(each.external_type)
            if rules.poll_is_due(each.polled_at, self._now()):
                _log.info("poll_for_reads", connection=connection.name, type=each.external_type, reads=each.count)
                await self._hurry(connection, each.external_type)
        return left

    async def _claim(self, connection: Connection, manifest: Manifest, polled: Sequence[str]) -> list[Claim]:
        now = self._now()
        room = self._breaker(connection).room(now, 0, connection.concurrency or manifest.concurrency)
        if not room:
            return []
        async with self._pool.connection() as conn:
            return await fetches.claim(conn, connection, polled=polled, limit=room, lease=now + LEASE, now=now)

    def _breaker(self, connection: Connection) -> Breaker:
        return self._breakers.setdefault((connection.org_id, connection.name), Breaker())

    async def _read(self, client: Client, connection: Connection, manifest: Manifest, claim: Claim) -> Read:
        """Ask for one record; whatever goes wrong is told in the answer."""
        breaker, sent_at = self._breaker(connection), self._now()
        tries = Tries(claim.attempt, claim.first_failed_at, claim.missed_at)
        try:
            async with asyncio.timeout(READ_S):
                record = await client.fetch(claim.external_type, claim.external_id)
        except Exception as error:  # noqa: BLE001 - whatever an adapter stumbles over is kept for a person
            failure = _failure(error)
            breaker.note(Failed(failure), sent_at, self._now())
            down = breaker.until if breaker.is_open else None
            follows = rules.after_failure(
                failure, tries, policy=connection.retry_policy, spread=self._spread, now=self._now(), down_until=down
            )
            return Read(claim, follows, error=failure)
        breaker.note(Delivered(claim.external_id, 200), sent_at, self._now())
        follows = rules.after_answer(found=record is not None, tries=tries, read_lag=manifest.read_lag, now=self._now())
        return Read(claim, follows, record)

    async def _record(self, connection: Connection, reads: Sequence[Read]) -> None:
        """Make durable what was read, then settle: in this order nothing is lost."""
        now, sender = self._now(), Sender(connection.org_id, connection.name, connection.system)
        gone = [_place(each) for each in reads if isinstance(each.next, Gone)]
        async with self._pool.connection() as conn:
            ahead = (await clock_errors.measured(conn, connection.org_id, connection.name)).ahead
            known = await fetches.known_at(conn, connection, gone)
        found = [record for each in reads if (record := _fact(each, ahead, known.get(_place(each)))) is not None]
        facts = [event_of(record, sender, source="fetch", received_at=now) for record in found]
        reached = _reached(facts, await self._publisher.publish(facts))
        letters = [await self._letter(sender, each) for each in reads if isinstance(each.next, GiveUp)]
        stops = [each.error for each in reads if isinstance(each.next, rules.Stop) and each.error]
        async with self._pool.connection() as conn, conn.transaction():
            await fetches.settle(conn, connection, [_row(each, now) for each in reads])
            await fetches.mark(conn, connection, reached)
            await dead_letters.write(conn, letters, now)
            for error in stops[:1]:
                reason = f"{error.code}: {error.cause}"
                await connection_changes.pause(conn, connection.org_id, connection.name, reason, actor="hydrator")
        for each in reads:
            READ.labels(connection.name, type(each.next).__name__.lower()).inc()

    async def _letter(self, sender: Sender, read: Read) -> dead_letters.Row:
        """A read that is given up, as the hint it began with: redriven, it is read again."""
        claim, error = read.claim, read.error or Rejected("fetch_failed", "they do not give the record")
        named = f"{sender.org_id}\x1f{sender.connection}\x1f{claim.external_type}\x1f{claim.external_id}"
        hint = InboundEvent(
            event_id=hashlib.sha256(f"read\x1f{named}\x1f{claim.wanted_seq}".encode()).digest()[:16],
            org_id=sender.org_id,
            connection=sender.connection,
            system=sender.system,
            external_type=claim.external_type,
            external_id=claim.external_id,
            op="hint",
            occurred_at=claim.wanted_at,
            received_at=claim.wanted_at,
            source="webhook",
            complete=False,
            payload=b"",
        )
        raw = await self._publisher.encoded(hint)
        problem = Problem(error.code, f"the record cannot be read: {error.cause}", error.next_step)
        return dead_letters.of_event(Incoming(hint, raw=raw), problem)


def _failure(error: Exception) -> ConnectorError:
    if isinstance(error, ConnectorError):
        return error
    if isinstance(error, TimeoutError):
        return Ambiguous("no_answer", "no answer in time, or no turn within the system's limit of calls")
    problem = error if isinstance(error, Problem) else Problem("fetch_failed", f"the adapter failed: {_kind(error)}")
    return Rejected(problem.code, problem.cause, problem.next_step)


def _kind(error: Exception) -> str:
    return type(error).__name__


def _place(read: Read) -> tuple[str, str]:
    return read.claim.external_type, read.claim.external_id


def _reached(facts: Sequence[InboundEvent], places: Sequence[Place]) -> dict[str, dict[int, int]]:
    """External type -> partition -> the offset after what was published there."""
    reached: dict[str, dict[int, int]] = {}
    for fact, place in zip(facts, places, strict=True):
        of_type = reached.setdefault(fact.external_type, {})
        of_type[place.partition] = max(of_type.get(place.partition, 0), place.offset + 1)
    return reached


def _fact(read: Read, ahead: timedelta, known_at: datetime | None) -> ExternalRecord | None:
    """What the read is an event of, if any; see `rules.gone_at`."""
    match read.next:
        case Found():
            return read.record
        case Gone(at):
            return ExternalRecord(*_place(read), Op.DELETE, rules.gone_at(at, ahead=ahead, known_at=known_at))
        case _:
            return None


def _row(read: Read, now: datetime) -> fetches.Row:
    """What is stored of a read."""
    claim, tries, at = read.claim, Tries(), now
    done = isinstance(read.next, Found | Gone | GiveUp)
    if isinstance(read.next, Again):
        tries, at = read.next.tries, read.next.at
    elif not done:
        tries = Tries(claim.attempt, claim.first_failed_at, claim.missed_at)
    return {
        "external_type": claim.external_type,
        "external_id": claim.external_id,
        "lease_until": claim.lease_until,
        "seq": claim.wanted_seq if done else None,
        "not_before": at,
        "attempt": tries.failures,
        "first_failed_at": tries.first_failed_at,
        "missed_at": tries.missed_at,
        "error_code": read.error and read.error.code,
        "error_cause": read.error and read.error.cause,
    }
