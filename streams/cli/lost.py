"""`conflicts log` and `conflicts restore`: values that lost."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import typer

from streams.cli import session, show, spans
from streams.cli.examples import examples
from streams.cli.pushing import Connection, Limit


def register(group: typer.Typer) -> None:
    """Add the commands to the group `conflicts`."""
    group.command(
        "log",
        epilog=examples(
            "syncline conflicts log person_01h45ytscbebyvny4gc8cr8ma2",
            "syncline conflicts log --connection clinic --since 7d",
        ),
    )(log)
    group.command("restore", epilog=examples("syncline conflicts restore 12"))(restore)


def log(
    entity: Annotated[str | None, typer.Argument(metavar="ID", help="Our id of one record.")] = None,
    *,
    connection: Connection = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="2026-03-01, or 7d for the last week.")] = None,
    before: Annotated[int | None, typer.Option(min=0, metavar="ID", help="Only older ones than this number.")] = None,
    limit: Limit = 100,
    as_json: session.Json = False,
) -> None:
    """List values that lost, by a rule or a person, the newest first."""
    from streams import restores
    from streams.restores import Losers

    loaded = session.settings()
    which = Losers(entity, connection, spans.moment(since, "--since", session.now()), before, limit)

    async def work() -> list[dict[str, Any]]:
        async with session.database(loaded) as conn:
            return await restores.listed(conn, session.org(loaded), which)

    rows = session.run(work())
    if as_json:
        show.as_json(rows)
        return
    if sys.stdout.isatty():
        _tell(rows)
        return
    columns = {"id": "ID", "decided_at": "WHEN", "connection": "CONNECTION", "entity_id": "RECORD"}
    if entity is not None:
        del columns["entity_id"]
    columns |= {"field": "FIELD", "lost": "LOST", "kept": "WON", "why": "RULE", "restored_at": "RESTORED"}
    show.table(columns, list(map(_line, rows)), empty="No value has lost.")


def restore(
    number: Annotated[int, typer.Argument(metavar="ID", help="Its number, as in `conflicts log`.")],
    side: Annotated[
        str | None, typer.Option(metavar="SIDE", help="ours or theirs, where a third value won over both.")
    ] = None,
    as_json: session.Json = False,
) -> None:
    """Write a value that lost back.

    It is a change of ours then, and goes to every system. What it replaces is logged in its turn.
    """
    from streams import restores
    from streams.store.migrate import model_of

    if side not in (None, "ours", "theirs"):
        raise typer.BadParameter("ours or theirs", param_hint="--side")
    loaded = session.settings()

    async def work() -> dict[str, Any]:
        async with session.database(loaded) as conn:
            whose = cast(Literal["ours", "theirs"] | None, side)
            return await restores.restore(conn, session.by(loaded), number, model_of(loaded), whose)

    told = session.run(work())
    if as_json:
        show.as_json(told)
    elif told["changed"]:
        show.say(f"{told['entity_id']} has its {told['field']} back; it goes to every system.")
    else:
        show.say(f"{told['entity_id']} has that {told['field']} already.")


def shown(field: str, value: Any) -> str:
    """A value of a field or a part as a person reads it; empty text is told from nothing."""
    if "/" in field and value is None:
        return "(removed)"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown('', value[name])}" for name in sorted(value) if value[name] is not None)
    return '""' if value == "" else show.cell(value)


def _tell(rows: Sequence[Mapping[str, Any]]) -> None:
    """Values may be long, so on a terminal each has lines of its own."""
    if not rows:
        show.say("No value has lost.")
    for row in rows:
        who = show.cell(row["decided_by"]) if row["decided_by"] else f"the rule {row['rule']}"
        show.say(f"{row['id']}  {show.cell(row['decided_at'])}  {row['entity_id']}  {row['field']}")
        show.say(f"   at {row['connection']}, decided by {who}")
        for side in ("ours", "theirs"):
            end = "won " if side == row["winner"] else "lost"
            show.say(f"   {end}  {side:<6}  {shown(row['field'], row[side])}")
        if row["winner"] == "neither":
            show.say("   won   another value")
        if row["restored_at"]:
            show.say(f"   restored {show.cell(row['restored_at'])} by {show.cell(row['restored_by'])}")


def _line(row: dict[str, Any]) -> dict[str, Any]:
    told = {side: f"{side}: {shown(row['field'], row[side])}" for side in ("ours", "theirs")}
    losers = [side for side in told if side != row["winner"]]
    rule = row["rule"] + (f" ({row['decided_by']})" if row["decided_by"] else "")
    return row | {"lost": [told[side] for side in losers], "kept": told.get(row["winner"], "another"), "why": rule}
