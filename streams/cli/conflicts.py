"""`conflicts`: what both sides changed, and a person decides."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from streams.cli import conflict_view, lost, owners, session, show, spans
from streams.cli.examples import examples
from streams.cli.pushing import Connection

if TYPE_CHECKING:
    from schemas.model import Model
    from streams.conflict_cases import Case
    from streams.conflict_desk import Answer, Choice
    from streams.settings import Settings

Id = Annotated[str, typer.Argument(metavar="ID", help="Our id of the record.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="See what both sides changed, decide it, and bring back what lost.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    one = "person_01h45ytscbebyvny4gc8cr8ma2"
    group.command(
        "list",
        epilog=examples(
            "syncline conflicts list", "syncline conflicts list --older-than 2d", "syncline conflicts list --counts"
        ),
    )(list_)
    group.command("show", epilog=examples(f"syncline conflicts show {one}"))(show_)
    group.command(
        "resolve",
        epilog=examples(
            f"syncline conflicts resolve {one} --seen 3fa2b4c1d2e3 --take theirs",
            f"syncline conflicts resolve {one} --ours first_name --set last_name=Lee --note 'asked her'",
        ),
    )(resolve)
    owners.register_conflict(group)
    lost.register(group)
    app.add_typer(group, name="conflicts")


def list_(
    *,
    connection: Connection = None,
    entity_type: Annotated[str | None, typer.Option("--type", help="Only of this type, such as person.")] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only what waits longer: 30min, 2h, 7d.")
    ] = None,
    after: Annotated[int, typer.Option(min=0, metavar="ID", help="The page behind this id, as --json has it.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most to show.")] = 100,
    counts: Annotated[bool, typer.Option("--counts", help="Only how many, by connection and field.")] = False,
    as_json: session.Json = False,
) -> None:
    """List records that wait for a decision, what is due first."""
    from streams import conflict_cases
    from streams.conflict_cases import Wanted

    loaded, now = session.settings(), session.now()
    wanted = Wanted(connection, entity_type, spans.span(older_than, "--older-than"), after, limit)

    async def work() -> list[dict[str, Any]]:
        async with session.database(loaded) as conn:
            org = session.org(loaded)
            if counts:
                return await conflict_cases.counts(conn, org, now=now)
            return await conflict_cases.listed(conn, org, _model(loaded), wanted, now=now)

    rows = session.run(work())
    if as_json:
        show.as_json(rows)
    elif counts:
        columns = {"connection": "CONNECTION", "entity_type": "OF", "field": "FIELD", "count": "OPEN", "age": "OLDEST"}
        show.table(columns, [row | {"age": show.span(row["oldest_s"])} for row in rows], empty="No conflict is open.")
    else:
        columns = {
            "age": "WAITS", "due": "DUE", "owner": "OWNER", "connection": "AT", "entity_id": "RECORD", "name": "NAME",
            "asked": "FIELDS",
        }  # fmt: skip
        show.table(columns, [_line(row, now) for row in rows], empty="No conflict is open.", whole=("entity_id",))


def show_(id_: Id, connection: Connection = None, as_json: session.Json = False) -> None:
    """Show both sides of a record, field by field, and how to decide."""
    cases = _cases(id_, connection)
    if as_json:
        show.as_json([case.as_json() for case in cases])
        return
    for number, case in enumerate(cases):
        if number:
            show.say(" ")
        conflict_view.tell(case)
        conflict_view.tell_how(case, named=len(cases) > 1)


def resolve(
    id_: Id,
    *,
    take: Annotated[str | None, typer.Option(metavar="SIDE", help="ours or theirs, for all fields not named.")] = None,
    ours: Annotated[list[str] | None, typer.Option(metavar="FIELD", help="Keep ours here; may be repeated.")] = None,
    theirs: Annotated[list[str] | None, typer.Option(metavar="FIELD", help="Take theirs; may be repeated.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A third value, as JSON; null empties.")
    ] = None,
    seen: Annotated[str | None, typer.Option(metavar="CODE", help="What you saw, as `conflicts show` says.")] = None,
    connection: Connection = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Why, for those who ask later.")] = None,
    as_json: session.Json = False,
) -> None:
    """Decide: ours, theirs or another value, for all fields or each.

    The outcome is a change of ours, and goes to every system. What gives way is kept: see `syncline
    conflicts log`. Without --seen you are shown the conflict and asked.
    """
    from streams import conflict_desk

    if take not in (None, "ours", "theirs"):
        raise typer.BadParameter("ours or theirs", param_hint="--take")
    loaded = session.settings()
    model = _model(loaded)
    choices = _choices(model, id_, ours, theirs, set_)
    if not take and not choices:
        raise typer.BadParameter("say what to do: --take, --ours, --theirs or --set")
    if seen is None:
        seen, connection = _ask(id_, connection, as_json=as_json)
    answer = conflict_desk.Answer(seen, choices, cast(Literal["ours", "theirs"] | None, take), connection, note)
    told = _decide(loaded, id_, answer)
    if as_json:
        show.as_json(told)
        return
    for name, way in told["resolved"].items():
        show.say(f"{name}: {_SAID[way].format(name=told['connection'])}")
    if told["left"]:
        show.say(f"Still open: {', '.join(told['left'])}.")


_SAID = {
    "ours": "ours stays; {name} gets it",
    "theirs": "theirs is taken over, and goes to the other systems",
    "value": "the new value is written, and goes to every system",
}


def _decide(loaded: Settings, entity_id: str, answer: Answer) -> dict[str, Any]:
    from streams import conflict_desk

    async def work() -> dict[str, Any]:
        async with session.database(loaded) as conn:
            return await conflict_desk.resolve(conn, session.by(loaded), entity_id, answer, _model(loaded))

    try:
        return session.run(work())
    except conflict_desk.Moved as moved:
        if not session.current.as_json:
            conflict_view.tell(moved.case)
        raise


def _ask(entity_id: str, connection: str | None, *, as_json: bool) -> tuple[str, str]:
    """Show it, and take a yes for having seen it."""
    if as_json or not sys.stdin.isatty():
        raise typer.BadParameter("look at it with `syncline conflicts show`, and say --seen as it says there")
    cases = _cases(entity_id, connection)
    for case in cases:
        conflict_view.tell(case)
    if len(cases) > 1:
        raise typer.BadParameter("more than one connection asks; name one with --connection")
    typer.confirm("\nDecide it like that?", abort=True)
    return cases[0].seen, cases[0].connection


def _choices(
    model: Model,
    entity_id: str,
    ours: Sequence[str] | None,
    theirs: Sequence[str] | None,
    values: Sequence[str] | None,
) -> dict[str, Choice]:
    from streams.conflict_desk import Choice

    found: dict[str, Choice] = {}
    sides = [(name, Choice("ours")) for name in ours or ()] + [(name, Choice("theirs")) for name in theirs or ()]
    for each in values or ():
        name, equals, text = each.partition("=")
        if not equals:
            raise typer.BadParameter("write FIELD=VALUE, as last_name=Lee", param_hint="--set")
        sides.append((name, Choice("value", _value(model, entity_id, name, text))))
    for name, choice in sides:
        if name in found:
            raise typer.BadParameter(f"{name} is named twice")
        found[name] = choice
    return found


def _value(model: Model, entity_id: str, name: str, text: str) -> Any:
    """A value as written: of a text field its letters, unless it is quoted or null; of another field JSON."""
    import orjson

    entity = model.type_of_id(entity_id)
    is_text = entity is not None and any(f.name == name and f.sql_type == "text" for f in entity.fields)
    if is_text and text != "null" and not (len(text) > 1 and text[0] == text[-1] == '"'):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _cases(entity_id: str, connection: str | None) -> list[Case]:
    from streams import conflict_cases

    loaded = session.settings()

    async def work() -> list[Case]:
        async with session.database(loaded) as conn:
            return await conflict_cases.cases(conn, session.org(loaded), _model(loaded), entity_id, connection)

    return session.run(work())


def _model(loaded: Settings) -> Model:
    from streams.store.migrate import model_of

    return model_of(loaded)


def _line(row: dict[str, Any], now: datetime) -> dict[str, Any]:
    names = ("(deleted there)" if name == "deleted_at" else name.partition("/")[0] for name in row["fields"])
    fields = list(dict.fromkeys(names))
    return row | {"age": show.span(row["age_s"]), "due": show.due(row["due_at"], now), "asked": fields}
