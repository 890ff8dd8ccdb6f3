"""What a person chooses at `connect`, checked and turned into a row of `sync.connection`. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from psycopg.types.json import Jsonb
from pydantic import BaseModel, SecretStr

from connectors import config
from connectors.contract import Manifest
from connectors.egress import Egress
from schemas.problems import Problem

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_RESERVED = frozenset({"local", "bulk"})  # words of the column `origin`
DEFAULT_POLL_INTERVAL_S = 900.0


@dataclass(frozen=True, slots=True)
class Choices:
    """How a connection shall behave; the person's choices at `connect`.

    Args:
        option: 1 both sides are equal, 2 we are the source of truth, 3 they are.
        poll_interval_s: None takes `syncInterval` (ms) of the configuration, or 15 minutes.
        entity_types: root entity types in scope; empty for all the system takes.
    """

    option: Literal[1, 2, 3] = 1
    mode: Literal["realtime", "scheduled", "both"] = "both"
    delete_policy: Literal["ignore", "archive", "delete"] = "ignore"
    conflict_policy: Literal["lww", "lww_record", "local", "remote", "manual"] = "lww"
    retry_policy: Literal["durable", "seed"] = "durable"
    poll_interval_s: float | None = None
    allow_http: bool = False
    entity_types: Collection[str] = ()


def check_url(url: str, choices: Choices) -> None:
    """Raise Problem (`http_refused`, `address_refused`) for a URL that no worker would ask."""
    parts = urlsplit(url)
    Egress(allow_http=choices.allow_http).check_url(parts.scheme, parts.hostname or "")


def check_name(name: str) -> None:
    """Raise Problem (`name_invalid`) for a name the table would refuse."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
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
    return {
        "org_id": org_id,
        "name": name,
        "system": manifest.name,
        "url": given.url,
        "auth": given.auth,
        "settings": Jsonb(dict(given.plain)),
        "option": choices.option,
        "mode": choices.mode,
        "delete_policy": choices.delete_policy,
        "conflict_policy": choices.conflict_policy,
        "retry_policy": choices.retry_policy,
        "poll_interval_s": _poll_interval_s(given, choices),
        "allow_http": choices.allow_http,
        "gates": Jsonb(dict.fromkeys(types, "live")),
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
