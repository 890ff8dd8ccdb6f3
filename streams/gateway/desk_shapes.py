"""What the REST API takes and gives about conflicts, values that lost, and review items. Values are personal data."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from streams.conflict_desk import Answer, Choice
from streams.gateway.shapes import Input

Name = Annotated[str, StringConstraints(max_length=63)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Note = Annotated[str, StringConstraints(max_length=1000)]
Side = Literal["ours", "theirs"]


class OpenOut(BaseModel):
    """A record that is asked about at one connection."""

    id: int = Field(description="Key of the page: `after` for the next one.")
    connection: str
    entity_type: str
    entity_id: str
    name: str = Field(description="What people call the record.")
    fields: list[str]
    opened_at: datetime
    age_s: float
    due_at: datetime = Field(description="By when it should be decided; the connection's `review_within_s` says so.")
    overdue: bool
    owner: str | None = Field(description="Who sees to it.")


class CountOut(BaseModel):
    """Open questions about one field, or one kind of part, at one connection."""

    connection: str
    entity_type: str
    field: str
    count: int
    oldest_s: float


class AskedOut(BaseModel):
    """One field or part on which both sides differ; a part is an object, null where it was removed."""

    id: int
    field: str
    rule: str | None = Field(description="Why a person is asked: protected, manual …")
    base: Any = Field(description="What both held last.")
    ours: Any = Field(description="As it is here now.")
    theirs: Any
    ours_then: Any = Field(description="As it was here when it was asked.")
    ours_by: str | None = Field(description="local, or the connection that wrote the row.")
    ours_at: datetime | None
    theirs_at: datetime | None
    source: str | None = Field(description="How we heard of theirs.")
    event_id: str
    opened_at: datetime


class CaseOut(BaseModel):
    """All open questions about one record at one connection."""

    connection: str
    system: str
    entity_type: str
    entity_id: str
    name: str
    deleted: bool = Field(description="The record was deleted here meanwhile.")
    seen: str = Field(description="Send it back with the decision: it proves what was looked at.")
    fields: list[AskedOut]


class ChoiceIn(Input):
    """What becomes of one field: a side, or a value."""

    take: Side | None = None
    value: Any = Field(None, description="Instead of both; null empties the field or removes the part.")


class ResolveIn(Input):
    """A decision about one record at one connection."""

    seen: str = Field(max_length=64, description="`seen` of the conflict that was looked at.")
    connection: Name | None = Field(None, description="May be left out where only one asks.")
    take: Side | None = Field(None, description="For every field that `choices` does not name.")
    choices: dict[Key, ChoiceIn] = Field(default={}, max_length=500, description="Field -> what becomes of it.")
    note: Note | None = None

    def answer(self) -> Answer | None:
        """As the service takes it; None where a choice is neither a side nor a value, or both."""
        made = {}
        for name, each in self.choices.items():
            valued = "value" in each.model_fields_set
            if valued is (each.take is not None):
                return None
            made[name] = Choice(each.take or "value", each.value)
        return Answer(self.seen, made, self.take, self.connection, self.note)


class ResolvedOut(BaseModel):
    """What was decided, and what stays open."""

    entity_id: str
    connection: str
    resolved: dict[str, Literal["ours", "theirs", "value"]]
    left: list[str]


class LostOut(BaseModel):
    """A value that lost, with the one that won."""

    id: int
    connection: str
    entity_type: str
    entity_id: str
    field: str
    base: Any
    ours: Any
    theirs: Any
    winner: Literal["ours", "theirs", "neither"]
    rule: str
    ours_at: datetime | None
    theirs_at: datetime | None
    event_id: str
    decided_at: datetime
    decided_by: str | None
    restored_at: datetime | None
    restored_by: str | None


class RestoreIn(Input):
    """Whose value is to come back, where a third one won over both."""

    side: Side | None = None


class RestoredOut(BaseModel):
    """A value that was written back."""

    id: int
    entity_id: str
    connection: str
    field: str
    changed: bool = Field(description="False: it was there again already.")


class ReviewOut(BaseModel):
    """Something a person is asked to look at, without their record."""

    id: int
    connection: str
    kind: str = Field(description="constraint, unlinked, or one of matching.")
    entity_type: str
    subject: str = Field(description="Our id of the record, or theirs.")
    detail: dict[str, Any] = Field(description="constraint: the rule that refused it, and the event.")
    can_retry: bool
    created_at: datetime
    due_at: datetime = Field(description="By when somebody should have seen to it.")
    overdue: bool
    owner: str | None = Field(description="Who sees to it.")
    decision: Literal["link", "new"] | None = Field(description="Of a match: one of ours, or somebody new.")
    entity_id: str | None = Field(description="The one of ours that it is, as a person decided.")
    decided_at: datetime | None
    decided_by: str | None
    closed_at: datetime | None
    closed_by: str | None
    note: str | None


class DecideIn(Input):
    """Who a record is: `link` with an id of ours, or `new`."""

    link: Key | None = Field(None, description="Our id of the record that it is.")
    new: bool = Field(default=False, description="It is none of ours: make one.")
    note: Note | None = None


class AssignIn(Input):
    """Who sees to it: a person or a team; null: nobody."""

    to: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None
    connection: Name | None = Field(None, description="Of a conflict: only what this one asks.")


class CloseIn(Input):
    """Why an item is closed."""

    note: Note | None = None
