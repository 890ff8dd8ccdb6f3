"""`connections`: what is connected, and pausing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import session, show
from streams.cli.examples import examples

if TYPE_CHECKING:
    from streams.connections import Webhook
    from streams.store.connections import Connection

MASK = "••••••••"


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="See, pause and resume connections.", no_args_is_help=True, rich_markup_mode=None)
    group.command("list", epilog=examples("syncline connections list --json"))(list_)
    group.command("show", epilog=examples("syncline connections show clinic"))(show_)
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


def show_(name: session.Name, as_json: session.Json = False) -> None:
    """Show one connection; secrets are masked."""
    from streams.store import connections, credentials

    loaded = session.settings()

    async def work() -> dict[str, Any]:
        async with session.database(loaded) as conn:
            org = session.org(loaded)
            row = await connections.load_connection(conn, org, name)
            names = [each.name for each in await credentials.list_names(conn, org, name)]
            return described(row) | {"secrets": dict.fromkeys(names, MASK)}

    told = session.run(work())
    if as_json:
        show.as_json(told)
    else:
        show.pairs(told)


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

    found = session.run(work())
    told = {"url": found.url.get_secret_value(), "secret": found.secret.get_secret_value()}
    if as_json:
        show.as_json(told)
    else:
        show.pairs(told)


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
        "retry_policy": row.retry_policy,
        "poll_interval_s": row.poll_interval_s,
        "allow_http": row.allow_http,
        "gates": dict(row.gates),
        "epoch": row.epoch,
        "created_at": row.created_at,
    }


def _changed(row: Connection, *, as_json: bool) -> None:
    if as_json:
        show.as_json(described(row))
    else:
        show.say(f"{row.name} is {row.state}.")
