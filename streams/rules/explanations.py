"""Why a record did or did not sync: from what is known of it at one connection to one plain sentence.

The first reason that holds is the one given, from the connection as a whole to the last answer of the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Entity:
    """Our row. `deleted_at` is set for soft and hard deletes alike."""

    entity_type: str
    id: str
    version: int
    origin: str
    modified_at: datetime
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """Their record of it; `deleted_at` when the link was taken away."""

    external_type: str
    external_id: str
    deleted_at: datetime | None = None
    last_processed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """The wish that they hold our current state.

    Args:
        behind: how many plans are not fulfilled yet.
        resolve: of an UNKNOWN one, how it is found out what they did: `search` for our marker, or `check`.
        hold: the number of the mass change that a HELD one belongs to, which is of `hold_kind` (deletes, updates).
    """

    state: str
    reason: str
    behind: int
    attempt: int
    not_before: datetime | None
    error_code: str = ""
    error_cause: str = ""
    resolve: str = ""
    hold: int | None = None
    hold_kind: str = ""
    entity_id: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """An entity whose link is waited for, and how its own wish stands; without a state when nobody has one."""

    entity_id: str
    state: str = ""
    error_code: str = ""
    error_cause: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One HTTP attempt; each hop with its time, None where it was not reached."""

    op: str
    outcome: str
    status: int | None
    cause: str | None
    attempt: int
    committed_at: datetime | None
    planned_at: datetime | None
    claimed_at: datetime | None
    sent_at: datetime | None
    answered_at: datetime | None
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one event of theirs."""

    decision: str
    reason: str
    source: str
    occurred_at: datetime
    received_at: datetime
    applied_at: datetime


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Something that cannot be processed as it is."""

    id: int
    source: str
    code: str
    cause: str


@dataclass(frozen=True, slots=True)
class Loser:
    """A field on which both sides differed, and who won; without the values, which are personal."""

    id: int
    field: str
    winner: str
    rule: str
    decided_at: datetime
    restored_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one entity at one connection; lists are newest first.

    Args:
        gate: of the root's type, empty when it is out of scope.
        takes_type: the system has this type, by itself or as a part of its root.
        conflicts: fields with an open conflict.
        losers: fields that were decided lately.
        reviews: kinds of open review items: unlinked, constraint.
    """

    connection: str
    system: str
    state: str
    state_reason: str | None
    option: int
    gate: str
    takes_type: bool
    link: Link | None = None
    intent: Intent | None = None
    waits: Sequence[Wait] = ()
    deliveries: Sequence[Delivery] = ()
    decisions: Sequence[Decision] = ()
    conflicts: Sequence[str] = ()
    losers: Sequence[Loser] = ()
    reviews: Sequence[str] = ()
    dead_letters: Sequence[DeadLetter] = ()


def explain(facts: Facts, entity: Entity | None, now: datetime) -> str:
    """The sentence for one connection; `entity` is None while their record has no row of ours."""
    said = _barred(facts)
    if not said and entity is None:
        said = _not_ours(facts)
    if not said and entity is not None:
        said = _wanted(facts, now) or _settled(facts, entity)
    return " ".join([said, *_open_questions(facts, entity)])


def _barred(facts: Facts) -> str:
    """Reasons that hold for every record of the type."""
    if facts.state == "disconnected":
        return f"{facts.connection} is disconnected, so nothing goes either way."
    if not facts.takes_type:
        return f"{facts.connection} never gets it: {facts.system} has no records of this type."
    if not facts.gate:
        return f"This type is out of scope for {facts.connection}."
    return ""


def _not_ours(facts: Facts) -> str:
    if not facts.decisions:
        return f"{facts.connection} has it as a record that is not matched with a row of ours yet."
    last = facts.decisions[0]
    if last.decision == "reading":
        return "It has no row of ours yet."
    return f"It has no row of ours: the last event of {facts.connection} was {last.decision} ({last.reason})."


def _wanted(facts: Facts, now: datetime) -> str:
    """Where the open wish stands; empty when there is none."""
    intent = facts.intent
    if intent is None or intent.state == "DONE":
        return ""
    return _stands_still(facts, intent) or _goes_on(facts, intent, now)


def _stands_still(facts: Facts, intent: Intent) -> str:
    """States that time alone does not end, and the write in flight."""
    name, error = facts.connection, _error(intent)
    match intent.state:
        case "DEAD":
            return f"{name} refused it for good{error}. It is sent again when the record changes or is redriven."
        case "PARKED":
            return f"It is parked until a person decides{error}. {_parked(facts, intent)}"
        case "HELD":
            return _held(facts, intent)
        case "SENDING":
            return f"It is being sent to {name} right now (try {intent.attempt})."
        case _:
            return ""


def _parked(facts: Facts, intent: Intent) -> str:
    where = f"{intent.entity_id} --connection {facts.connection}"
    ways = f"`syncline parked retry {where}` sends it as it is now, `syncline parked drop {where}` does without it."
    if intent.error_code != "outcome_unknown":
        return ways
    return f"Look whether they have it: if so, `syncline push {where} --link THEIR_ID`; if not, {ways}"


def _held(facts: Facts, intent: Intent) -> str:
    if intent.hold is None:
        return (
            f"It is held: this type is at the gate {facts.gate!r} for {facts.connection} and flows once that is 'live'."
        )
    return (
        f"It is held: it is one of more {intent.hold_kind} than {facts.connection} may get in ten minutes."
        f" `syncline holds approve {intent.hold}` lets all of them go, `syncline holds drop {intent.hold}` none."
    )


def _goes_on(facts: Facts, intent: Intent, now: datetime) -> str:
    name, error = facts.connection, _error(intent)
    if intent.state == "WAITING":
        return _waits(facts, intent)
    if facts.state == "paused":
        return f"It waits because {name} is paused ({facts.state_reason or 'no reason given'})."
    when = _when(intent.not_before, now)
    match intent.state:
        case "UNKNOWN" if intent.resolve == "check":
            return f"{name} took the last write and has yet to tell what became of it; asking them is {when}."
        case "UNKNOWN":
            return f"It is unclear whether {name} applied the last write{error}; searching for our marker is {when}."
        case "RETRY":
            return f"The last try failed{error}; try {intent.attempt + 1} is {when}."
        case _:
            return f"It waits for its turn at {name} ({intent.reason}); that is {when}."


def _waits(facts: Facts, intent: Intent) -> str:
    if not facts.waits:
        error = _error(intent)
        return f"It waits for a record it refers to, which {facts.connection} does not have yet{error}."
    told = [f"{wait.entity_id} ({_stands(wait)})" for wait in facts.waits]
    first = facts.waits[0].entity_id
    return f"It waits for {', '.join(told)}, not at {facts.connection} yet; see `syncline why {first}`."


def _stands(wait: Wait) -> str:
    if not wait.state:
        return "not planned"
    if wait.error_code:
        return f"{wait.state}: {wait.error_cause or wait.error_code}"
    return wait.state


_NOT_SENT = {
    "filtered_out": "It does not fulfil the filter of {name}, so it is not sent there.",
    "left_kept": "It no longer fulfils the filter of {name}, which keeps the record as it was (on leave: keep).",
    "delete_ignored": "It was deleted here, and {name} ignores deletes, so their record stays.",
    "merged_there": "{name} merged its record into that of another entity: see `syncline reviews list --kind merge`.",
    "never_there": "It was deleted here before {name} ever had it.",
    "archive_unsupported": "It is to be archived, which {system} cannot do with this type, so their record stays.",
    "archived_already": "{name} holds it as archived, as it should.",
    "delete_asked": "{name} deleted the record, which was changed here, so nothing is sent until a person has decided.",
    "dropped_by_person": "A person decided to do without its last state at {name}; it is sent when it changes again.",
    "mass_change_dropped": "A person dropped this mass change, so {name} keeps the record as it was before.",
}
"""Reasons of wishes that ended without a call, and not because they have it already."""


def _not_sent(facts: Facts) -> str:
    intent = facts.intent
    if intent is None or intent.state != "DONE":
        return ""
    if intent.error_code == "parent_not_synced":
        whom = f" ({intent.error_cause})" if intent.error_cause else ""
        return (
            f"It is not sent: a record it refers to does not go to {facts.connection}{whom}. It follows if that links."
        )
    return _NOT_SENT.get(intent.error_code, "").format(name=facts.connection, system=facts.system)


def _settled(facts: Facts, entity: Entity) -> str:
    """Nothing is wanted: why not."""
    name = facts.connection
    told = _not_sent(facts)
    if "unlinked" in facts.reviews or (facts.option == 3 and not _linked(facts) and not told):
        return (
            f"It is not linked, and {name} has option 3: only linked records are pushed, until a person does it with"
            f" `syncline push {entity.id} --connection {name}`."
        )
    if told:
        return told
    if entity.origin == name:
        return f"In step: the last change came from {name}, so there is nothing to send back."
    if facts.intent is not None:
        return f"In step: {name} has the current state{_last_delivery(facts)}."
    if entity.origin == "bulk":
        return f"The last change was made in bulk; such changes reach {name} by `syncline resync {name}` only."
    if entity.deleted_at is not None:
        return f"It was deleted here before anything was planned for {name}."
    if _linked(facts):
        return f"It is linked at {name}, and nothing has been planned since."
    return f"Nothing was planned: it has not changed since {name} was connected. `syncline push --all` sends it."


def _open_questions(facts: Facts, entity: Entity | None) -> list[str]:
    said = []
    if facts.conflicts:
        listed = ", ".join(facts.conflicts)
        told = f"Both sides changed {listed}, and a person must choose; these fields are left out until then"
        said.append(f"{told}: `syncline conflicts show {entity.id}`." if entity else f"{told}.")
    if facts.decisions and facts.decisions[0].decision == "reading":
        said.append(f"{facts.connection} has a change of it that is read in full first ({facts.decisions[0].reason}).")
    if "constraint" in facts.reviews:
        said.append("A rule of our database refused an event of theirs; it waits: see `syncline reviews list`.")
    said.extend(f"Dead letter {letter.id}: {letter.cause} ({letter.code})." for letter in facts.dead_letters)
    return said


def _linked(facts: Facts) -> bool:
    return facts.link is not None and facts.link.deleted_at is None


def _error(intent: Intent) -> str:
    if not intent.error_code:
        return ""
    return f": {intent.error_cause} ({intent.error_code})" if intent.error_cause else f" ({intent.error_code})"


def _when(at: datetime | None, now: datetime) -> str:
    if at is None or at <= now:
        return "due now"
    return f"due in {_span((at - now).total_seconds())}, at {at:%Y-%m-%d %H:%M:%S}Z"


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _last_delivery(facts: Facts) -> str:
    delivered = next((d for d in facts.deliveries if d.outcome == "delivered"), None)
    if delivered is None:
        return ", and nothing had to be sent"
    at = delivered.answered_at or delivered.recorded_at
    return f" since {at:%Y-%m-%d %H:%M:%S}Z ({delivered.op}, try {delivered.attempt})"
