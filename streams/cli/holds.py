"""`holds`: mass changes that wait for a person's approval."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from streams.cli import session, show
from streams.cli.examples import examples

Number = Annotated[int, typer.Argument(metavar="ID", help="Number of the hold.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Approve or drop mass changes that were held.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("list", epilog=examples("syncline holds list", "syncline holds list --closed"))(list_)
    group.command("approve", epilog=examples("syncline holds approve 3"))(approve)
    group.command("drop", epilog=examples("syncline holds drop 3"))(drop)
    app.add_typer(group, name="holds")


def list_(
    *,
    closed: Annotated[bool, typer.Option("--closed", help="Also those that were decided.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most to show.")] = 100,
    as_json: session.Json = False,
) -> None:
    """List mass changes on hold: what, where, how many records."""
    from streams.store import operations

    loaded = session.settings()

    async def work() -> list[dict[str, Any]]:
        async with session.database(loaded) as conn:
            return await operations.holds(conn, session.org(loaded), closed=closed, limit=limit)

    rows = session.run(work())
    if as_json:
        show.as_json(rows)
        return
    columns = {
        "id": "ID", "opened_at": "SINCE", "connection": "CONNECTION", "kind": "WHAT", "entity_type": "OF",
        "records": "RECORDS", "bound": "ALLOWED IN 10 MIN", "state": "STATE", "closed_by": "BY",
    }  # fmt: skip
    show.table(columns, rows, empty="No mass change is held.")


def approve(number: Number, as_json: session.Json = False) -> None:
    """Let a mass change go on; its records are not counted again."""
    _decide(number, "approved", as_json=as_json)


def drop(number: Number, as_json: session.Json = False) -> None:
    """Do without a mass change.

    Of deletes: our rows are gone, and theirs stay. Of their_deletes: their records are gone, and ours stay. Of updates:
    they keep the old values until a record changes again.
    """
    _decide(number, "dropped", as_json=as_json)


def _decide(number: int, decision: Literal["approved", "dropped"], *, as_json: bool) -> None:
    from streams import queues

    loaded = session.settings()

    async def work() -> dict[str, Any]:
        async with session.database(loaded) as conn:
            return await queues.decide_hold(conn, session.by(loaded), number, decision)

    told = session.run(work())
    if as_json:
        show.as_json(told | {"id": number, "state": decision})
        return
    what = f"{told['records']} {told['kind']} of {told['entity_type']}"
    if told["kind"] == "their_deletes":
        come = "come here now" if decision == "approved" else "are dropped: their records are gone, and our rows stay"
        show.say(f"{told['records']} deletes of {told['entity_type']} by {told['connection']} {come}.")
    elif decision == "approved":
        show.say(f"{what} go to {told['connection']} now.")
    elif told["kind"] == "deletes":
        show.say(f"{what} are dropped: our rows are gone, and those of {told['connection']} stay.")
    else:
        show.say(f"{what} are dropped: {told['connection']} keeps the old values until a record changes again.")
