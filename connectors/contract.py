"""The ports between the pipeline and the outside world. An adapter is data plus these few functions.

Adapters are stateless: they see no Kafka, no Postgres, no clock of their own. One folder in `connectors/systems` is one
adapter; its `__init__` holds `ADAPTER`.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

import httpx
from pydantic import BaseModel

from connectors import webhook
from connectors.errors import ConnectorError
from schemas.fields import Aggregate, Json
from schemas.problems import Problem


class CreateTier(enum.Enum):
    """How a create whose answer was lost is made good (rule R8)."""

    KEYED = "keyed"
    """They honour an idempotency key: send the same bytes again."""
    CLIENT_ID = "client_id"
    """We choose the id: a repeat meets the same record."""
    SEARCH = "search"
    """We can search for our marker before creating again."""
    NONE = "none"
    """Nobody can tell: a person decides."""


class Op(enum.StrEnum):
    """What a write wants, or what an event says happened."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    MERGE = "merge"
    """Told only: the record is part of another now, whose id is in the payload under MERGED_INTO."""


MERGED_INTO = "into"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the pipeline must know about a kind of system, as data."""

    name: str
    title: str
    aggregates: tuple[Aggregate, ...]
    create_tier: CreateTier
    batch_limit: int = 100
    """Most writes in one call."""
    key_ttl: timedelta = timedelta(hours=24)
    """KEYED: how long they remember an idempotency key."""
    read_lag: timedelta = timedelta()
    """SEARCH: how long a record that they have just made may be missing from a search."""
    concurrency: int = 5
    """Most calls at once in one lane."""
    clock_precision: timedelta = timedelta(milliseconds=1)
    """Granularity of their timestamps as they show them."""
    poll_overlap: timedelta = timedelta(minutes=5)
    """How far a poll reaches back behind its checkpoint, for rows that became visible late; twice the measured error of
    their clock where that is more. Only a system that shows every row from its own timestamp on may have less."""
    polls_in_order: bool = False
    """Pages come by ascending time: a poll may end at what happened after it began, and leave that to the next."""
    writes_whole_record: bool = False
    """A write replaces their whole record: what it does not name is erased there. Else a write changes the top-level
    keys that it names."""
    webhook_scheme: str = webhook.NONE
    """Signature scheme of their webhooks, a name in `connectors.webhook`; `none` makes them hints only."""
    webhook_header: str = webhook.SIGNATURE_HEADER
    """Header of the signature or token; Standard Webhooks has its own."""
    webhook_id_header: str = ""
    """Header of the delivery's id, empty when they send none; Standard Webhooks has its own."""
    subscribes: bool = False
    """Their API makes webhook subscriptions: the client is a `Subscriber`, too."""
    aliases: tuple[str, ...] = ()

    def aggregate(self, external_type: str) -> Aggregate:
        """The aggregate of one external type; KeyError when the system has none."""
        return {a.external_type: a for a in self.aggregates}[external_type]

    def for_root(self, entity_type: str) -> Aggregate | None:
        """The aggregate whose root is `entity_type`, or None when this system does not take it."""
        return next((a for a in self.aggregates if a.root == entity_type), None)


@dataclass(frozen=True, slots=True)
class Write:
    """One record as it shall be over there.

    Args:
        external_id: their id; for a create the id we choose (CLIENT_ID) or None.
        payload: the whole record, mapped.
        changed: the top-level payload keys that differ from what they hold; empty for creates.
        key: idempotency key, the same for every try of this write.
        at: when the change happened here (the row's `modified_at`).
        version: their version that `changed` was compared with, for a conditional write; None when unknown.
    """

    op: Op
    external_type: str
    entity_id: str
    external_id: str | None
    payload: Mapping[str, Json]
    changed: frozenset[str]
    key: str
    at: datetime
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """They have it. Version and time are theirs, where the answer tells them."""

    external_id: str
    status: int
    external_version: str | None = None
    external_updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """They do not (or may not) have it; the error's class names the recovery."""

    error: ConnectorError


@dataclass(frozen=True, slots=True)
class Accepted:
    """They will do it (202); `Client.check` asks later with this token, at the earliest after `retry_after` seconds."""

    token: str
    status: int
    retry_after: float | None = None


Outcome = Delivered | Accepted | Failed


@dataclass(frozen=True, slots=True)
class ExternalRecord:
    """One fact about one of their records, from a webhook or a poll.

    Args:
        op: UPDATE stands for create as well; they seldom tell them apart.
        occurred_at: their time of the fact (aware, UTC).
        external_version: their version or ETag, or None.
        payload: the record as JSON, empty for a delete that carries none.
        complete: False when it is a hint or holds part of the record only.
    """

    external_type: str
    external_id: str
    op: Op
    occurred_at: datetime
    payload: Mapping[str, Json] = field(default_factory=dict)
    external_version: str | None = None
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """Some records of one type and how far the reading got: the newest time seen, None for an empty page.

    Args:
        unreadable: items that are no record, each as its JSON bytes and the reason, for the dead letters. They do not
            stop the page and do not move `through`; a later poll may show them again.
        date: their clock when they answered; None where they do not tell.
    """

    records: Sequence[ExternalRecord]
    through: datetime | None
    unreadable: Sequence[tuple[bytes, Problem]] = ()
    date: datetime | None = None


class Client(Protocol):
    """A system as one connection sees it. Made by `Adapter.open`, closed with its HTTP client."""

    batch_size: int
    """Most writes this connection wants in one call."""

    def build(self, write: Write) -> bytes:
        """The frozen bytes of one write; pure. The same write gives the same bytes."""

    async def send(self, bodies: Sequence[bytes]) -> Sequence[Outcome]:
        """Send frozen writes in one call, in order; one outcome each. Never raises ConnectorError."""

    async def find(self, body: bytes) -> ExternalRecord | None:
        """SEARCH: the record that these bytes of a create have made, found by our marker. Raises ConnectorError."""

    async def check(self, token: str) -> Outcome:
        """What became of a write that was Accepted. Never raises ConnectorError."""

    async def fetch(self, external_type: str, external_id: str) -> ExternalRecord | None:
        """One record in full, None when they have none of this id. Raises ConnectorError."""

    def pages(self, external_type: str, since: datetime | None) -> AsyncIterator[Page]:
        """All records of a type changed after `since` (None: all). Raises ConnectorError."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A webhook subscription as they hold it.

    Args:
        types: external types it is about; empty for all.
        active: False when they have stopped sending, for example because we did not answer for long.
    """

    id: str
    url: str
    types: frozenset[str] = frozenset()
    active: bool = True


class Subscriber(Protocol):
    """What a client can do beside, where the manifest says `subscribes`. All raise ConnectorError."""

    async def subscriptions(self) -> Sequence[Subscription]:
        """Those this credential may see, others' too."""

    async def subscribe(self, url: str, secret: str, types: Collection[str]) -> Subscription:
        """Have changes of these types sent to `url`, signed with `secret`. Each call makes another one."""

    async def unsubscribe(self, subscription_id: str) -> None:
        """End one; one that is gone already is fine."""


class Adapter(Protocol):
    """One kind of external system."""

    manifest: Manifest
    settings: type[BaseModel]

    def open(self, settings: Any, http: httpx.AsyncClient) -> Client:
        """The client of one connection. `settings` is an instance of `self.settings`."""

    def parse_webhook(self, body: bytes) -> Sequence[ExternalRecord]:
        """The facts in an authentic webhook; pure. Raises Rejected when it cannot be read."""
