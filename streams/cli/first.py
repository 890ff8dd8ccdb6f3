"""`demo`, `doctor`: the first commands anyone runs."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli import session, show
from streams.cli.examples import examples

SIGNS = {"ok": "✓", "warn": "!", "red": "✗"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=examples("syncline demo", "syncline demo --keep"))(demo)
    app.command(epilog=examples("syncline doctor", "syncline doctor --json"))(doctor)


def demo(keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end.")] = False) -> None:
    """See two systems stay in step, on this machine.

    The other system is an emulator, so no account is needed. The demo has a home of its own, and the first run
    downloads about 450 MB.
    """
    from streams.cli import stack_view
    from streams.demo.run import run

    home = session.current.home
    raise typer.Exit(run(home, keep=keep, progress=stack_view.download(), report=stack_view.report))


def doctor(as_json: session.Json = False) -> None:
    """Check everything, and say what to do.

    Every dependency and every invariant is looked at. Exits with 1 when something is red.
    """
    from streams.doctor import check

    findings = session.run(check(session.settings()))
    if as_json:
        show.as_json([finding.as_json() for finding in findings])
    else:
        for finding in findings:
            show.say(f"{SIGNS[finding.state]} {finding.name}: {show.cell(finding.detail)}")
            if finding.next_step:
                show.say(f"  → {show.cell(finding.next_step)}")
    if any(finding.state == "red" for finding in findings):
        raise typer.Exit(1)
