"""The ASGI application around an emulated system: arrival time, latency, faults, the log of calls."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl

from connectors.emulators import control, faults
from connectors.emulators.clock import Clock
from connectors.emulators.faults import Fault, Faults
from connectors.emulators.journal import KEPT_CALLS, Journal
from connectors.emulators.outbox import Outbox
from connectors.emulators.world import Call, Reply, System, World, reply

TRANSPORT = "syncline.transport"
"""Key of the scope under which the server hands over the connection, for faults that cut it."""
BODY_CAP_BYTES = 16 << 20
SLOW_MS = 1000
RETRY_AFTER_S = 1

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger(__name__)


class Emulator:
    """One running emulator.

    Args:
        system: the class of the emulated system.
        webhook_scheme: how it signs, a name in `connectors.webhook`.
        seed_records: records it holds from the start.
        latency_ms: of every call of its API.
        rules: fault rules in force from the start; a reset ends them.
        seed: of its dice.
    """

    def __init__(
        self,
        system: type[System],
        webhook_scheme: str,
        *,
        seed_records: int = 0,
        latency_ms: float = 0,
        rules: Iterable[Mapping[str, Any]] = (),
        seed: int = 0,
        kept_calls: int = KEPT_CALLS,
        real: Callable[[], float] = time.time,
    ) -> None:
        self._kind, self._seed_records, self._seed = system, seed_records, seed
        self._latency_s = latency_ms / 1000
        self._dice = random.Random(seed)  # noqa: S311 - dice of tests, not secrets
        self._real = real
        self.clock = Clock(real)
        self.faults = Faults(system.own_faults, self._dice)
        self.journal = Journal(kept_calls)
        self.outbox = Outbox(webhook_scheme, self.faults, real)
        self.world = World(self.clock, self.faults, self.journal, self._dice, self.outbox)
        self.system = self._fresh_system()
        self.faults.set(rules)

    def reset(self) -> None:
        """As after the start, without faults."""
        self._dice.seed(self._seed)
        self.faults.set([])
        self.clock.reset()
        self.outbox.reset()
        self.system = self._fresh_system()
        self.journal.reset()

    async def close(self) -> None:
        """Stop sending webhooks."""
        await self.outbox.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        at = self._real()
        body = await _read(receive)
        if body is None:
            await self._send(send, reply(413, {"error": "the body is too large"}))
            return
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        call = Call(scope["method"], scope["path"], query, headers, body)
        if call.path.startswith(control.PREFIX):
            await self._send(send, control.handle(self, call))
            return
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        await self._answer(call, at, scope, receive, send)

    async def _answer(self, call: Call, at: float, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self.faults.draw(faults.BEFORE | faults.AFTER, call.path, call.method, call.body)
        if fault is not None and fault.kind == "half-open":
            self.journal.log(at, call.method, call.path, 0, None, (), call.body)
            await receive()  # until the caller has had enough
            return
        if fault is not None and fault.kind == "slow":
            await asyncio.sleep(fault.options.get("delay_ms", SLOW_MS) / 1000)
        answer = (_instead(fault) if fault else None) or self._handled(call)
        if fault is not None and fault.kind == "5xx-after":
            answer = replace(answer, status=500, body=b'{"error":"internal error"}')
        cut = fault.kind if fault is not None and fault.kind in ("drop-after", "truncate") else ""
        logged = 0 if cut == "drop-after" else answer.status
        self.journal.log(at, call.method, call.path, logged, answer.type, answer.keys, call.body)
        if not cut:
            await self._send(send, answer)
            return
        if cut == "truncate":
            await self._send(send, answer, keep=len(answer.body) // 2)
            scope[TRANSPORT].close()
        else:
            scope[TRANSPORT].abort()
        # The server learns of the end in the next turns of the loop; before that it would answer 500 for us.
        for _ in range(3):
            await asyncio.sleep(0)

    def _handled(self, call: Call) -> Reply:
        try:
            return self.system.handle(call)
        except Exception:
            log.exception("the emulator failed at %s %s", call.method, call.path)
            return reply(500, {"error": "the emulator has a bug; its log tells more"})

    async def _send(self, send: Send, answer: Reply, keep: int | None = None) -> None:
        headers = {
            **answer.headers,
            "content-length": str(len(answer.body)),
            "date": _http_date(int(self.clock.now().timestamp())),
        }
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        body = answer.body if keep is None else answer.body[:keep]
        await send({"type": "http.response.body", "body": body, "more_body": keep is not None})

    def _fresh_system(self) -> System:
        system = self._kind(self.world)
        system.seed(self._seed_records)
        return system


def _instead(fault: Fault) -> Reply | None:
    """The answer of a fault that strikes before the system sees the call."""
    match fault.kind:
        case "429":
            wait = str(fault.options.get("retry_after", RETRY_AFTER_S))
            body = b'{"error":"too many requests"}'
            return Reply(429, body, {"content-type": "application/json", "retry-after": wait})
        case "5xx-before":
            return reply(500, {"error": "internal error"})
        case "expire-token":
            return reply(401, {"error": "the token has expired"})
        case "html":
            body = b"<!doctype html><title>Sign in</title><h1>Sign in</h1>"
            return Reply(200, body, {"content-type": "text/html; charset=utf-8"})
        case _:
            return None


@functools.lru_cache(maxsize=16)
def _http_date(seconds: int) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


async def _read(receive: Receive) -> bytes | None:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > BODY_CAP_BYTES:
            return None
    return body
