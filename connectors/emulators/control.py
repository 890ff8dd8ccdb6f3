"""The control API of all emulators, `/_emulator/…`: the oracle of tests and benchmarks. Pure but for the emulator."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import unquote

import orjson

from connectors.emulators.clock import Clock
from connectors.emulators.faults import Faults
from connectors.emulators.journal import Journal
from connectors.emulators.outbox import Outbox, Subscriber
from connectors.emulators.world import Call, Reply, System, reply
from schemas.problems import Problem

PREFIX = "/_emulator"


class Emulator(Protocol):
    """The parts of a running emulator that can be read and turned; `connectors.emulators.app` has it."""

    clock: Clock
    faults: Faults
    journal: Journal
    outbox: Outbox
    system: System

    def reset(self) -> None:
        """As after the start, without faults."""


def handle(emulator: Emulator, call: Call) -> Reply:
    """Answer one call of the control API; what is wrong with it is a 400 or 404 with `{"error"}`."""
    parts = [unquote(part) for part in call.path.removeprefix(PREFIX).strip("/").split("/")]
    try:
        content = orjson.loads(call.body) if call.body else None
        if parts[0] == "records":
            return _records(emulator, call.method, parts[1:], content)
        if call.method == "GET":
            return _read(emulator, parts[0], call)
        if call.method == "POST":
            return _write(emulator, parts[0], content)
    except orjson.JSONDecodeError:
        return reply(400, {"error": "the body is no JSON"})
    except (Problem, ValueError, TypeError, AttributeError) as failure:
        return reply(400, {"error": str(failure)})
    return _not_found(call.path)


def _read(emulator: Emulator, name: str, call: Call) -> Reply:
    match name:
        case "state":
            state = {
                "records": emulator.system.records(),
                "deleted": {kind: sorted(ids) for kind, ids in emulator.system.deleted().items()},
                "clock": emulator.clock.now().isoformat(timespec="milliseconds"),
            }
            return reply(200, state)
        case "counts":
            return reply(200, {**emulator.journal.counts(), "webhooks": emulator.outbox.counts()})
        case "webhooks":
            return reply(
                200, emulator.outbox.taken(int(call.query.get("after", 0)), int(call.query.get("limit", 10_000)))
            )
        case "calls":
            limit = int(call.query["limit"]) if "limit" in call.query else None
            return reply(200, emulator.journal.calls(int(call.query.get("after", 0)), limit))
        case _:
            return _not_found(call.path)


def _write(emulator: Emulator, name: str, content: Any) -> Reply:
    match name:
        case "faults":
            emulator.faults.set(content or [])
        case "webhooks":
            if content and content.get("url"):
                secret = content.get("secret") or emulator.system.webhook_secret()
                emulator.outbox.subscribe(Subscriber(content["url"], content["url"], secret))
            else:
                emulator.outbox.unsubscribe_all()
        case "clock":
            _set_clock(emulator, {} if content is None else content)
            return reply(200, {"clock": emulator.clock.now().isoformat(timespec="milliseconds")})
        case "reset":
            emulator.reset()
        case _:
            told = emulator.system.control(name, content)
            return _not_found(name) if told is None else reply(200, told)
    return reply(200, {"status": "ok"})


def _set_clock(emulator: Emulator, content: Any) -> None:
    if not isinstance(content, dict):
        raise TypeError("the body must be an object")
    if "now" in content:
        now = datetime.fromisoformat(content["now"])
        emulator.clock.set(now.replace(tzinfo=UTC) if now.tzinfo is None else now.astimezone(UTC))
    elif "skew_s" in content:
        emulator.clock.skew(float(content["skew_s"]))
    else:
        emulator.clock.skew(0)


def _records(emulator: Emulator, method: str, parts: list[str], content: Any) -> Reply:
    if not parts or not parts[0] or len(parts) > 2:
        return _not_found("records")
    kind, record_id = parts[0], parts[1] if len(parts) == 2 else None
    system = emulator.system
    try:
        if method == "PUT" and isinstance(content, list) and record_id is None:
            return reply(200, [system.put(kind, fields.pop("id", None), fields) for fields in content])
        if method == "PUT" and isinstance(content, dict):
            return reply(200, system.put(kind, record_id, content))
        if method == "DELETE" and record_id is not None:
            return reply(200, {"status": "ok"}) if system.remove(kind, record_id) else _not_found(record_id)
        if method == "GET":
            records = system.records()[kind]
            return reply(200, records if record_id is None else records[record_id])
    except KeyError as missing:
        return _not_found(str(missing.args[0]))
    return reply(
        400, {"error": "PUT an object (or a list of them, each with its `id` or new), DELETE with an id, or GET"}
    )


def _not_found(what: str) -> Reply:
    return reply(404, {"error": f"there is no {what}"})
