"""The values of a conflict: the two sides, what they last agreed on, the connection's rules, and what is decided.

`streams.rules.conflicts.decide` takes the first four and gives the last. Documents are as in `schemas.fields`; that of
`Ours` is a view: ours as that system can represent it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from schemas.fields import Document, Json
from streams.rules.resolvers import BUILT_IN, DEFAULT, Resolver

_NO_TIME = timedelta(0)

Side = Literal["ours", "theirs"]
Winner = Literal["ours", "theirs", "neither"]


class Policy(enum.StrEnum):
    """Who wins a field that both sides changed."""

    LWW = "lww"
    """The later write, field by field."""
    LWW_RECORD = "lww_record"
    """The later write takes the whole record."""
    MERGE = "merge"
    """A resolver makes one value of the two."""
    LOCAL = "local"
    REMOTE = "remote"
    MANUAL = "manual"
    """A person decides."""


class Kind(enum.StrEnum):
    """What a decision comes to."""

    TAKE = "take"
    KEEP = "keep"
    MERGE = "merge"
    ASK = "ask"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Ours:
    """The entity as it is here.

    Args:
        document: what the system can represent of it.
        modified_at: time of the last real edit of the root.
        version: the row's version.
        edited_at: field or part key -> time of its last edit, removed parts too where known; the root's for the others.
        hidden: root fields with a value the system cannot represent, such as a reference to something it lacks.
        deleted: marked as deleted.
        deleted_there: that deletion came from this system.
        deleted_elsewhere: it came from another system.
    """

    document: Document
    modified_at: datetime
    version: int = 0
    edited_at: Mapping[str, datetime] = field(default_factory=dict)
    hidden: Document = field(default_factory=dict)
    deleted: bool = False
    deleted_there: bool = False
    deleted_elsewhere: bool = False

    @property
    def last_edit(self) -> datetime:
        """Time of the last real edit of the root or a part."""
        return max((self.modified_at, *self.edited_at.values()))


@dataclass(frozen=True, slots=True)
class Theirs:
    """The event.

    Args:
        document: their record; a missing key says nothing, a part that is None is one they removed.
        at: their time of it, which orders their events.
        written_at: the same, but never far in our future: a fast clock must not win for ever.
        version: their version, if they have one.
        received_at: when it reached us, which orders what nothing else orders.
        deleted: their record is gone.
    """

    document: Document
    at: datetime
    written_at: datetime
    version: str | None = None
    received_at: datetime | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Over:
    """One of our pushes, and the state it was sent over as far as we knew.

    Args:
        base: the document they held before, as far as we knew.
        version, at: of that state.
        pushed_version, pushed_at: of the push, as they told them.
        sure: False when all that is known is that a push of ours was on its way when they told of this newer state.
    """

    base: Document
    version: str | None
    at: datetime | None
    pushed_version: str | None
    pushed_at: datetime | None
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the link knows.

    Args:
        base: the document they hold, as far as we know; None when we never knew.
        version: their version of the newest state we know.
        at: their time of it.
        received_at: when we received that state, known only where `at` equals the event's.
        pushed_at: our time when the last confirmed push was sent, where their answer told no time of it, so that `at`
            does not cover it.
        in_flight: the document of a push that is on its way, or {}.
        over: our last pushes, oldest first.
    """

    base: Document | None = None
    version: str | None = None
    at: datetime | None = None
    received_at: datetime | None = None
    pushed_at: datetime | None = None
    in_flight: Document = field(default_factory=dict)
    over: tuple[Over, ...] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """The connection's rules for one entity type.

    Args:
        policy: of the record, and of every field that `fields` does not name.
        protected: root fields and part types whose conflicts always go to a person.
        tolerance: times no further apart count as equal.
        clock_error: how far ahead of ours their clock may be, their times not put right.
        delete: ignore, archive or delete.
        fields: root field or part type -> its own policy.
        resolvers: root field or part type -> what merges it; "" for the others.
        ties: who wins what was written at once; None: the higher version, then theirs.
        since: when the initial sync began: what was edited here before it gives way to what they had all along.
    """

    policy: Policy = Policy.LWW
    protected: frozenset[str] = frozenset()
    tolerance: timedelta = _NO_TIME
    clock_error: timedelta = _NO_TIME
    delete: str = "ignore"
    fields: Mapping[str, Policy] = field(default_factory=dict)
    resolvers: Mapping[str, Resolver] = field(default_factory=dict)
    ties: Side | None = None
    since: datetime | None = None

    def policy_of(self, key: str) -> Policy:
        """The policy of a field or part."""
        return self.fields.get(key.partition("/")[0], self.policy)

    def resolver_of(self, key: str) -> Resolver:
        """What merges a field or part."""
        default = self.resolvers.get("", BUILT_IN[DEFAULT])
        return self.resolvers.get(key.partition("/")[0], default)


@dataclass(frozen=True, slots=True)
class Loser:
    """A field whose two sides could not both survive, with all three values, the winner and why."""

    field: str
    base: Json
    ours: Json
    theirs: Json
    winner: Winner
    rule: str


@dataclass(frozen=True, slots=True)
class Question:
    """A field that waits for a person; ours stands until then."""

    field: str
    base: Json
    ours: Json
    theirs: Json
    rule: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one event for one entity.

    Args:
        reason: why, a word that is stored and shown.
        write: the fields and parts to write; a part that is None is removed.
        base: what they hold now, as far as we know.
        remote_needs_correction: they hold something else than we do now.
        delete: the entity shall be marked as deleted.
        revive: the mark shall be taken away.
        gone: their record is gone: as long as ours stands, or when it does again, they get it anew.
        hidden: the event told of an edit that a push of ours wrote over: they hold a newer state than it tells.
        over: our last pushes, as far as the event changes what we know of them; None when it does not.
        since: set when the event's time is that of our own push: what else it tells of was written after this time.
        times: field -> when its value was written, where that is not the event's time.
    """

    kind: Kind
    reason: str
    write: Document = field(default_factory=dict)
    base: Document = field(default_factory=dict)
    losers: tuple[Loser, ...] = ()
    questions: tuple[Question, ...] = ()
    remote_needs_correction: bool = False
    delete: bool = False
    revive: bool = False
    gone: bool = False
    hidden: bool = False
    over: tuple[Over, ...] | None = None
    since: datetime | None = None
    times: Mapping[str, datetime] = field(default_factory=dict)

    @property
    def taken(self) -> frozenset[str]:
        """The fields and parts that become theirs."""
        return frozenset(self.write)


def merged(document: Document, write: Document) -> Document:
    """A document after a decision's `write`: removed parts are missing."""
    return {k: v for k, v in (document | write).items() if v is not None or "/" not in k}


def known_after(base: Document | None, theirs: Document) -> Document:
    """What they hold after their record says `theirs`."""
    return merged(base or {}, theirs)
