"""`POST /hooks/{token}`: their webhooks in, durable in Kafka before the answer (rule R18). It never applies.

    raw body (capped) → endpoint of the token → signature → delivery ledger → parse → publish, acks=all → ledger → 202

A token that nobody has is answered exactly like a wrong signature. A hint without a delivery id is never a repeat. What
is authentic but unreadable is published as it is and ends as a dead letter. Whatever cannot be made durable now is
answered with 503, and they send it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import Counter, Histogram
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from connectors import bodies, strict_json, webhook
from connectors.contract import Adapter
from schemas.events import InboundEvent
from schemas.problems import Problem
from streams.inbound.publish import Publisher, Sender, brought, event_of, hint_of, is_hint, unreadable
from streams.store import queries

Conn = AsyncConnection[Any]
SecretsOf = Callable[[Conn, Sender], Awaitable[Sequence[str]]]
"""(database connection, whose) -> the live secrets of its webhooks, newest first."""

CAP_BYTES = 2**20
LARGE_BYTES = 2**15
"""A larger one is read on a thread, of which few run at a time: each takes the interpreter from all others."""
LARGE_AT_ONCE = 2
READ_S = 10.0
"""How long a body may take to arrive."""
AT_ONCE = 256
"""Webhooks in hand at the same time; more are asked to come back."""
LONGEST_DELIVERY_ID = 200
SECRETS_KEPT_S = 5.0
SECRETS_KEPT = 1000
NOBODYS_SECRET = "whsec_c3luY2xpbmUgaGFzIG5vIHN1Y2ggd2ViaG9vaw=="  # noqa: S105 - protects nothing

WEBHOOKS = Counter("syncline_webhooks", "Webhooks by how they were answered", ["outcome"])
SECONDS = Histogram(
    "syncline_webhook_seconds",
    "Time to answer a webhook",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5),
)

_SQL = queries("webhooks")
_log = structlog.get_logger("gateway.webhooks")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One sending of a webhook, under their name of it or else the hash of its body."""

    id: str
    named: bool

    def at(self, now: datetime) -> Delivery:
        """One of hints, where the same bytes say that a record changed again; in one instant they may be one."""
        return replace(self, id=hashlib.sha256(f"{self.id}\0{now.isoformat()}".encode()).hexdigest())


@dataclass(slots=True)
class Ingress:
    """What the route works with, in `app.state.ingress`.

    Args:
        pool: of the role `app`, in autocommit.
        adapter: system name -> adapter; Problem when there is none.
        monotonic: of the cache of secrets, and of what is measured.
    """

    pool: AsyncConnectionPool
    publisher: Publisher
    adapter: Callable[[str], Adapter]
    secrets_of: SecretsOf
    now: Callable[[], datetime]
    monotonic: Callable[[], float] = time.monotonic
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    threads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LARGE_AT_ONCE))
    _secrets: dict[Sender, tuple[float, Sequence[str]]] = field(default_factory=dict, repr=False)

    async def take(self, token: str, headers: Sequence[tuple[str, str]], body: bytes) -> int:
        """Make an authentic webhook durable; how many facts it held, 0 for one that came before.

        Raises:
            Problem: `webhook_refused`, `kafka_unavailable`, `registry_unreachable`.
            psycopg.OperationalError, psycopg_pool.PoolTimeout: the database is down.
        """
        now = self.now()
        async with self.pool.connection() as conn:
            # Nothing is believed before the signature is verified: a wrong guess costs one more question.
            guess = _usable(_one(headers, "webhook-id")) or hashlib.sha256(body).hexdigest()
            sender, known = await _endpoint(conn, token, guess)
            sender, delivery = await self._verify(conn, sender, headers, body, now)
            if delivery.id != guess:
                known = await _known(conn, sender, delivery.id)
        if known and delivery.named:
            return 0
        facts = await self._facts(sender, body, delivery.id, dict(headers), now)
        if not delivery.named and any(map(is_hint, facts)):
            delivery = delivery.at(now)
        elif known:
            return 0
        await self.publisher.publish([brought(fact, delivery.id) for fact in facts])
        async with self.pool.connection() as conn:
            await conn.execute(_SQL["delivered"], _key(sender, delivery.id) | {"now": now, "events": len(facts)})
        return len(facts)

    async def _verify(
        self, conn: Conn, sender: Sender | None, headers: Sequence[tuple[str, str]], body: bytes, now: datetime
    ) -> tuple[Sender, Delivery]:
        """Whose delivery it is. A stranger's webhook costs the same work and ends in the same refusal."""
        if sender is None:
            webhook.verify(webhook.STANDARD, headers, body, [NOBODYS_SECRET], now)
            raise Problem("webhook_refused", "the webhook's signature does not verify")
        manifest = self.adapter(sender.system).manifest
        secrets = await self._live(conn, sender)
        where = {"header": manifest.webhook_header, "id_header": manifest.webhook_id_header}
        told = webhook.verify(manifest.webhook_scheme, headers, body, secrets, now, **where)
        if manifest.webhook_scheme == webhook.STANDARD and (usable := _usable(told)):
            return sender, Delivery(usable, named=True)
        # An id that the signature does not cover counts with its body only: nobody can use up the id of another one.
        digest = hashlib.sha256((f"{told}\0".encode() if told else b"") + body).hexdigest()
        return sender, Delivery(digest, named=bool(told))

    async def _live(self, conn: Conn, sender: Sender) -> Sequence[str]:
        kept = self._secrets.get(sender)
        if kept is not None and kept[0] > self.monotonic():
            return kept[1]
        if len(self._secrets) >= SECRETS_KEPT:
            self._secrets.clear()
        secrets = await self.secrets_of(conn, sender)
        self._secrets[sender] = self.monotonic() + SECRETS_KEPT_S, secrets
        return secrets

    async def _facts(
        self, sender: Sender, body: bytes, delivery_id: str, headers: Mapping[str, str], now: datetime
    ) -> list[InboundEvent]:
        adapter, content_type = self.adapter(sender.system), headers.get("content-type", "")

        def read(content: bytes) -> list[InboundEvent]:
            if "json" in content_type or content.lstrip()[:1] in (b"{", b"["):
                strict_json.check(content)
            return [
                event_of(record, sender, source="webhook", received_at=now, delivery_id=delivery_id)
                for record in adapter.parse_webhook(content)
            ]

        try:
            content = await bodies.read(_whole(body), headers.get("content-encoding"), CAP_BYTES)
            facts = read(content) if len(content) < LARGE_BYTES else await self._on_thread(read, content)
        except Exception as error:  # noqa: BLE001 - whatever a parser stumbles over is kept for a person
            why = error.code if isinstance(error, Problem) else type(error).__name__
            _log.warning("webhook_unreadable", connection=sender.connection, error=why)
            told = f"{content_type[:100]}; encoding={headers.get('content-encoding', '')[:20]}; refused={why}"
            return [unreadable(body, sender, received_at=now, delivery_id=delivery_id, content_type=told)]
        if adapter.manifest.webhook_scheme == webhook.NONE:
            return [hint_of(fact) for fact in facts]
        return facts

    async def _on_thread(self, read: Callable[[bytes], list[InboundEvent]], content: bytes) -> list[InboundEvent]:
        """A large one must not keep the others waiting."""
        async with self.threads:
            return await asyncio.to_thread(read, content)


router = APIRouter()


@router.post("/hooks/{token}", status_code=202, include_in_schema=False)
async def receive(token: str, request: Request) -> Response:
    """Take a webhook."""
    ingress: Ingress = request.app.state.ingress
    began = ingress.monotonic()
    outcome = "failed"
    try:
        if ingress.room.locked():
            raise Problem("gateway_busy", "too many webhooks at once", "Send it again in a moment.")
        async with ingress.room:
            body = await _read(request)
            count = await ingress.take(token, request.headers.items(), body)
        outcome = "accepted" if count else "known"
        return Response(status_code=202)
    except Problem as problem:
        outcome = problem.code
        raise
    finally:
        WEBHOOKS.labels(outcome).inc()
        SECONDS.observe(ingress.monotonic() - began)


async def _read(request: Request) -> bytes:
    """The raw body, never more than the cap in memory."""
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdecimal() and (len(told) > 18 or int(told) > CAP_BYTES):
        raise Problem("body_too_large", f"a webhook has at most {CAP_BYTES} bytes")
    try:
        async with asyncio.timeout(READ_S):
            body = bytearray()
            async for piece in request.stream():
                body += piece
                if len(body) > CAP_BYTES:
                    raise Problem("body_too_large", f"a webhook has at most {CAP_BYTES} bytes")
            return bytes(body)
    except TimeoutError:
        raise Problem("body_too_slow", f"the body did not arrive within {READ_S:.0f} s") from None


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    if body:
        yield body


async def _endpoint(conn: Conn, token: str, delivery_id: str) -> tuple[Sender | None, bool]:
    """Whose webhooks these are, and whether they sent this delivery before."""
    digest = hashlib.sha256(token.encode(errors="replace")).digest()
    cursor = await conn.execute(_SQL["endpoint"], {"hash": digest, "id": delivery_id})
    row = await cursor.fetchone()
    return (Sender(*row[:3]), row[3]) if row else (None, False)


def _one(headers: Sequence[tuple[str, str]], name: str) -> str | None:
    return next((value for each, value in headers if each.lower() == name), None)


def _usable(told: str | None) -> str | None:
    """A delivery's id if it can be a key."""
    return told if told and len(told) <= LONGEST_DELIVERY_ID and "\x00" not in told else None


async def _known(conn: Conn, sender: Sender, delivery_id: str) -> bool:
    return await (await conn.execute(_SQL["known"], _key(sender, delivery_id))).fetchone() is not None


def _key(sender: Sender, delivery_id: str) -> dict[str, Any]:
    return {"org": sender.org_id, "connection": sender.connection, "id": delivery_id}
