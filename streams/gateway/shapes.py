"""What the REST API takes and gives. Input models refuse unknown fields; only `WebhookOut` holds secrets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from streams.choices import Choices
from streams.store.connections import Connection


class Input(BaseModel):
    """What is sent to us: unknown fields are refused, and errors do not quote what was sent."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, hide_input_in_errors=True)


class ConditionIn(Input):
    """A condition on a row; all of a type's must hold. An empty field fulfils `is_null` alone."""

    field: str = Field(max_length=63)
    op: Literal["eq", "ne", "in", "not_in", "is_null", "not_null", "lt", "le", "gt", "ge", "starts_with"]
    value: str | int | float | bool | list[str | int | float | bool] | None = None


class FieldsIn(Input):
    """Which fields and parts are sent: those named, or all but those named. Empty: all."""

    include: list[str] | None = Field(None, max_length=200)
    exclude: list[str] | None = Field(None, max_length=200)


class BudgetIn(Input):
    """Most calls in so many seconds; both empty: what their answers tell."""

    calls: int | None = Field(None, ge=1, le=10**9)
    per_s: float | None = Field(None, gt=0, le=86_400, allow_inf_nan=False)


class PoliciesIn(Input):
    """Who wins conflicts of one type. Empty: as the connection's `conflict_policy` says."""

    policy: str | None = Field(None, max_length=100, examples=["lww"])
    fields: dict[str, Annotated[str, Field(max_length=200)]] | None = Field(
        None, max_length=200, description="Field or part type -> policy, or merge:RESOLVER."
    )
    resolver: str | None = Field(None, max_length=100, description="What merges where no other is named.")
    ties: Literal["ours", "theirs"] | None = Field(None, description="Who wins what was written at once.")


class _Limits(Input):
    """Choices that a new connection and a change have in common; what is not named stays or is by default."""

    allow_private: bool | None = Field(None, description="Allow addresses inside a private network.")
    http2: bool | None = None
    compress: bool | None = None
    filters: dict[str, list[ConditionIn]] | None = Field(
        None, max_length=100, description="Root entity type -> conditions on its rows."
    )
    on_leave: Literal["keep", "archive", "delete"] | None = Field(
        None, description="What becomes of their record when ours no longer fulfils the filter."
    )
    fields: dict[str, FieldsIn] | None = Field(None, max_length=100)
    concurrency: int | None = Field(None, ge=1, le=256, description="Calls at once.")
    guard: dict[Literal["deletes", "updates", "their_deletes"], Annotated[int, Field(ge=0, le=10**9)] | None] | None = (
        Field(None, description="Most of a type in 10 minutes; null: no bound.")
    )
    budget: BudgetIn | None = None
    review_within_s: float | None = Field(
        None, ge=1, le=31_536_000, allow_inf_nan=False, description="How long what it asks of a person may wait."
    )
    conflict_policies: dict[str, PoliciesIn] | None = Field(
        None, max_length=100, description="Root entity type -> who wins its conflicts."
    )
    poll_intervals: dict[str, Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)]] | None = Field(
        None, max_length=100, description="External type -> seconds between its polls; 0: as the connection's others."
    )
    full_read_every_s: float | None = Field(
        None, ge=0, le=31_536_000, allow_inf_nan=False, description="Between polls that read all there is; 0: never."
    )

    def limits(self) -> dict[str, Any]:
        """Those that are named, as plain values."""
        told = self.model_dump(include=set(_Limits.model_fields), exclude_none=True)
        if self.filters is not None:
            # a condition without a value is another one than a condition with the value null
            told["filters"] = {
                root: [each.model_dump(exclude_unset=True) for each in given] for root, given in self.filters.items()
            }
        if self.guard is not None:
            told["guard"] = dict(self.guard)
        return told


class ConnectIn(_Limits):
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
    conflict_policy: Literal["lww", "lww_record", "merge", "local", "remote", "manual"] = "lww"
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
            **self.limits(),
        )


class ChangeIn(_Limits):
    """Choices to change; filters, fields and gates are set by type, an empty value takes the type's away."""

    option: Literal[1, 2, 3] | None = None
    mode: Literal["realtime", "scheduled", "both"] | None = None
    delete_policy: Literal["ignore", "archive", "delete"] | None = None
    conflict_policy: Literal["lww", "lww_record", "merge", "local", "remote", "manual"] | None = None
    retry_policy: Literal["durable", "seed"] | None = None
    poll_interval_s: float | None = Field(None, ge=1, le=31_536_000, allow_inf_nan=False)
    allow_http: bool | None = None
    gates: dict[str, Literal["staging", "matched", "populated", "live", ""]] | None = Field(
        None, max_length=100, description="Root entity type -> how far it is; empty: out of scope."
    )

    def changes(self) -> dict[str, Any]:
        """What is named, as `Service.change` takes it."""
        own = self.model_dump(include=set(ChangeIn.model_fields) - set(_Limits.model_fields), exclude_none=True)
        return own | self.limits()


class PauseIn(Input):
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
    conflict_policies: dict[str, dict[str, Any]]
    retry_policy: str
    poll_interval_s: float
    poll_intervals: dict[str, float]
    full_read_every_s: float
    review_within_s: float
    filters: dict[str, list[dict[str, Any]]]
    on_leave: str
    fields: dict[str, dict[str, list[str]]]
    concurrency: int | None
    guard: dict[str, int | None]
    budget: dict[str, float]
    allow_http: bool
    allow_private: bool
    http2: bool
    compress: bool
    gates: dict[str, str]
    epoch: int
    created_at: datetime

    @classmethod
    def of(cls, row: Connection) -> ConnectionOut:
        """What may be shown of a row."""
        return cls.model_validate({name: getattr(row, name) for name in cls.model_fields})


class ChangedOut(BaseModel):
    """A connection that was just changed."""

    connection: ConnectionOut
    changed: list[str]
    released: int = Field(description="Pushes that waited for a gate and go on.")
    needs_resync: bool = Field(description="What they hold already follows only by a resync.")


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


class WaitingOut(BaseModel):
    """What waits for a person; null where the database does not answer."""

    open: int | None
    oldest_s: float | None
    overdue: int | None


class StatusOut(BaseModel):
    """How everything stands."""

    org: str
    components: dict[str, str | None]
    workers: int
    connections: list[dict[str, Any]]
    dead_letters: int | None
    conflicts: WaitingOut
    reviews: WaitingOut
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
