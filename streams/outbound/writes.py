"""From a claimed wish to frozen bytes: what, if anything, has to be sent. All of it is pure.

A wish is for the current state, so the rows are read after the claim: a change that comes later raises `wanted_seq`
again and is seen by the result. Of event-like types every version is sent instead, the oldest first.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from connectors.contract import CreateTier, Manifest, Op, Write
from schemas.fields import Aggregate, Document, Json
from streams.rules import custom_fields, dependencies, filters, keys, mapping, selection
from streams.rules.dependencies import Missing
from streams.rules.places import ExternalId
from streams.rules.retries import Attempt
from streams.store.aggregates import Rows
from streams.store.connections import Connection

ARCHIVED = "archived"
"""Key of a base: they hold the record as archived. No field of ours has it, so it is never a difference by itself."""

DELETE_ASKED = "deleted_at"
"""Open field: they deleted the record, we changed it, and a person has yet to say which it is to be."""


@dataclass(slots=True)
class Claim:
    """An intent in our hands; field names are columns of `sync.push_intent`. With a `body`: it was sent before."""

    external_type: str
    entity_type: str
    entity_id: str
    sync_key: str
    reason: str
    fence: int
    claimed_seq: int
    generation: int
    attempt: int
    first_failed_at: datetime | None
    first_sent_at: datetime | None
    error_code: str | None
    op: str | None
    external_id: str | None
    idem_key: str | None
    body: bytes | None
    sent: Document | None
    changed: list[str] | None
    link_rev: int | None
    resolve: str | None
    resolve_token: str | None
    resolve_tries: int
    event_done: int
    event_claimed: int | None
    counted_at: datetime | None
    hold_id: int | None
    committed_at: datetime | None
    planned_at: datetime | None
    claimed_at: datetime
    resent: bool = field(init=False)
    before: Document | None = field(init=False, default=None)
    """What they held before the write, as far as we know; not known for a write that was frozen by another worker."""
    version: int | None = field(init=False, default=None)
    modified_at: datetime | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.resent = self.body is not None

    def as_attempt(self) -> Attempt:
        """What the rules of retrying want to know of it."""
        return Attempt(
            Op(self.op or Op.UPDATE),
            self.attempt,
            self.first_failed_at,
            self.resent,
            self.first_sent_at or self.claimed_at,
            self.resolve_tries,
        )


@dataclass(frozen=True, slots=True)
class Linked:
    """Their record of an entity: its id, and what we know of it. `rev` is None before anything was agreed.

    Args:
        open_fields: what a person has yet to decide: key -> what they hold.
        unresolved: references of theirs to what we do not know, see `mapping.to_payload`.
    """

    external_id: str
    rev: int | None
    base: Document
    open_fields: Mapping[str, Json]
    version: str | None = None
    unresolved: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """One version of an entity of an event-like type: the rows as they were then."""

    id: int
    rows: Rows


@dataclass(frozen=True, slots=True)
class NoCall:
    """Nothing has to be sent, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """The record cannot be there before these are."""

    missing: Sequence[Missing]


@dataclass(frozen=True, slots=True)
class Planned:
    """A write that has to be sent.

    Args:
        sent: the document it carries, as that system can hold it; once confirmed it is the base.
        before: the base it was compared with.
        rev: `link_state.rev` that was compared with, None when there was none.
        later: references that it had to leave out, and that are sent once they are known there.
    """

    write: Write
    sent: Document
    before: Document
    rev: int | None
    later: Sequence[Missing] = ()


Plan = Planned | NoCall | Blocked


def plan_write(
    claim: Claim,
    rows: Rows | None,
    links: Mapping[str, Linked],
    *,
    connection: Connection,
    manifest: Manifest,
    event: Event | None = None,
) -> Plan:
    """What has to be sent so that they hold the current state, or the state of one event; pure.

    Args:
        rows: the aggregate as it is now, or as the event has it; None when the row is gone.
        links: entity id -> their record, of the entity and of what it refers to.
    """
    link = links.get(claim.entity_id)
    aggregate = manifest.aggregate(claim.external_type)
    ids_are_ours = manifest.create_tier is CreateTier.CLIENT_ID
    items = {part.entity_type for part in aggregate.parts if part.external_id}

    def external_id(kind: str, entity_id: str) -> str | None:
        if entity_id in links:
            return links[entity_id].external_id
        return entity_id if ids_are_ours and kind not in items else None

    write = _Build(claim, aggregate, link, connection, external_id, manifest.writes_whole_record, event)
    if rows is None or rows.deleted:
        return write.away(connection.delete_policy, "delete_ignored", rows)
    if not filters.passes(connection.filters.get(aggregate.root, ()), rows.root):
        return write.away(connection.on_leave, "left_kept" if link else "filtered_out", rows)
    if link and DELETE_ASKED in link.open_fields:
        return NoCall("delete_asked")
    narrow = selection.narrowed(aggregate, connection.fields.get(aggregate.root, {}))
    ours = rows.document(narrow)
    absent = dependencies.missing(narrow, ours, links)
    if blocking := [each for each in absent if each.on_missing == "wait"]:
        return Blocked(blocking)
    base, others = selection.split(narrow, link.base) if link else ({}, {})
    if link:
        _leave_out_open_questions(ours, link)
    sent = mapping.view(narrow, ours, external_id)
    # What a person is asked about, and of which we do not know whether it reached them, is no reason to write, and is
    # not known better after a write that may have left it out.
    unknown = link.open_fields.keys() - base.keys() if link else frozenset()
    differing = mapping.differences(sent, base) - unknown if link else frozenset()
    if link and ARCHIVED in link.base:
        differing |= sent.keys()
    if link and link.rev is not None and not differing and not event:
        return NoCall("no_difference")
    others.pop(ARCHIVED, None)
    later = [] if ids_are_ours else [each for each in absent if each.on_missing == "later"]
    payload = write.payload(mapping.to_payload(narrow, ours, external_id), others | ours, rows)
    # of a record whose state we do not know, everything may differ
    changed = mapping.changed_paths(narrow, differing) if link and link.rev is not None else frozenset(payload)
    theirs = external_id(claim.entity_type, claim.entity_id)
    made = write.write(Op.UPDATE if link else Op.CREATE, theirs, payload, changed if link else frozenset(), rows)
    held = {key: value for key, value in sent.items() if key not in unknown}
    return Planned(made, others | held, link.base if link else {}, link.rev if link else None, later)


@dataclass(frozen=True, slots=True)
class _Build:
    """What all writes of one claim share."""

    claim: Claim
    aggregate: Aggregate
    link: Linked | None
    connection: Connection
    external_id: ExternalId
    whole: bool
    event: Event | None

    def payload(self, chosen: dict[str, Json], document: Document, rows: Rows | None) -> dict[str, Json]:
        """What is sent of the chosen fields, with what the write would erase there otherwise: their custom fields and
        the mapped fields that were not chosen."""
        custom = rows.custom(self.connection.name) if rows else {}
        full = mapping.to_payload(
            self.aggregate, document, self.external_id, custom, self.link.unresolved if self.link else {}
        )
        full = custom_fields.given_back(full, custom.get("", {}), whole=self.whole)
        return full if self.whole else {key: full[key] for key in chosen}

    def away(self, policy: str, ignored: str, rows: Rows | None) -> Plan:
        """The write that takes their record away, as the policy says."""
        link = self.link
        if link is None:
            return NoCall("never_there" if ignored == "delete_ignored" else ignored)
        if policy in ("ignore", "keep"):
            return NoCall(ignored)
        if policy == "delete":
            return Planned(self.write(Op.DELETE, link.external_id, {}, frozenset(), rows), {}, link.base, link.rev)
        if not self.aggregate.archive:
            return NoCall("archive_unsupported")
        if ARCHIVED in link.base:
            return NoCall("archived_already")
        payload = dict(self.aggregate.archive)
        if self.whole:
            payload = self.payload({}, link.base, rows) | payload
        write = self.write(Op.UPDATE, link.external_id, payload, frozenset(self.aggregate.archive), rows)
        return Planned(write, {**link.base, ARCHIVED: True}, link.base, link.rev)

    def write(
        self, op: Op, external_id: str | None, payload: Mapping[str, Any], changed: frozenset[str], rows: Rows | None
    ) -> Write:
        claim = self.claim
        return Write(
            op=op,
            external_type=claim.external_type,
            entity_id=claim.entity_id,
            external_id=external_id,
            payload=payload,
            changed=changed,
            key=keys.idempotency_key(
                org_id=self.connection.org_id,
                connection=self.connection.name,
                external_type=claim.external_type,
                entity_id=claim.entity_id,
                op=op,
                generation=claim.generation,
                seq=self.event.id if self.event else claim.claimed_seq,
            ),
            at=datetime.fromisoformat(rows.root["modified_at"]) if rows else claim.claimed_at,
            version=self.link.version if self.link else None,
        )


def _leave_out_open_questions(ours: Document, link: Linked) -> None:
    """A field or part with an open conflict goes out as they have it, until a person has decided."""
    for name, asked in link.open_fields.items():
        theirs = link.base.get(name, asked)
        if "/" in name and theirs is None:
            ours.pop(name, None)  # a part that they removed
        elif "/" in name or name in ours:
            ours[name] = theirs


def freeze(claim: Claim, planned: Planned, body: bytes, event: Event | None) -> dict[str, Any]:
    """Put the write into the claim; the answer is its row for the `freeze` statement."""
    claim.op = planned.write.op.value
    claim.external_id = planned.write.external_id
    claim.idem_key = planned.write.key
    claim.body = body
    claim.sent = planned.sent
    claim.before = planned.before
    claim.modified_at = planned.write.at
    claim.changed = sorted(planned.write.changed)
    claim.link_rev = planned.rev
    claim.event_claimed = event.id if event else None
    return {
        "external_type": claim.external_type,
        "entity_id": claim.entity_id,
        "fence": claim.fence,
        "op": claim.op,
        "external_id": claim.external_id,
        "idem_key": claim.idem_key,
        "body": base64.b64encode(body).decode(),
        "sent": claim.sent,
        "changed": claim.changed,
        "link_rev": claim.link_rev,
        "event_claimed": claim.event_claimed,
    }


def as_rows(rows: list[dict[str, Any]]) -> str:
    """Rows as the one JSON parameter of a batch statement."""
    return orjson.dumps(rows).decode()
