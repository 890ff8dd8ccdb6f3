"""`keys`: with which programs bring events through `POST /v1/events`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from streams.cli import session, show
from streams.cli.examples import examples

KeyName = Annotated[str, typer.Argument(help="Name of the key.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Make and revoke the keys with which programs bring events.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command(
        "create", epilog=examples("syncline keys create nightly-export", "syncline keys create etl --connection clinic")
    )(create)
    group.command("list", epilog=examples("syncline keys list"))(list_)
    group.command("revoke", epilog=examples("syncline keys revoke nightly-export"))(revoke)
    app.add_typer(group, name="keys")


def create(
    name: KeyName,
    connection: Annotated[str | None, typer.Option(help="The only connection it is for; default: all.")] = None,
    as_json: session.Json = False,
) -> None:
    """Make a key and show it.

    It is shown this once; only its hash is kept. Send it as `Authorization: Bearer …`.
    """
    from streams import clock
    from streams.store import api_keys

    loaded = session.settings()
    secret = api_keys.PREFIX + clock.token()

    async def work() -> None:
        async with session.database(loaded) as conn:
            by = session.by(loaded)
            await api_keys.create(conn, by.org_id, name, secret, connection=connection, by=by.actor, now=by.now)

    session.run(work())
    told = {"name": name, "connection": connection, "key": secret}
    if as_json:
        show.as_json(told)
    else:
        show.pairs(told)


def list_(as_json: session.Json = False) -> None:
    """List the keys, without what opens anything."""
    from streams.store import api_keys

    loaded = session.settings()

    async def work() -> list[dict[str, Any]]:
        async with session.database(loaded) as conn:
            return await api_keys.list_all(conn, session.org(loaded))

    rows = session.run(work())
    if as_json:
        show.as_json(rows)
        return
    columns = {
        "name": "NAME", "connection": "FOR", "created_at": "MADE", "created_by": "BY", "used_at": "LAST USED",
        "revoked_at": "REVOKED",
    }  # fmt: skip
    show.table(columns, rows, empty="No keys. Make one with `syncline keys create`.")


def revoke(name: KeyName) -> None:
    """End a key at once."""
    from streams.store import api_keys

    loaded = session.settings()

    async def work() -> None:
        async with session.database(loaded) as conn:
            by = session.by(loaded)
            await api_keys.revoke(conn, by.org_id, name, by=by.actor, now=by.now)

    session.run(work())
    show.say(f"{name} opens nothing any more.")
