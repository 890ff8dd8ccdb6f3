"""`parked`: writes that need a person's decision; their order is kept."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from streams.cli import pushing, session, show
from streams.cli.examples import examples

Id = Annotated[str, typer.Argument(metavar="ID", help="Our id of the record.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Decide about writes that nobody else can decide about.", no_args_is_help=True, rich_markup_mode=None
    )
    example = "person_01h45ytscbebyvny4gc8cr8ma2"
    group.command("list", epilog=examples("syncline parked list", "syncline parked list --connection clinic"))(list_)
    group.command("show", epilog=examples(f"syncline parked show {example}"))(show_)
    group.command(
        "retry",
        epilog=examples(f"syncline parked retry {example}", f"syncline push {example} --link 1894  (theirs is there)"),
    )(retry)
    group.command("drop", epilog=examples(f"syncline parked drop {example} --connection clinic"))(drop)
    app.add_typer(group, name="parked")


def list_(connection: pushing.Connection = None, limit: pushing.Limit = 100, as_json: session.Json = False) -> None:
    """List parked writes."""
    rows = _parked(connection, None, limit)
    if as_json:
        show.as_json(rows)
    else:
        pushing.table(rows, empty="Nothing is parked.")


def show_(id_: Id, connection: pushing.Connection = None, as_json: session.Json = False) -> None:
    """Show a parked write: what was tried, and what is not known."""
    from schemas.problems import Problem

    rows = _parked(connection, id_, 100)
    if not rows:
        raise Problem("not_parked", f"{id_} is not parked", "See what is with `syncline parked list`.")
    if as_json:
        show.as_json(rows)
        return
    for row in rows:
        show.pairs(row)


def retry(id_: Id, connection: pushing.Connection = None, as_json: session.Json = False) -> None:
    """Send it, as the row is now.

    Of a create in doubt: look first whether their side has the record, and if it has, link the two with `syncline push
    ID --link`: a retry creates it once more.
    """
    _decide("retry", id_, connection, as_json=as_json)


def drop(id_: Id, connection: pushing.Connection = None, as_json: session.Json = False) -> None:
    """Do without it.

    They keep what they have until the record changes again.
    """
    _decide("drop", id_, connection, as_json=as_json)


def _parked(connection: str | None, entity: str | None, limit: int) -> list[dict[str, Any]]:
    from streams.store import operations

    loaded = session.settings()

    async def work() -> list[dict[str, Any]]:
        async with session.database(loaded) as conn:
            org = session.org(loaded)
            return await operations.pushes(conn, org, connection, state="PARKED", entity=entity, limit=limit)

    return session.run(work())


def _decide(act: str, entity_id: str, connection: str | None, *, as_json: bool) -> None:
    from streams import queues

    loaded = session.settings()
    decide = queues.retry_parked if act == "retry" else queues.drop_parked

    async def work() -> str:
        async with session.database(loaded) as conn:
            return await decide(conn, session.by(loaded), entity_id, connection)

    name = session.run(work())
    if as_json:
        show.as_json({"entity_id": entity_id, "connection": name, "act": act})
    elif act == "retry":
        show.say(f"{entity_id} goes to {name} now, as it is now.")
    else:
        show.say(f"{name} goes without it until {entity_id} changes again.")
