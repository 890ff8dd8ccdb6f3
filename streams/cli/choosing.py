"""Options of `connect` and `connections set` that say how a connection behaves, and what they mean as values."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer


class Mode(enum.StrEnum):
    """When it works."""

    REALTIME = "realtime"
    SCHEDULED = "scheduled"
    BOTH = "both"


class DeletePolicy(enum.StrEnum):
    """What becomes of their record when ours is deleted."""

    IGNORE = "ignore"
    ARCHIVE = "archive"
    DELETE = "delete"


class OnLeave(enum.StrEnum):
    """What becomes of their record when ours no longer fulfils the filter."""

    KEEP = "keep"
    ARCHIVE = "archive"
    DELETE = "delete"


class ConflictPolicy(enum.StrEnum):
    """Who wins when both sides changed a field."""

    LWW = "lww"
    LWW_RECORD = "lww_record"
    MERGE = "merge"
    LOCAL = "local"
    REMOTE = "remote"
    MANUAL = "manual"


class RetryPolicy(enum.StrEnum):
    """How long a push is tried."""

    DURABLE = "durable"
    SEED = "seed"


Deletes = Annotated[
    DeletePolicy | None,
    typer.Option("--deletes", "--delete-policy", help="When ours is deleted; asked for with option 1, else ignore."),
]
Conflicts = Annotated[
    list[str] | None,
    typer.Option(
        "--conflict",
        metavar="TYPE:POLICY",
        help="By type or field: person:manual, person:phone=merge:longest, person:ties=ours; TYPE:default.",
    ),
]
Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="TYPE:CONDITION", help="Rows that belong there, as person:status=active."),
]
Leaving = Annotated[OnLeave | None, typer.Option("--on-leave", help="When a row no longer fulfils the filter.")]
Include = Annotated[
    list[str] | None, typer.Option(metavar="TYPE:FIELD,…", help="Fields and parts to send; TYPE:all for all.")
]
Exclude = Annotated[list[str] | None, typer.Option(metavar="TYPE:FIELD,…", help="Fields and parts not to send.")]
Concurrency = Annotated[int | None, typer.Option(min=1, max=256, help="Calls at once; default: as the adapter says.")]
Budget = Annotated[
    str | None, typer.Option(metavar="CALLS/TIME", help="Most calls, as 100/20s; learned: only what they tell.")
]
Guard = Annotated[
    str | None,
    typer.Option(
        metavar="KIND=N,…", help="Most deletes and updates of a type in 10 minutes: deletes=50,updates=off; or default."
    ),
]
Polls = Annotated[
    list[str] | None,
    typer.Option("--poll", metavar="TYPE=SECONDS", help="Between polls of one of their types; TYPE=default."),
]
ReviewWithin = Annotated[
    str | None, typer.Option(metavar="TIME", help="How long what it asks of a person may wait, as 3d; at first 7d.")
]
FullReads = Annotated[
    str | None,
    typer.Option(
        "--full-read", metavar="TIME", help="Between polls that read all there is, as 7d; 0s: never; at first 24h."
    ),
]
AllowPrivate = Annotated[
    bool | None,
    typer.Option("--allow-private/--no-allow-private", help="Allow addresses inside a private network."),
]
Http2 = Annotated[bool | None, typer.Option("--http2/--no-http2", help="Speak HTTP/2 with them.")]
Compress = Annotated[bool | None, typer.Option("--compress/--no-compress", help="Compress what is sent.")]

_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,3})?")
_BUDGET = re.compile(r"(\d+)/(\d+(?:\.\d+)?)?(s|min|h)")
_SECONDS = {"s": 1, "min": 60, "h": 3600}


def filters(written: Sequence[str] | None) -> dict[str, list[Any]] | None:
    """Entity type -> conditions; `TYPE:none` takes the type's away. Raises Problem (`filter_invalid`)."""
    from streams.rules.filters import parse

    if not written:
        return None
    found: dict[str, list[Any]] = {}
    for root, condition in (_typed(text, "--filter") for text in written):
        found.setdefault(root, [])
        if condition != "none":
            found[root].append(parse(condition))
    return found


def fields(include: Sequence[str] | None, exclude: Sequence[str] | None) -> dict[str, dict[str, list[str]]] | None:
    """Entity type -> which fields and parts; `TYPE:all` sends all."""
    found: dict[str, dict[str, list[str]]] = {}
    for kind, written in (("include", include), ("exclude", exclude)):
        for root, names in (_typed(text, f"--{kind}") for text in written or ()):
            if names == "all":
                found[root] = {}
                continue
            if {"include", "exclude"} - {kind} & found.get(root, {}).keys():
                raise typer.BadParameter(f"include fields of {root}, or exclude some", param_hint=f"--{kind}")
            listed = [name.strip() for name in names.split(",") if name.strip()]
            found.setdefault(root, {}).setdefault(kind, []).extend(listed)
    return found or None


def conflicts(written: Sequence[str] | None) -> dict[str, dict[str, Any]] | None:
    """Entity type -> who wins, as `streams.rules.policies` has it; `TYPE:default` takes the type's away."""
    found: dict[str, dict[str, Any]] = {}
    for root, rest in (_typed(text, "--conflict") for text in written or ()):
        choice = found.setdefault(root, {})
        name, equals, policy = rest.partition("=")
        if name == "ties" and equals:
            choice["ties"] = policy
        elif equals:
            choice.setdefault("fields", {})[name.strip()] = policy.strip()
        elif rest == "default":
            choice.clear()
        else:
            choice["policy"], colon, resolver = rest.partition(":")
            choice |= {"resolver": resolver} if colon else {}
    return found or None


def guard(written: str | None) -> dict[str, int | None] | None:
    """Bounds by kind; what is not named has its default."""
    if written is None:
        return None
    from streams.rules.mass_changes import FLOORS

    found: dict[str, int | None] = {}
    for each in written.split(",") if written != "default" else ():
        kind, _, bound = each.strip().partition("=")
        if kind not in FLOORS or not (bound == "off" or (bound.isascii() and bound.isdigit())):
            raise typer.BadParameter(
                "write deletes=N, updates=N, their_deletes=N, or off instead of N", param_hint="--guard"
            )
        found[kind] = None if bound == "off" else int(bound)
    return found


def budget(written: str | None) -> dict[str, float] | None:
    """`calls` per `per_s` seconds; empty for what they tell."""
    if written is None or written == "learned":
        return None if written is None else {}
    match = _BUDGET.fullmatch(written)
    if match is None:
        raise typer.BadParameter("write it as 100/20s, 1000/min or 5000/h, or learned", param_hint="CALLS/TIME")
    return {"calls": int(match[1]), "per_s": float(match[2] or 1) * _SECONDS[match[3]]}


def intervals(written: Sequence[str] | None) -> dict[str, float] | None:
    """External type -> seconds between polls; 0 for the connection's own interval."""
    if not written:
        return None
    found = {}
    for each in written:
        kind, equals, seconds = each.rpartition("=")
        if not kind or not equals or not (seconds == "default" or _NUMBER.fullmatch(seconds)):
            raise typer.BadParameter("write TYPE=SECONDS, as people=60, or TYPE=default", param_hint="--poll")
        found[kind] = 0.0 if seconds == "default" else float(seconds)
    return found


def full_reads(written: str | None) -> float | None:
    """Seconds between full readings; 0 for never."""
    from streams.cli.spans import span

    every = span(written, "--full-read")
    return None if every is None else every.total_seconds()


def gates(written: Sequence[str] | None) -> dict[str, str] | None:
    """Entity type -> gate; `TYPE=out` takes the type out of scope."""
    if not written:
        return None
    found = {}
    for each in written:
        root, equals, gate = each.partition("=")
        if not root or not equals or not gate:
            raise typer.BadParameter("write TYPE=GATE, as person=live", param_hint="--gate")
        found[root] = "" if gate == "out" else gate
    return found


def _typed(text: str, option: str) -> tuple[str, str]:
    root, colon, rest = text.partition(":")
    if not root or not colon or not rest.strip():
        raise typer.BadParameter(f"name the type first, as person:…, in {text!r}", param_hint=option)
    return root.strip(), rest.strip()
