"""`connections`: what is connected, how it behaves, and pausing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import choosing, session, show, spans, webhooks
from streams.cli.examples import examples

if TYPE_CHECKING:
    from streams.connections import Changed, Webhook
    from streams.store.connections import Connection

MASK = "••••••••"


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="See, change, pause and resume connections.", no_args_is_help=True, rich_markup_mode=None)
    group.command("list", epilog=examples("syncline connections list --json"))(list_)
    group.command("show", epilog=examples("syncline connections show clinic"))(show_)
    group.command(
        "set",
        epilog=examples(
            "syncline connections set clinic --filter person:status=active --on-leave archive",
            "syncline connections set clinic --filter person:none --include person:all",
            "syncline connections set clinic --conflict person:birth_date=manual --conflict person:phone=remote",
            "syncline connections set clinic --deletes delete --guard deletes=50,updates=off",
        ),
    )(set_)
    group.command("pause", epilog=examples("syncline connections pause clinic --reason 'their upgrade'"))(pause)
    group.command("resume", epilog=examples("syncline connections resume clinic"))(resume)
    group.command("webhook", epilog=examples("syncline connections webhook clinic"))(webhook)
    app.add_typer(group, name="connections")


def list_(as_json: session.Json = False) -> None:
    """List all connections of the organisation."""
    from streams.store import connections

    loaded = session.settings()

    async def work() -> list[Connection]:
        async with session.database(loaded) as conn:
            return await connections.list_all(conn, session.org(loaded))

    rows = [described(row) for row in session.run(work())]
    if as_json:
        show.as_json(rows)
        return
    columns = {
        "name": "NAME", "system": "SYSTEM", "state": "STATE", "state_reason": "REASON", "option": "OPTION",
        "mode": "MODE", "url": "URL",
    }  # fmt: skip
    show.table(columns, rows, empty="No connections yet. Make one with `syncline connect`.")


_STANDING = ("lastPushExternalSyncTimestamp", "lastPullExternalSyncTimestamp", "polls", "reads", "clock")


def show_(name: session.Name, as_json: session.Json = False) -> None:
    """Show one connection; secrets are masked."""
    from streams.store import connections, credentials, operations

    loaded = session.settings()

    async def work() -> dict[str, Any]:
        async with session.database(loaded) as conn:
            org = session.org(loaded)
            row = await connections.load_connection(conn, org, name)
            names = [each.name for each in await credentials.list_names(conn, org, name)]
            [stands] = [each for each in await operations.overview(conn, org, session.now()) if each["name"] == name]
            timestamps = {key: stands[key] for key in _STANDING}
            return described(row) | timestamps | {"secrets": dict.fromkeys(names, MASK)}

    told = session.run(work())
    if as_json:
        show.as_json(told)
    else:
        show.pairs(told)


def set_(
    name: session.Name,
    *,
    option: Annotated[
        int | None, typer.Option(min=1, max=3, help="1: both sides count; 2: we are the source of truth; 3: they are.")
    ] = None,
    mode: Annotated[choosing.Mode | None, typer.Option(help="When it works.")] = None,
    poll_interval: Annotated[float | None, typer.Option(min=1, metavar="SECONDS", help="Between polls.")] = None,
    polls: choosing.Polls = None,
    full_reads: choosing.FullReads = None,
    deletes: choosing.Deletes = None,
    conflict_policy: Annotated[
        choosing.ConflictPolicy | None, typer.Option(help="When both sides changed a field.")
    ] = None,
    conflicts: choosing.Conflicts = None,
    retry_policy: Annotated[
        choosing.RetryPolicy | None, typer.Option(help="durable: up to 76 hours; seed: 10 tries.")
    ] = None,
    filters: choosing.Filters = None,
    on_leave: choosing.Leaving = None,
    include: choosing.Include = None,
    exclude: choosing.Exclude = None,
    concurrency: choosing.Concurrency = None,
    budget: choosing.Budget = None,
    guard: choosing.Guard = None,
    review_within: choosing.ReviewWithin = None,
    allow_http: Annotated[
        bool | None, typer.Option("--allow-http/--no-allow-http", help="Allow plain http to other machines.")
    ] = None,
    allow_private: choosing.AllowPrivate = None,
    http2: choosing.Http2 = None,
    compress: choosing.Compress = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE=GATE", help="staging, matched, populated, live; out: out of scope."),
    ] = None,
    as_json: session.Json = False,
) -> None:
    """Change how a connection behaves.

    What is not named stays. Filters and fields are set by type: those of other types stay, TYPE:none and TYPE:all take
    them away.
    """
    within = spans.span(review_within, "--review-within")
    given = {
        "option": option,
        "mode": mode and mode.value,
        "poll_interval_s": poll_interval,
        "poll_intervals": choosing.intervals(polls),
        "full_read_every_s": choosing.full_reads(full_reads),
        "delete_policy": deletes and deletes.value,
        "conflict_policy": conflict_policy and conflict_policy.value,
        "conflict_policies": choosing.conflicts(conflicts),
        "retry_policy": retry_policy and retry_policy.value,
        "filters": choosing.filters(filters),
        "on_leave": on_leave and on_leave.value,
        "fields": choosing.fields(include, exclude),
        "concurrency": concurrency,
        "budget": choosing.budget(budget),
        "guard": choosing.guard(guard),
        "review_within_s": within.total_seconds() if within is not None else None,
        "allow_http": allow_http,
        "allow_private": allow_private,
        "http2": http2,
        "compress": compress,
        "gates": choosing.gates(gate),
    }
    changes = {choice: value for choice, value in given.items() if value is not None}
    if not changes:
        raise typer.BadParameter("say what to change, see --help")
    change(name, changes, as_json=as_json)


def change(name: str, changes: dict[str, Any], *, as_json: bool) -> None:
    """Change choices of a connection, and say what follows."""
    from streams.cli.connecting import service

    loaded = session.settings()

    async def work() -> Changed:
        async with session.database(loaded) as conn:
            return await service(loaded).change(conn, session.org(loaded), name, changes)

    told = session.run(work())
    if as_json:
        more = {"changed": told.names, "released": told.released, "needs_resync": told.needs_resync}
        show.as_json(described(told.connection) | more)
        return
    show.say(f"{name}: {', '.join(told.names)} changed." if told.names else f"{name} is like that already.")
    if told.released:
        show.say(f"{told.released} pushes that waited for a gate go on.")
    if told.needs_resync:
        show.say(f"What is there already follows with: syncline resync {name}")


def pause(
    name: session.Name,
    reason: Annotated[str, typer.Option(help="Why, for those who ask later.")] = "paused by a person",
    as_json: session.Json = False,
) -> None:
    """Pause a connection.

    Nothing is sent or polled; changes wait, and nothing is lost.
    """
    from streams.cli.connecting import service

    loaded = session.settings()

    async def work() -> Connection:
        async with session.database(loaded) as conn:
            return await service(loaded).pause(conn, session.org(loaded), name, reason)

    _changed(session.run(work()), as_json=as_json)


def resume(name: session.Name, as_json: session.Json = False) -> None:
    """Resume a paused connection, also one that Syncline paused itself."""
    from streams.cli.connecting import service

    loaded = session.settings()

    async def work() -> Connection:
        async with session.database(loaded) as conn:
            return await service(loaded).resume(conn, session.org(loaded), name)

    _changed(session.run(work()), as_json=as_json)


def webhook(name: session.Name, as_json: session.Json = False) -> None:
    """Reveal the webhook's address and secret.

    Enter them at the other system. The audit keeps who asked.
    """
    from streams.cli.connecting import service

    loaded = session.settings()

    async def work() -> Webhook:
        async with session.database(loaded) as conn:
            return await service(loaded).reveal_webhook(conn, session.org(loaded), name)

    webhooks.reveal(session.run(work()), as_json=as_json)


def described(row: Connection) -> dict[str, Any]:
    """A connection as JSON; it holds no secret."""
    return {
        "org": row.org_id,
        "name": row.name,
        "system": row.system,
        "url": row.url,
        "auth": row.auth,
        "settings": dict(row.settings),
        "state": row.state,
        "state_reason": row.state_reason,
        "option": row.option,
        "mode": row.mode,
        "delete_policy": row.delete_policy,
        "conflict_policy": row.conflict_policy,
        "conflict_policies": dict(row.conflict_policies),
        "retry_policy": row.retry_policy,
        "poll_interval_s": row.poll_interval_s,
        "poll_intervals": dict(row.poll_intervals),
        "full_read_every_s": row.full_read_every_s,
        "filters": dict(row.filters),
        "on_leave": row.on_leave,
        "fields": dict(row.fields),
        "concurrency": row.concurrency,
        "guard": dict(row.guard),
        "review_within_s": row.review_within_s,
        "budget": dict(row.budget),
        "allow_http": row.allow_http,
        "allow_private": row.allow_private,
        "http2": row.http2,
        "compress": row.compress,
        "gates": dict(row.gates),
        "epoch": row.epoch,
        "created_at": row.created_at,
    }


def _changed(row: Connection, *, as_json: bool) -> None:
    if as_json:
        show.as_json(described(row))
    else:
        show.say(f"{row.name} is {row.state}.")
