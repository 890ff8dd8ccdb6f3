"""`connect`, `disconnect`: what begins and ends a connection's work."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import choosing, session, show
from streams.cli.examples import examples

if TYPE_CHECKING:
    from connectors.config import ExternalSync
    from streams.connections import Connected, Service
    from streams.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog=examples(
            "syncline connect sync.json --name clinic",
            "syncline connect --type mock-sync-server --url http://localhost:3000/mock-sync",
            "syncline connect --type openfn --url https://app.openfn.org/i/… --secret apiKey",
            "syncline connect sync.json --name clinic --filter person:status=active --exclude person:national_id",
            "syncline connect sync.json --name clinic --update --option 2",
        )
    )(connect)
    app.command(epilog=examples("syncline disconnect clinic"))(disconnect)


def connect(
    file: Annotated[
        Path | None,
        typer.Argument(help="externalSync JSON, alone or inside a larger document; - reads standard input."),
    ] = None,
    *,
    type_: Annotated[str | None, typer.Option("--type", help="Kind of system, instead of a file.")] = None,
    url: Annotated[str | None, typer.Option(help="Full URL of the system, instead of a file.")] = None,
    auth: Annotated[str | None, typer.Option(help="none, basic, api-key …")] = None,
    extra: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An extra field.")] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=@FILE]", help="A secret extra field: asked for, or read from a file."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the connection; default: its type.")] = None,
    option: Annotated[
        int, typer.Option(min=1, max=3, help="1: both sides count; 2: we are the source of truth; 3: they are.")
    ] = 1,
    mode: Annotated[
        choosing.Mode, typer.Option(help="Webhooks and pushes at once, polls on a schedule, or both.")
    ] = choosing.Mode.BOTH,
    poll_interval: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Between polls; default: syncInterval, or 900.")
    ] = None,
    polls: choosing.Polls = None,
    full_reads: choosing.FullReads = None,
    deletes: choosing.Deletes = None,
    conflict_policy: Annotated[
        choosing.ConflictPolicy, typer.Option(help="When both sides changed a field.")
    ] = choosing.ConflictPolicy.LWW,
    conflicts: choosing.Conflicts = None,
    retry_policy: Annotated[
        choosing.RetryPolicy, typer.Option(help="durable: up to 76 hours; seed: 10 tries.")
    ] = choosing.RetryPolicy.DURABLE,
    filters: choosing.Filters = None,
    on_leave: choosing.Leaving = None,
    include: choosing.Include = None,
    exclude: choosing.Exclude = None,
    concurrency: choosing.Concurrency = None,
    budget: choosing.Budget = None,
    guard: choosing.Guard = None,
    allow_http: Annotated[bool, typer.Option("--allow-http", help="Allow plain http to other machines.")] = False,
    allow_private: choosing.AllowPrivate = None,
    http2: choosing.Http2 = None,
    compress: choosing.Compress = None,
    only: Annotated[list[str] | None, typer.Option(metavar="TYPE", help="Entity types in scope; default: all.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Change a connection that exists.")] = False,
    as_json: session.Json = False,
) -> None:
    """Connect an external system.

    Changes flow both ways as soon as this command ends; rows that exist already are pushed by `syncline push --all`.
    To change single choices later, use `syncline connections set`; --update sets those above --filter anew.
    Secrets are encrypted with the key in your home before they are stored.
    """
    from streams.choices import Choices

    given = _configuration(file, type_, url, auth, extra or [], secret or [])
    choices = Choices(
        option=option,  # type: ignore[arg-type] # typer holds it between 1 and 3
        mode=mode.value,
        poll_interval_s=poll_interval,
        poll_intervals=choosing.intervals(polls),
        full_read_every_s=choosing.full_reads(full_reads),
        delete_policy=(deletes or _ask_deletes(option)).value,
        conflict_policy=conflict_policy.value,
        retry_policy=retry_policy.value,
        allow_http=allow_http,
        entity_types=only or [],
        allow_private=allow_private,
        http2=http2,
        compress=compress,
        filters=choosing.filters(filters),
        on_leave=on_leave.value if on_leave else None,
        fields=choosing.fields(include, exclude),
        concurrency=concurrency,
        guard=choosing.guard(guard),
        budget=choosing.budget(budget),
        conflict_policies=choosing.conflicts(conflicts),
    )
    loaded = session.settings()

    async def work() -> Connected:
        async with session.database(loaded) as conn:
            org = session.org(loaded)
            return await service(loaded).connect(conn, org, name or given.type, given, choices, update=update)

    _show(session.run(work()), as_json=as_json, update=update)


def disconnect(name: session.Name, *, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Disconnect an external system.

    Its credentials are destroyed and its webhooks refused. Links stay, so that nothing is doubled if it is connected
    again.
    """
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Disconnect {name} and destroy its credentials?", abort=True)
    loaded = session.settings()

    async def work() -> None:
        async with session.database(loaded) as conn:
            await service(loaded).disconnect(conn, session.org(loaded), name)

    session.run(work())
    show.say(f"{name} is disconnected; its links are kept.")


def service(loaded: Settings) -> Service:
    """The service behind all commands that change connections."""
    from streams.connections import service as make
    from streams.resources import plan_all

    return make(loaded, session.actor(), plan_all(session.now))


def _configuration(
    file: Path | None, type_: str | None, url: str | None, auth: str | None, extra: list[str], secret: list[str]
) -> ExternalSync:
    from connectors import config
    from schemas.problems import Problem

    hidden = dict(map(_secret_field, secret))
    fields = [*map(_field, extra), *({"name": name, "value": value} for name, value in hidden.items())]
    if file is None:
        if not type_ or not url:
            raise typer.BadParameter("give a file, or --type and --url")
        document: dict[str, Any] = {"type": type_, "url": url, "extraFields": fields}
        return _hide(config.load(document | ({"auth": auth} if auth else {})), hidden)
    if type_ or url or auth:
        raise typer.BadParameter("--type, --url and --auth are instead of a file")
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as failure:
        raise Problem("file_unreadable", f"{file}: {failure.strerror}", "Name a file that can be read.") from failure
    loaded = config.load(content)
    more = config.load({"type": loaded.type, "url": loaded.url, "extraFields": fields})
    merged = replace(
        loaded,
        plain={**loaded.plain, **more.plain},
        secrets={**loaded.secrets, **more.secrets},
        paths={**more.paths, **loaded.paths},
    )
    return _hide(merged, hidden)


def _hide(given: ExternalSync, names: Collection[str]) -> ExternalSync:
    """What was given as a secret is one, whatever its name sounds like."""
    from pydantic import SecretStr

    moved = {name: SecretStr(value) for name, value in given.plain.items() if name in names}
    plain = {name: value for name, value in given.plain.items() if name not in names}
    return replace(given, plain=plain, secrets={**given.secrets, **moved})


def _field(text: str) -> dict[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter("write NAME=VALUE", param_hint="--set")
    return {"name": name, "value": value}


def _secret_field(text: str) -> tuple[str, str]:
    name, equals, source = text.partition("=")
    if not equals:
        return name, typer.prompt(name, hide_input=True)
    if not source.startswith("@"):
        raise typer.BadParameter(
            "write NAME or NAME=@FILE: a value here would stay in the shell's history", param_hint="--secret"
        )
    try:
        return name, Path(source[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as failure:
        raise typer.BadParameter(f"{source[1:]} cannot be read", param_hint="--secret") from failure


def _ask_deletes(option: int) -> choosing.DeletePolicy:
    """Only a person's word makes a delete here a delete there."""
    if option != 1 or session.current.as_json or not sys.stdin.isatty():
        return choosing.DeletePolicy.IGNORE
    answer = typer.prompt(
        "When a row is deleted here, their record is to be (ignore, archive, delete)", default="ignore"
    )
    try:
        return choosing.DeletePolicy(answer.strip())
    except ValueError:
        raise typer.BadParameter(f"{answer} is none of ignore, archive, delete") from None


def _show(made: Connected, *, as_json: bool, update: bool) -> None:
    row = made.connection
    url = made.webhook.url.get_secret_value()
    if as_json:
        told = {"name": row.name, "system": row.system, "option": row.option, "state": row.state, "epoch": row.epoch}
        show.as_json(told | {"webhook_url": url, "waiting": made.waiting, "unread": made.unread})
        return
    show.say(
        f"✓ {row.name} is connected to {row.system} (option {row.option}, {row.mode}, deletes: {row.delete_policy})."
    )
    show.say(f"  webhooks: {url}")
    show.say(f"  their secret: syncline connections webhook {row.name}")
    for place in made.unread:
        show.say(f"  ! {place} is not read by this adapter; is it misspelt?")
    if update:
        show.say(f"  what is there already follows with: syncline resync {row.name}")
    elif waiting := {name: count for name, count in made.waiting.items() if count}:
        show.say(f"  waiting here: {show.cell(waiting)}; send them with: syncline push --all {row.name}")
