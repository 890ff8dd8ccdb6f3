"""`push`, `resync`, `intents`: what is to be sent, and sending it because a person says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from streams.cli import session, show
from streams.cli.examples import examples

Connection = Annotated[str | None, typer.Option("--connection", help="Only at this connection.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Most to show.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog=examples(
            "syncline push --all clinic",
            "syncline push person_01h45ytscbebyvny4gc8cr8ma2 --connection clinic",
            "syncline push person_01h45ytscbebyvny4gc8cr8ma2 --connection clinic --link 1894",
        )
    )(push)
    app.command(epilog=examples("syncline resync clinic"))(resync)
    app.command(
        epilog=examples(
            "syncline intents", "syncline intents --state WAITING --connection clinic", "syncline intents --json"
        )
    )(intents)


def push(
    what: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of ours; with --all the connection's name.")],
    *,
    connection: Connection = None,
    link: Annotated[
        str | None, typer.Option(metavar="EXTERNAL_ID", help="First link it with this record of theirs.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every row of the types this connection takes.")] = False,
    as_json: session.Json = False,
) -> None:
    """Push chosen rows, or all that exist already.

    Chosen rows go even where nothing unlinked is pushed by itself (option 3). With --link the row and their record are
    linked, and their record is brought to our state. What the other side holds already is not sent again.
    """
    if all_:
        if len(what) != 1 or connection or link:
            raise typer.BadParameter("--all takes the name of one connection and nothing else")
        _plan(what[0], "push_all", as_json=as_json)
        return
    from connectors import registry
    from streams import selected
    from streams.store.migrate import model_of

    if not any("_" in each for each in what):
        raise typer.BadParameter("say what to push: ids of ours, or --all with a connection's name")
    loaded = session.settings()
    systems = selected.Systems(model_of(loaded), lambda system: registry.find(system).manifest)

    async def work() -> list[dict[str, Any]]:
        async with session.database(loaded) as conn:
            by = session.by(loaded)
            return await selected.push(conn, by, what, systems, connection=connection, link=link)

    told = session.run(work())
    if as_json:
        show.as_json(told)
        return
    for row in told:
        show.say(f"{row['entity_id']} → {row['connection']}: {_SAID.get(row['state'], row['state'])}")


_SAID = {
    "PENDING": "goes now",
    "SENDING": "is being sent; the newest state follows",
    "HELD": "is held, see `syncline why`",
    "RETRY": "is being retried, with the newest state",
    "UNKNOWN": "waits until it is known what became of the last write",
    "PARKED": "is parked: `syncline parked retry` sends it, or --link names their record",
}


def resync(name: session.Name, as_json: session.Json = False) -> None:
    """Plan every row anew, after filters, fields or other choices changed.

    Rows that were changed in bulk are sent, rows that left the filter leave there. Live changes go first, and what they
    hold already costs no call.
    """
    _plan(name, "resync", as_json=as_json)


def _plan(name: str, act: str, *, as_json: bool) -> None:
    from streams.cli.connecting import service

    loaded = session.settings()

    async def work() -> int:
        async with session.database(loaded) as conn:
            made = service(loaded)
            plan = made.push_all if act == "push_all" else made.resync
            return await plan(conn, session.org(loaded), name)

    planned = session.run(work())
    if as_json:
        show.as_json({"connection": name, "planned": planned})
    else:
        show.say(f"{planned} pushes planned; watch them with `syncline lanes`.")


def intents(
    *,
    connection: Connection = None,
    state: Annotated[
        str | None, typer.Option(help="PENDING, HELD, WAITING, SENDING, RETRY, UNKNOWN, DONE, PARKED or DEAD.")
    ] = None,
    entity: Annotated[str | None, typer.Option(metavar="ID", help="Only of this root, also when it is done.")] = None,
    limit: Limit = 100,
    as_json: session.Json = False,
) -> None:
    """List what is to be sent and is not there yet, and why not."""
    from streams.store import operations

    loaded = session.settings()
    wanted = state.upper() if state else None

    async def work() -> list[dict[str, Any]]:
        async with session.database(loaded) as conn:
            return await operations.pushes(
                conn, session.org(loaded), connection, state=wanted, entity=entity, limit=limit
            )

    rows = session.run(work())
    if as_json:
        show.as_json(rows)
    else:
        table(rows, empty="Nothing waits: every connection has what it should.")


def table(rows: list[dict[str, Any]], *, empty: str) -> None:
    """Wishes as a table."""
    columns = {
        "entity_id": "RECORD", "connection": "CONNECTION", "state": "STATE", "why": "WHY", "attempt": "TRY",
        "not_before": "NEXT", "planned_at": "PLANNED",
    }  # fmt: skip
    show.table(columns, [row | {"why": why(row)} for row in rows], empty=empty)


def why(row: Mapping[str, Any]) -> str:
    """Why a wish is where it is, in a few words."""
    if row["state"] == "WAITING" and row["waits_for"]:
        return f"waiting for {', '.join(row['waits_for'])}"
    if row["state"] == "HELD" and row["hold_id"] is not None:
        return f"mass change, hold {row['hold_id']}"
    if row["error_code"] and row["error_cause"]:
        return f"{row['error_cause']} ({row['error_code']})"
    return str(row["error_code"] or row["reason"])
