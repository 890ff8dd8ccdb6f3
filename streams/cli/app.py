"""The command line as a whole: global options, the groups, and what happens when a command fails."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli import session
from streams.cli.examples import examples

if TYPE_CHECKING:
    from schemas.problems import Problem

GROUPS = (
    "first", "connecting", "connections", "webhooks", "keys", "inspect", "pushing", "lanes", "conflicts", "reviews",
    "parked", "holds", "dead_letters", "processes", "stack",
)  # fmt: skip
"""Modules with `register(app)`, in the order of `--help`."""


def build() -> typer.Typer:
    """The application with all its commands."""
    app = typer.Typer(
        name="syncline",
        help="Keeps a canonical Postgres database and external systems in step, both ways, in real time.",
        epilog=examples(
            "syncline demo                            see it work, no account needed",
            "syncline up                              start the stack on this machine",
            "syncline connect sync.json --name clinic",
            "syncline why person_01h45ytscbebyvny4gc8cr8ma2",
        ),
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_globals)
    for group in GROUPS:
        if importlib.util.find_spec(f"streams.cli.{group}"):
            importlib.import_module(f"streams.cli.{group}").register(app)
    return app


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    session.current.as_json = False  # several commands may run in one process, as in tests
    try:
        build()(args=arguments, prog_name="syncline", standalone_mode=True)
    except SystemExit as end:
        return _code(end)
    except BrokenPipeError:
        # Whoever read us has enough; Python would complain once more when it flushes.
        sys.stdout = None
        return 0
    except Exception as failure:  # noqa: BLE001 - the one place where everything ends
        return _failed(failure)
    return 0


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        print(f"syncline {metadata.version('syncline')}")
        raise typer.Exit


def _globals(
    home: Annotated[
        Path | None, typer.Option(help="State of the stack on this machine.", envvar="SYNCLINE_HOME", show_envvar=True)
    ] = None,
    org: Annotated[
        str | None, typer.Option(help="Organisation to act for; the default is a setting.", envvar="SYNCLINE_ORG_ID")
    ] = None,
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    session.current.home, session.current.org = home, org


def _code(end: SystemExit) -> int:
    if end.code is None:
        return 0
    return end.code if isinstance(end.code, int) else 1


def _failed(failure: Exception) -> int:
    from schemas.problems import Problem
    from streams.cli import show

    show.problem(failure if isinstance(failure, Problem) else _unexpected(failure))
    return 1


def _unexpected(failure: Exception) -> Problem:
    """A mistake of ours. The traceback goes to a file, not over the screen: messages of libraries may quote data."""
    import tempfile
    import traceback

    from schemas.problems import Problem

    text = "".join(traceback.format_exception(failure))
    for folder in (session.current.home, Path(tempfile.gettempdir())):
        if folder is None or not folder.is_dir():
            continue
        try:
            with tempfile.NamedTemporaryFile(
                "w", dir=folder, prefix="syncline-error-", suffix=".log", delete=False, encoding="utf-8"
            ) as file:
                file.write(text)
        except OSError:
            continue
        return Problem(
            "unexpected", f"{type(failure).__name__} where none should be", "Report it with the log.", log=file.name
        )
    return Problem("unexpected", f"{type(failure).__name__} where none should be", "Report it.")
