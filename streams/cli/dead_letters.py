"""`dead-letters`: what could not be processed as it is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Collection
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import session, show
from streams.cli.examples import examples

if TYPE_CHECKING:
    from streams.redrives import Letters, Redriven, Redrives
    from streams.settings import Settings

Number = Annotated[int, typer.Argument(metavar="ID", help="Number of the dead letter.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="See what could not be processed, and try it again; nothing of it is lost.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command(
        "list", epilog=examples("syncline dead-letters list", "syncline dead-letters list --connection clinic")
    )(list_)
    group.command("show", epilog=examples("syncline dead-letters show 12", "syncline dead-letters show 12 --payload"))(
        show_
    )
    group.command(
        "redrive",
        epilog=examples(
            "syncline dead-letters redrive 12",
            "syncline dead-letters redrive --connection clinic --code invalid",
            "syncline dead-letters redrive --source push --yes",
        ),
    )(redrive)
    group.command("drop", epilog=examples("syncline dead-letters drop 12"))(drop)
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
    number: Number,
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


def redrive(
    number: Annotated[int | None, typer.Argument(metavar="ID", help="Number of one; or name a kind below.")] = None,
    *,
    connection: Annotated[str | None, typer.Option(help="All of one connection.")] = None,
    code: Annotated[str | None, typer.Option(help="All with this code.")] = None,
    source: Annotated[str | None, typer.Option(help="All from here: push, inbound.events, cdc.canon.person …")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: session.Json = False,
) -> None:
    """Try one again, or all of a kind.

    Those of a kind are counted first. A push sends the row as it is now, never an older state; a change of ours plans
    its record anew; an event of theirs is published again.
    """
    if (number is None) is not any((connection, code, source)):
        raise typer.BadParameter("give the number of one, or --connection, --code or --source")
    if number is not None:
        _redrive_one(number, as_json=as_json)
        return
    from streams.redrives import Letters

    _redrive_many(Letters(connection, code, source), yes=yes, as_json=as_json)


def drop(number: Number, as_json: session.Json = False) -> None:
    """Close one for good.

    Of a push: they keep what they have until the record changes again.
    """
    from streams import redrives

    loaded = session.settings()

    async def work() -> None:
        async with session.database(loaded) as conn:
            await redrives.drop_letter(conn, session.by(loaded), number)

    session.run(work())
    if as_json:
        show.as_json({"id": number, "state": "dropped"})
    else:
        show.say(f"Dead letter {number} is dropped.")


def _redrive_one(number: int, *, as_json: bool) -> None:
    from streams import redrives
    from streams.store import operations

    loaded = session.settings()

    async def work() -> None:
        async with session.database(loaded) as conn:
            letter = await operations.dead_letter(conn, session.org(loaded), number)
            async with _how(loaded, [letter["source"]]) as how:
                await redrives.redrive_one(conn, session.by(loaded), number, how)

    session.run(work())
    if as_json:
        show.as_json({"id": number, "state": "redriven"})
    else:
        show.say(f"Dead letter {number} is on its way again.")


def _redrive_many(which: Letters, *, yes: bool, as_json: bool) -> None:
    from streams import redrives

    loaded = session.settings()

    async def count() -> dict[str, int]:
        async with session.database(loaded) as conn:
            return dict(await redrives.count_letters(conn, session.by(loaded), which))

    async def work(sources: Collection[str]) -> Redriven:
        async with session.database(loaded) as conn, _how(loaded, sources) as how:
            return await redrives.redrive_many(conn, session.by(loaded), which, how)

    counted = session.run(count())
    if not as_json:
        show.say(f"{sum(counted.values())} dead letters: {show.cell(counted)}")
    if counted and not yes:
        if as_json or not sys.stdin.isatty():
            raise typer.BadParameter(f"this tries {sum(counted.values())} dead letters again; say --yes")
        typer.confirm("Try them again?", abort=True)
    told = session.run(work(counted))
    if as_json:
        show.as_json({"redriven": told.redriven, "left": told.left})
        return
    show.say(f"{told.redriven} are on their way again.")
    for cause, left in told.left.items():
        show.say(f"{left} stay: {cause}.")


@contextlib.asynccontextmanager
async def _how(loaded: Settings, sources: Collection[str]) -> AsyncIterator[Redrives]:
    """How to try again; Kafka is asked only where an event of theirs is among them."""
    from connectors import registry
    from streams.inbound import redrive as inbound
    from streams.redrives import Redrives
    from streams.store.migrate import model_of
    from streams.topics import INBOUND

    async with contextlib.AsyncExitStack() as closing:
        republish = await closing.enter_async_context(inbound.opened(loaded)) if INBOUND in sources else None
        yield Redrives(model_of(loaded), lambda system: registry.find(system).manifest, republish)
