"""`dead-letters`: what could not be processed as it is."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from streams.cli import session, show
from streams.cli.examples import examples


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="See what could not be processed; nothing of it is lost.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command(
        "list", epilog=examples("syncline dead-letters list", "syncline dead-letters list --connection clinic")
    )(list_)
    group.command("show", epilog=examples("syncline dead-letters show 12", "syncline dead-letters show 12 --payload"))(
        show_
    )
    app.add_typer(group, name="dead-letters")


def list_(
    connection: Annotated[str | None, typer.Option(help="Only those of one connection.")] = None,
    closed: Annotated[bool, typer.Option("--closed", help="Also those that were redriven or dropped.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most to show.")] = 100,
    as_json: session.Json = False,
) -> None:
    """List dead letters, newest first."""
    from streams.store import operations

    loaded = session.settings()

    async def work() -> list[dict[str, Any]]:
        async with session.database(loaded) as conn:
            return await operations.dead_letters(conn, session.org(loaded), connection, closed=closed, limit=limit)

    rows = session.run(work())
    if as_json:
        show.as_json(rows)
        return
    columns = {
        "id": "ID", "created_at": "SINCE", "connection": "CONNECTION", "source": "SOURCE", "record_key": "RECORD",
        "code": "CODE", "cause": "CAUSE", "state": "STATE",
    }  # fmt: skip
    show.table(columns, rows, empty="No dead letters.")


def show_(
    number: Annotated[int, typer.Argument(metavar="ID", help="Number of the dead letter.")],
    payload: Annotated[
        bool, typer.Option("--payload", help="Print its content as it came: personal data; the audit keeps who looked.")
    ] = False,
    as_json: session.Json = False,
) -> None:
    """Show one dead letter."""
    from streams.store import operations

    loaded = session.settings()

    async def work() -> tuple[dict[str, Any], bytes | None]:
        async with session.database(loaded) as conn:
            org = session.org(loaded)
            found = await operations.dead_letter(conn, org, number)
            content = await operations.dead_letter_value(conn, org, number, session.actor()) if payload else None
            return found, content

    row, content = session.run(work())
    if as_json:
        show.as_json(row | ({"payload": content.decode(errors="replace")} if content is not None else {}))
        return
    if content is not None:
        sys.stdout.buffer.write(content)
        return
    show.pairs(row)
