"""What an emulated system is, and what surrounds it."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import orjson

from connectors.emulators.clock import Clock
from connectors.emulators.faults import Fault, Faults
from connectors.emulators.journal import Journal
from connectors.emulators.outbox import Outbox
from schemas.fields import Json

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Call:
    """One request, whole. Header names are lower-case; of repeated query names the last counts."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, and what the log of calls says of it: the record type and the records' natural keys."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": JSON})
    type: str | None = None
    keys: Sequence[str] = ()


def reply(status: int, content: Json, *, kind: str | None = None, keys: Sequence[str] = ()) -> Reply:
    """A JSON answer."""
    return Reply(status, orjson.dumps(content), type=kind, keys=keys)


@dataclass(frozen=True, slots=True)
class World:
    """What an emulated system lives in.

    Args:
        dice: seeded, so that two runs are alike.
        outbox: sends webhooks; for systems whose API makes subscriptions.
    """

    clock: Clock
    faults: Faults
    journal: Journal
    dice: random.Random
    outbox: Outbox

    def announce(self, key: str, body: bytes) -> None:
        """Send a webhook, signed, to whoever subscribed; in order per key, TYPE/ID."""
        self.outbox.announce(key, body)

    def strikes(self, kind: str, call: Call) -> Fault | None:
        """Whether one of the system's own faults, or `stale-read`, strikes this call."""
        return self.faults.draw((kind,), call.path, call.method)


class System(Protocol):
    """One kind of external system as it answers. Nothing in it waits: a call is done when `handle` returns."""

    own_faults: ClassVar[Collection[str]]
    """Fault kinds beyond the general ones."""

    def __init__(self, world: World) -> None: ...

    def handle(self, call: Call) -> Reply:
        """Answer one request of the system's API."""

    def connection(self, url: str) -> dict[str, Json]:
        """The `externalSync` document of a connection to this system at `url`."""

    def webhook_secret(self) -> str:
        """A secret fit for the system's webhook scheme, the same each time."""

    def control(self, name: str, content: Any) -> Json:
        """What else the control API can set here, `POST /_emulator/NAME`; None for a name that is not known."""

    def records(self) -> Mapping[str, Mapping[str, Json]]:
        """Type -> id -> record, without the deleted ones."""

    def deleted(self) -> Mapping[str, Collection[str]]:
        """Type -> ids of deleted records."""

    def put(self, kind: str, record_id: str | None, fields: Mapping[str, Any]) -> Json:
        """Add or edit a record as the system's own user would, and give it. KeyError for an unknown type."""

    def remove(self, kind: str, record_id: str) -> bool:
        """Delete a record as the system's own user would; False when there is none. KeyError for an unknown type."""

    def seed(self, count: int) -> None:
        """Add so many records that were always there: no webhooks, not counted as creates."""
