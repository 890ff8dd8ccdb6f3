"""`reviews`: what the pipeline asks a person to look at."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from streams.cli import owners, session, show
from streams.cli.examples import examples
from streams.cli.pushing import Connection, Limit

Number = Annotated[int, typer.Argument(metavar="ID", help="Number of the item.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="See what was refused, is in doubt or has no partner, and decide it.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command(
        "list", epilog=examples("syncline reviews list", "syncline reviews list --connection clinic --kind constraint")
    )(list_)
    group.command("show", epilog=examples("syncline reviews show 12", "syncline reviews show 12 --payload"))(show_)
    group.command("retry", epilog=examples("syncline reviews retry 12"))(retry)
    one = "person_01h45ytscbebyvny4gc8cr8ma2"
    group.command(
        "decide",
        epilog=examples(
            f"syncline reviews decide 12 --link {one}", "syncline reviews decide 12 --new --note 'her twin'"
        ),
    )(decide)
    group.command("close", epilog=examples("syncline reviews close 12 --note 'a test record of theirs'"))(close)
    owners.register_review(group)
    app.add_typer(group, name="reviews")


def list_(
    *,
    connection: Connection = None,
    kind: Annotated[str | None, typer.Option(help="Only of this kind: constraint, unlinked …")] = None,
    closed: Annotated[bool, typer.Option("--closed", help="Also those that were closed.")] = False,
    after: Annotated[int | None, typer.Option(min=0, metavar="ID", help="The page behind this number.")] = None,
    limit: Limit = 100,
    as_json: session.Json = False,
) -> None:
    """List what waits for a look, what is due first."""
    from streams import reviews
    from streams.reviews import Which

    loaded, now = session.settings(), session.now()

    async def work() -> list[dict[str, Any]]:
        async with session.database(loaded) as conn:
            which = Which(connection, kind, closed, after, limit)
            return await reviews.listed(conn, session.org(loaded), which, now=now)

    rows = session.run(work())
    if as_json:
        show.as_json(rows)
        return
    columns = {
        "id": "ID", "created_at": "SINCE", "due": "DUE", "owner": "OWNER", "connection": "CONNECTION", "kind": "KIND",
        "entity_type": "OF", "subject": "RECORD", "rule": "RULE",
    }  # fmt: skip
    if closed:
        columns |= {"closed_at": "CLOSED", "closed_by": "BY", "decision": "DECISION", "note": "NOTE"}
    lines = [row | {"rule": row["detail"].get("constraint"), "due": _due(row, now)} for row in rows]
    show.table(columns, lines, empty="There is nothing to look at.")


def show_(
    number: Number,
    payload: Annotated[
        bool, typer.Option("--payload", help="Print their record too: personal data; the audit keeps who looked.")
    ] = False,
    as_json: session.Json = False,
) -> None:
    """Show one item."""
    from streams import reviews

    loaded = session.settings()

    async def work() -> tuple[dict[str, Any], Any]:
        async with session.database(loaded) as conn:
            found = await reviews.show(conn, session.org(loaded), number, now=session.now())
            return found, await reviews.payload(conn, session.by(loaded), number) if payload else None

    row, record = session.run(work())
    if as_json:
        show.as_json(row | ({"payload": record} if payload else {}))
        return
    detail = row.pop("detail")
    show.pairs({name: value for name, value in (row | detail).items() if value is not None})
    if row["kind"] == "match" and not (row["closed_at"] or row["decision"]):
        show.say(f"→ syncline reviews decide {number} --link ENTITY_ID, or --new")
    if payload:
        show.say("")
        show.as_json(record)


def retry(number: Number, as_json: session.Json = False) -> None:
    """Apply the event once more, after the row or the rule was changed.

    The item closes by itself when that succeeds; otherwise it stays, with the newest reason.
    """
    from streams import reviews
    from streams.inbound import redrive

    loaded = session.settings()

    async def work() -> None:
        async with session.database(loaded) as conn:
            row = await reviews.show(conn, session.org(loaded), number, now=session.now())
            if not row["can_retry"] or row["closed_at"] or row["decision"]:
                await reviews.retry(
                    conn, session.by(loaded), number, None
                )  # says why not; Kafka is not needed for that
            async with redrive.opened(loaded) as republish:
                await reviews.retry(conn, session.by(loaded), number, republish)

    session.run(work())
    if as_json:
        show.as_json({"id": number, "state": "retried"})
    else:
        show.say(f"The event of {number} is on its way again; see `syncline reviews list`.")


def decide(
    number: Number,
    *,
    link: Annotated[
        str | None, typer.Option("--link", metavar="ENTITY_ID", help="It is this one of ours: link the two.")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="It is none of ours: make one.")] = False,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Why, for those who ask later.")] = None,
    as_json: session.Json = False,
) -> None:
    """Say who a record is that was matched in doubt.

    What was kept of it is applied accordingly in a moment, and nobody is asked about the record again.
    """
    from streams import reviews

    if (link is not None) is new:
        raise typer.BadParameter("say who it is: either --link ENTITY_ID or --new")
    loaded = session.settings()

    async def work() -> None:
        async with session.database(loaded) as conn:
            await reviews.decide(conn, session.by(loaded), number, link, note)

    session.run(work())
    if as_json:
        show.as_json({"id": number, "state": "decided", "decision": "new" if new else "link", "entity_id": link})
    else:
        who = f"is {link}" if link else "is somebody new"
        show.say(f"The record of {number} {who}; it is applied in a moment.")


def close(
    number: Number,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Why, for those who ask later.")] = None,
    as_json: session.Json = False,
) -> None:
    """Close one for good: its event is not applied.

    They keep what they have; a later event of the same record is applied as always.
    """
    from streams import reviews

    loaded = session.settings()

    async def work() -> None:
        async with session.database(loaded) as conn:
            await reviews.close(conn, session.by(loaded), number, note)

    session.run(work())
    if as_json:
        show.as_json({"id": number, "state": "closed"})
    else:
        show.say(f"Review item {number} is closed.")


def _due(row: dict[str, Any], now: datetime) -> str | None:
    waits = row["closed_at"] is None and row["decision"] is None
    return show.due(row["due_at"], now) if waits else None
