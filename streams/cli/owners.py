"""`reviews assign` and `conflicts assign`: who sees to what a person is asked."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli import session, show
from streams.cli.examples import examples
from streams.cli.pushing import Connection

To = Annotated[str | None, typer.Option("--to", metavar="NAME", help="A person or a team.")]
Nobody = Annotated[bool, typer.Option("--nobody", help="Take it from whoever has it.")]


def register_review(group: typer.Typer) -> None:
    """Add the command to `reviews`."""
    group.command("assign", epilog=examples("syncline reviews assign 12 --to ann"))(review)


def register_conflict(group: typer.Typer) -> None:
    """Add the command to `conflicts`."""
    one = "person_01h45ytscbebyvny4gc8cr8ma2"
    group.command("assign", epilog=examples(f"syncline conflicts assign {one} --to ann"))(conflict)


def review(
    number: Annotated[int, typer.Argument(metavar="ID", help="Number of the item.")],
    *,
    to: To = None,
    nobody: Nobody = False,
    as_json: session.Json = False,
) -> None:
    """Say who sees to an item."""
    from streams import owners

    _check(to, nobody=nobody)
    loaded = session.settings()

    async def work() -> None:
        async with session.database(loaded) as conn:
            await owners.assign_review(conn, session.by(loaded), number, to)

    session.run(work())
    if as_json:
        show.as_json({"id": number, "owner": to})
    else:
        show.say(f"Review item {number} belongs to {to or 'nobody'}.")


def conflict(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Our id of the record.")],
    *,
    to: To = None,
    nobody: Nobody = False,
    connection: Connection = None,
    as_json: session.Json = False,
) -> None:
    """Say who sees to the conflicts of a record."""
    from streams import owners

    _check(to, nobody=nobody)
    loaded = session.settings()

    async def work() -> list[str]:
        async with session.database(loaded) as conn:
            return await owners.assign_conflict(conn, session.by(loaded), id_, connection, to)

    names = session.run(work())
    if as_json:
        show.as_json({"entity_id": id_, "connections": names, "owner": to})
    else:
        show.say(f"What {', '.join(names)} asks about {id_} belongs to {to or 'nobody'}.")


def _check(to: str | None, *, nobody: bool) -> None:
    if (to is not None) is nobody:
        raise typer.BadParameter("say who it belongs to: either --to NAME or --nobody")
