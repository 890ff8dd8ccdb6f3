"""What a person chooses at `connect`, checked and turned into a row of `sync.connection`. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from psycopg.types.json import Jsonb
from pydantic import BaseModel, SecretStr

from connectors import config
from connectors.contract import Manifest
from connectors.egress import Egress
from schemas.fields import Json
from schemas.model import Model
from schemas.problems import Problem
from streams import choice_checks
from streams.rules import echoes
from streams.store.connections import Connection, Gate

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
DEFAULT_POLL_INTERVAL_S = 900.0
DEFAULT_FULL_READ_EVERY_S = 86_400.0
DECIDES = frozenset({"option", "delete_policy", "filters", "on_leave", "fields", "gates"})
"""Choices that decide what is sent: what they hold already follows by a resync."""
BY_TYPE = frozenset({"filters", "fields", "gates", "conflict_policies", "poll_intervals"})
"""Choices that are kept by entity type, and the intervals of polls by their type."""
_JSON = ("filters", "fields", "guard", "budget", "gates", "conflict_policies", "poll_intervals")
_DEFAULTS: Mapping[str, Any] = {
    "allow_private": False, "http2": False, "compress": False, "filters": {}, "on_leave": "keep", "fields": {},
    "concurrency": None, "guard": {}, "budget": {}, "conflict_policies": {}, "poll_intervals": {},
    "review_within_s": 604_800.0, "full_read_every_s": DEFAULT_FULL_READ_EVERY_S,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choices:
    """How a connection shall behave; the person's choices at `connect`.

    Args:
        option: 1 both sides are equal, 2 we are the source of truth, 3 they are.
        poll_interval_s: None takes `syncInterval` (ms) of the configuration, or 15 minutes.
        entity_types: root entity types in scope; empty for all the system takes.

    The others as in `streams.store.connections.Connection`; None keeps what a connection has, or takes the default.
    """

    option: Literal[1, 2, 3] = 1
    mode: Literal["realtime", "scheduled", "both"] = "both"
    delete_policy: Literal["ignore", "archive", "delete"] = "ignore"
    conflict_policy: Literal["lww", "lww_record", "merge", "local", "remote", "manual"] = "lww"
    retry_policy: Literal["durable", "seed"] = "durable"
    poll_interval_s: float | None = None
    allow_http: bool = False
    entity_types: Collection[str] = ()
    allow_private: bool | None = None
    http2: bool | None = None
    compress: bool | None = None
    filters: Mapping[str, Sequence[Mapping[str, Json]]] | None = None
    on_leave: Literal["keep", "archive", "delete"] | None = None
    fields: Mapping[str, Mapping[str, Sequence[str]]] | None = None
    concurrency: int | None = None
    guard: Mapping[str, int | None] | None = None
    budget: Mapping[str, float] | None = None
    conflict_policies: Mapping[str, Mapping[str, Json]] | None = None
    poll_intervals: Mapping[str, float] | None = None
    full_read_every_s: float | None = None
    review_within_s: float | None = None


def check_url(url: str, choices: Choices) -> None:
    """Raise Problem (`http_refused`, `address_refused`) for a URL that no worker would ask."""
    parts = urlsplit(url)
    allowed = Egress(allow_http=choices.allow_http, allow_private=bool(choices.allow_private))
    allowed.check_url(parts.scheme, parts.hostname or "")


def checked(manifest: Manifest, model: Model, choices: Choices, types: Collection[str]) -> Choices:
    """The choices as they are kept, for the entity types in scope.

    Raises:
        Problem: `type_not_taken`, `filter_invalid`, `fields_invalid`, `archive_unsupported`, `limit_invalid`,
            `policy_invalid`, `resolver_unknown`, `resolver_broken`.
    """
    filters = choice_checks.check_filters(manifest, model, choices.filters or {})
    fields = choice_checks.check_fields(manifest, choices.fields or {})
    choice_checks.check_archive(manifest, choices.delete_policy, choices.on_leave or "keep", types, filters)
    choice_checks.check_limits(choices.concurrency, choices.guard or {}, choices.budget or {})
    choice_checks.check_deadline(choices.review_within_s)
    policies = choice_checks.check_policies(manifest, choices.conflict_policies or {})
    intervals = choice_checks.check_intervals(manifest, choices.poll_intervals or {})
    choice_checks.check_full_reads(choices.full_read_every_s)
    return replace(choices, filters=filters, fields=fields, conflict_policies=policies, poll_intervals=intervals)


def filled(choices: Choices, known: Connection | None) -> Choices:
    """The choices with those that were left open as the connection has them, or as they are by default."""
    have = {name: getattr(known, name) for name in _DEFAULTS} if known else _DEFAULTS
    return replace(choices, **{name: value for name, value in have.items() if getattr(choices, name) is None})


def check_gates(manifest: Manifest, gates: Mapping[str, str]) -> None:
    """Raise Problem (`type_not_taken`, `gate_unknown`) for gates that no type goes through."""
    scope(manifest, gates)
    if strange := sorted(set(gates.values()) - set(get_args(Gate))):
        known = ", ".join(get_args(Gate))
        raise Problem("gate_unknown", f"there is no gate {strange[0]!r}", f"Choose one of {known}.")


def of(connection: Connection) -> Choices:
    """The choices that a connection has now."""
    names = Choices.__slots__
    values = {name: getattr(connection, name) for name in names if name != "entity_types"}
    return Choices(**values, entity_types=list(connection.gates))


def columns(choices: Choices, gates: Mapping[str, Gate]) -> dict[str, Any]:
    """The choices as columns of `sync.connection`, in plain values."""
    chosen = asdict(choices)
    del chosen["entity_types"]
    return {**chosen, "gates": dict(gates)}


def as_parameters(values: Mapping[str, Any]) -> dict[str, object]:
    """Columns as parameters of a statement."""
    return {name: Jsonb(value) if name in _JSON else value for name, value in values.items()}


def check_name(name: str) -> None:
    """Raise Problem (`name_invalid`) for a name the table would refuse."""
    if not _NAME.fullmatch(name) or name in echoes.OURS:
        raise Problem(
            "name_invalid",
            f"{name!r} cannot be the name of a connection",
            "Use up to 63 lower-case letters, digits, - and _, the first a letter or digit; not local, not bulk.",
        )


def with_typed_secrets(given: config.ExternalSync, model: type[BaseModel]) -> config.ExternalSync:
    """Also what the adapter types as a secret is one, whatever its name sounds like."""
    typed = {
        label
        for name, info in model.model_fields.items()
        if info.annotation in (SecretStr, SecretStr | None)
        for label in (name, info.alias or name)
    }
    moved = {name: SecretStr(value) for name, value in given.plain.items() if name in typed}
    plain = {name: value for name, value in given.plain.items() if name not in moved}
    return config.ExternalSync(given.type, given.url, given.auth, plain, {**given.secrets, **moved}, given.paths)


def scope(manifest: Manifest, wanted: Collection[str]) -> list[str]:
    """The root entity types in scope, in the manifest's order. Raises Problem (`type_not_taken`)."""
    roots = [aggregate.root for aggregate in manifest.aggregates]
    if strange := sorted(set(wanted) - set(roots)):
        raise Problem(
            "type_not_taken",
            f"{manifest.title} does not take {', '.join(strange)}",
            f"It takes: {', '.join(roots)}.",
        )
    return [root for root in roots if not wanted or root in wanted]


def row(
    org_id: str, name: str, manifest: Manifest, given: config.ExternalSync, choices: Choices, types: Collection[str]
) -> dict[str, object]:
    """The parameters of the statement that writes the connection."""
    written = columns(choices, dict.fromkeys(types, "live"))
    return {
        "org_id": org_id,
        "name": name,
        "system": manifest.name,
        "url": given.url,
        "auth": given.auth,
        "settings": Jsonb(dict(given.plain)),
        **as_parameters(written | {"poll_interval_s": _poll_interval_s(given, choices)}),
    }


def _poll_interval_s(given: config.ExternalSync, choices: Choices) -> float:
    if choices.poll_interval_s is not None:
        return choices.poll_interval_s
    written = given.plain.get("syncInterval")
    if written is None:
        return DEFAULT_POLL_INTERVAL_S
    if not written.isdigit() or int(written) == 0:
        where = given.paths.get("syncInterval", "syncInterval")
        raise Problem("config_invalid", f"{where}: must be whole milliseconds above 0", "Correct the configuration.")
    return int(written) / 1000
