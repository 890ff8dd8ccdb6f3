"""`lanes`: how the calls of each connection go, and holding them back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from streams.cli import choosing, session, show
from streams.cli.connections import change, pause, resume
from streams.cli.examples import examples


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(rich_markup_mode=None)
    group.callback(
        invoke_without_command=True,
        epilog=examples("syncline lanes", "syncline lanes pause clinic", "syncline lanes budget clinic 100/20s"),
    )(lanes)
    group.command("pause", epilog=examples("syncline lanes pause clinic --reason 'their upgrade'"))(pause)
    group.command("resume", epilog=examples("syncline lanes resume clinic"))(resume)
    group.command(
        "budget", epilog=examples("syncline lanes budget clinic 100/20s", "syncline lanes budget clinic learned")
    )(budget)
    app.add_typer(group, name="lanes")


def lanes(context: typer.Context, as_json: session.Json = False) -> None:
    """See how each connection's calls go.

    Queue, calls in flight, budget and breaker.
    """
    if context.invoked_subcommand is not None:
        return
    from streams.store import operations

    loaded = session.settings()

    async def work() -> list[dict[str, Any]]:
        async with session.database(loaded) as conn:
            return await operations.lanes(conn, session.org(loaded), now=session.now())

    rows = session.run(work())
    if as_json:
        show.as_json(rows)
        return
    columns = {
        "name": "LANE", "state": "STATE", "in_flight": "IN FLIGHT", "queued": "QUEUE", "oldest": "OLDEST",
        "waiting": "WAITING", "held": "HELD", "parked": "PARKED", "used": "BUDGET", "breaker": "BREAKER",
    }  # fmt: skip
    show.table(columns, list(map(_line, rows)), empty="No lanes: nothing is connected.")


def budget(
    name: session.Name,
    calls: Annotated[str, typer.Argument(metavar="CALLS/TIME", help="Such as 100/20s; learned: only what they tell.")],
    as_json: session.Json = False,
) -> None:
    """Allow a connection so many calls.

    What its system tells beyond that counts too: the lower of the two.
    """
    change(name, {"budget": choosing.budget(calls)}, as_json=as_json)


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    reason = f" ({row['state_reason']})" if row["state_reason"] else ""
    broken = row["breakers"]
    return {
        **row,
        "state": row["state"] + reason,
        "oldest": show.span(row["oldest_s"]),
        "used": ", ".join(map(_used, row["budgets"])),
        "breaker": f"open: {broken[0]['cause']} ({broken[0]['code']})" if broken else "closed",
    }


def _used(each: Mapping[str, Any]) -> str:
    until = f", none before {show.cell(each['blocked_until'])}" if each["blocked_until"] else ""
    if each["limit"] is None:
        return until.removeprefix(", ")
    return f"{each['used']} of {each['limit']} per {each['period']:g} s ({each['source']}){until}"
