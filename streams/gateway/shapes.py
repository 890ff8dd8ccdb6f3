"""What the REST API takes and gives. Input models refuse unknown fields; only `WebhookOut` holds secrets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from streams.choices import Choices
from streams.store.connections import Connection


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, hide_input_in_errors=True)


class ConnectIn(_Input):
    """A new connection: the `externalSync` document and how it shall behave."""

    name: str = Field(description="Name within the organisation.", examples=["clinic"])
    external_sync: dict[str, Any] = Field(
        alias="externalSync",
        examples=[
            {
                "type": "mock-sync-server",
                "url": "http://localhost:3000/mock-sync",
                "extraFields": [{"name": "batchSize", "value": "25"}],
            }
        ],
    )
    option: Literal[1, 2, 3] = Field(1, description="1: both sides count; 2: we are the source of truth; 3: they are.")
    mode: Literal["realtime", "scheduled", "both"] = "both"
    delete_policy: Literal["ignore", "archive", "delete"] = "ignore"
    conflict_policy: Literal["lww", "lww_record", "local", "remote", "manual"] = "lww"
    retry_policy: Literal["durable", "seed"] = "durable"
    poll_interval_s: float | None = Field(None, ge=1, le=31_536_000, allow_inf_nan=False)
    allow_http: bool = False
    entity_types: list[str] = Field(default=[], max_length=100, description="Root entity types in scope; empty: all.")
    update: bool = Field(default=False, description="Change a connection that exists.")

    def choices(self) -> Choices:
        """The part that says how it behaves."""
        return Choices(
            option=self.option,
            mode=self.mode,
            delete_policy=self.delete_policy,
            conflict_policy=self.conflict_policy,
            retry_policy=self.retry_policy,
            poll_interval_s=self.poll_interval_s,
            allow_http=self.allow_http,
            entity_types=self.entity_types,
        )


class PauseIn(_Input):
    """Why a connection is paused."""

    reason: str = Field("paused by a person", min_length=1, max_length=200)


class ConnectionOut(BaseModel):
    """A connection without its secrets."""

    name: str
    system: str
    url: str
    auth: str | None
    settings: dict[str, Any]
    state: str
    state_reason: str | None
    option: int
    mode: str
    delete_policy: str
    conflict_policy: str
    retry_policy: str
    poll_interval_s: float
    allow_http: bool
    gates: dict[str, str]
    epoch: int
    created_at: datetime

    @classmethod
    def of(cls, row: Connection) -> ConnectionOut:
        """What may be shown of a row."""
        return cls.model_validate({name: getattr(row, name) for name in cls.model_fields})


class WebhookOut(BaseModel):
    """Where they send their webhooks and how they sign them; given once, when the connection is made."""

    url: str
    secret: str


class ConnectedOut(BaseModel):
    """A connection that was just made."""

    connection: ConnectionOut
    webhook: WebhookOut
    waiting: dict[str, int] = Field(description="Entity type -> rows that nothing has pushed yet.")
    unread: list[str] = Field(description="Settings that the adapter does not read.")


class PlannedOut(BaseModel):
    """How many pushes were planned."""

    planned: int


class StatusOut(BaseModel):
    """How everything stands."""

    org: str
    components: dict[str, str | None]
    workers: int
    connections: list[dict[str, Any]]
    dead_letters: int | None
    lag: dict[str, dict[str, int]]
    unreachable: dict[str, str]


class WhyOut(BaseModel):
    """Why one entity did or did not sync; `connections` have a plain `sentence` each."""

    asked: str
    entity: dict[str, Any] | None
    root: str
    connections: list[dict[str, Any]]


class DeadLetterOut(BaseModel):
    """Something that could not be processed as it is, without its content."""

    id: int
    connection: str | None
    source: str
    record_key: str | None
    position: str | None
    code: str
    cause: str
    state: str
    created_at: datetime
    closed_at: datetime | None
    bytes: int | None


class ProblemOut(BaseModel):
    """An error (RFC 9457): `code` is stable, `detail` the cause, `next_step` what to do."""

    title: str
    status: int
    detail: str
    code: str
    next_step: str


def described(rows: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Error answers for OpenAPI: status -> description."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
    return {status: {"description": text, "content": content} for status, text in rows.items()}
