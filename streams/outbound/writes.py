"""From a claimed wish to frozen bytes: what, if anything, has to be sent. All of it is pure.

A wish is for the current state, so the rows are read after the claim: a change that comes later raises `wanted_seq`
again and is seen by the result.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from connectors.contract import CreateTier, Manifest, Op, Write
from schemas.fields import Document
from streams.rules import keys, mapping
from streams.store.aggregates import Rows
from streams.store.connections import Connection


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
    error_code: str | None
    op: str | None
    idem_key: str | None
    body: bytes | None
    sent: Document | None
    changed: list[str] | None
    link_rev: int | None
    committed_at: datetime | None
    planned_at: datetime | None
    claimed_at: datetime
    resent: bool = field(init=False)

    def __post_init__(self) -> None:
        self.resent = self.body is not None


@dataclass(frozen=True, slots=True)
class Linked:
    """Their record of an entity: its id, and what we know of it. `rev` is None before anything was agreed."""

    external_id: str
    rev: int | None
    base: Document
    open_fields: frozenset[str]


@dataclass(frozen=True, slots=True)
class NoCall:
    """Nothing has to be sent, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Planned:
    """A write that has to be sent.

    Args:
        sent: the document it carries, as that system can hold it; once confirmed it is the base.
        rev: `link_state.rev` that was compared with, None when there was none.
    """

    write: Write
    sent: Document
    rev: int | None


def plan_write(
    claim: Claim, rows: Rows | None, links: Mapping[str, Linked], *, connection: Connection, manifest: Manifest
) -> Planned | NoCall:
    """What has to be sent so that they hold the current state; pure.

    Args:
        rows: the aggregate as it is now, None when the row is gone.
        links: entity id -> their record, of the entity and of what it refers to.
    """
    link = links.get(claim.entity_id)
    if rows is None or rows.deleted:
        return _plan_delete(claim, rows, link, connection)
    aggregate = manifest.aggregate(claim.external_type)
    ids_are_ours = manifest.create_tier is CreateTier.CLIENT_ID

    def external_id(_: str, entity_id: str) -> str | None:
        if entity_id in links:
            return links[entity_id].external_id
        return entity_id if ids_are_ours else None

    ours = rows.document(aggregate)
    if link:
        _leave_out_open_questions(ours, link)
    sent = mapping.view(aggregate, ours, external_id)
    differing = mapping.differences(sent, link.base) if link else frozenset()
    if link and link.rev is not None and not differing:
        return NoCall("no_difference")
    op = Op.UPDATE if link else Op.CREATE
    write = Write(
        op=op,
        external_type=claim.external_type,
        entity_id=claim.entity_id,
        external_id=external_id(claim.entity_type, claim.entity_id),
        payload=mapping.to_payload(aggregate, ours, external_id),
        changed=mapping.changed_paths(aggregate, differing),
        key=_key(claim, connection, op),
        at=datetime.fromisoformat(rows.root["modified_at"]),
    )
    return Planned(write, sent, link.rev if link else None)


def _plan_delete(claim: Claim, rows: Rows | None, link: Linked | None, connection: Connection) -> Planned | NoCall:
    if link is None:
        return NoCall("never_there")
    if connection.delete_policy == "ignore":
        return NoCall("delete_ignored")
    write = Write(
        op=Op.DELETE,
        external_type=claim.external_type,
        entity_id=claim.entity_id,
        external_id=link.external_id,
        payload={},
        changed=frozenset(),
        key=_key(claim, connection, Op.DELETE),
        at=datetime.fromisoformat(rows.root["modified_at"]) if rows else claim.claimed_at,
    )
    return Planned(write, {}, link.rev)


def _leave_out_open_questions(ours: Document, link: Linked) -> None:
    """A field with an open conflict goes out as they have it, until a person has decided."""
    for name in link.open_fields & ours.keys():
        if name in link.base:
            ours[name] = link.base[name]
        else:
            del ours[name]


def _key(claim: Claim, connection: Connection, op: Op) -> str:
    return keys.idempotency_key(
        org_id=connection.org_id,
        connection=connection.name,
        external_type=claim.external_type,
        entity_id=claim.entity_id,
        op=op,
        generation=claim.generation,
        seq=claim.claimed_seq,
    )


def freeze(claim: Claim, planned: Planned, body: bytes) -> dict[str, Any]:
    """Put the write into the claim; the answer is its row for the `freeze` statement."""
    claim.op = planned.write.op.value
    claim.idem_key = planned.write.key
    claim.body = body
    claim.sent = planned.sent
    claim.changed = sorted(planned.write.changed)
    claim.link_rev = planned.rev
    return {
        "external_type": claim.external_type,
        "entity_id": claim.entity_id,
        "fence": claim.fence,
        "op": claim.op,
        "idem_key": claim.idem_key,
        "body": base64.b64encode(body).decode(),
        "sent": claim.sent,
        "changed": claim.changed,
        "link_rev": claim.link_rev,
    }


def as_rows(rows: list[dict[str, Any]]) -> str:
    """Rows as the one JSON parameter of a batch statement."""
    return orjson.dumps(rows).decode()
