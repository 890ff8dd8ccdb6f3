"""What the REST API takes and gives about pushes, lanes, holds and dead letters."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from streams.gateway.shapes import Input

State = Literal["PENDING", "HELD", "WAITING", "SENDING", "RETRY", "UNKNOWN", "DONE", "PARKED", "DEAD"]
Id = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Name = Annotated[str, StringConstraints(max_length=63)]


class IntentOut(BaseModel):
    """The wish that a connection hold the current state of a record."""

    connection: str
    external_type: str
    entity_type: str
    entity_id: str
    state: State
    reason: str = Field(description="Why it is wanted: change, push_all, selected, resync, redrive …")
    priority: int = Field(description="0: live; 1: behind all that is live.")
    attempt: int
    not_before: datetime | None = Field(description="When it is tried next.")
    behind: int = Field(description="Plans that are not fulfilled yet.")
    op: str | None
    error_code: str | None
    error_cause: str | None
    hold_id: int | None = Field(description="The mass change it belongs to.")
    resolve: str | None = Field(description="UNKNOWN: how it is found out what they did.")
    waits_for: list[str] = Field(description="WAITING: the entities that must be linked first.")
    committed_at: datetime | None
    planned_at: datetime | None


class PushIn(Input):
    """A selective push."""

    ids: list[Id] = Field(min_length=1, max_length=1000, description="Ids of ours; a part goes with its root.")
    connection: Name | None = Field(None, description="May be left out where only one connection takes them.")
    link: str | None = Field(
        None, min_length=1, max_length=1000, description="Their id of the one entity given: linked, then pushed."
    )


class PushedOut(BaseModel):
    """One root that was pushed; PARKED ones wait for a decision as before."""

    entity_id: str
    connection: str
    state: State


class ParkedIn(Input):
    """Where, for a record that is parked at more than one connection."""

    connection: Name | None = None


class ParkedOut(BaseModel):
    """What was decided, and where."""

    entity_id: str
    connection: str


class BudgetOut(BaseModel):
    """One limit of a connection's calls, and what is used of it now."""

    source: Literal["learned", "chosen"] | None
    limit: int | None
    period: float | None = Field(description="Seconds.")
    used: int | None
    remaining: int | None
    blocked_until: datetime | None


class BreakerOut(BaseModel):
    """A worker that gets no answers, and calls less for it."""

    slot: int
    failures: int
    opened_at: datetime
    code: str
    cause: str


class LaneOut(BaseModel):
    """How the calls of one connection go."""

    name: str
    system: str
    state: str
    state_reason: str | None
    concurrency: int | None
    budget: dict[str, float] = Field(description="As a person set it.")
    in_flight: int
    queued: int
    held: int
    waiting: int
    parked: int
    oldest_s: float | None = Field(description="Age of the oldest change that is ready and not there yet.")
    budgets: list[BudgetOut]
    breakers: list[BreakerOut]


Kind = Literal["deletes", "updates", "their_deletes"]


class HoldOut(BaseModel):
    """A mass change that waits for approval, or did."""

    id: int
    connection: str
    entity_type: str
    kind: Kind
    state: Literal["open", "approved", "dropped"]
    records: int = Field(description="Still held.")
    bound: int = Field(description="What ten minutes may hold.")
    opened_at: datetime
    closed_at: datetime | None
    closed_by: str | None


class DecidedOut(BaseModel):
    """What a decision about a mass change came to."""

    connection: str
    entity_type: str
    kind: Kind
    records: int


class RedriveIn(Input):
    """Which open dead letters; at least one of the three must be named."""

    connection: Name | None = None
    code: str | None = Field(None, max_length=200)
    source: str | None = Field(None, max_length=200, description="push, inbound.events, cdc.canon.person …")
    dry_run: bool = Field(default=False, description="Only count them.")


class RedrivenOut(BaseModel):
    """What redriving came to."""

    matched: dict[str, int] = Field(description="Source -> how many there were.")
    redriven: int
    left: dict[str, int] = Field(description="Why some stay -> how many.")
