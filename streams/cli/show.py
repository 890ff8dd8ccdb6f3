"""How results and problems look: tables for people, JSON for programs, problems in three lines.

Tables are drawn without borders and never cut: on a terminal long cells fold, in a pipe each row is one line.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from streams.cli import session

if TYPE_CHECKING:
    from schemas.problems import Problem

PIPE_WIDTH = 100_000
NOTHING = "–"


def as_json(value: Any) -> None:
    """Print a value as JSON; secrets that are still wrapped come out masked."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
    print(orjson.dumps(value, default=str, option=options).decode())


def table(
    columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], *, empty: str = "", whole: Collection[str] = ()
) -> None:
    """Print rows; `columns` maps keys to headings, those in `whole` never fold. `empty` is said when there is none."""
    if not rows:
        say(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    wide = sys.stdout.isatty()
    drawn = Table(box=box.SIMPLE_HEAD if wide else None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for key, heading in columns.items():
        drawn.add_column(heading, overflow="fold", no_wrap=not wide or key in whole)
    for row in rows:
        # Text, not str: what comes from outside is no markup.
        drawn.add_row(*(Text(cell(row.get(key))) for key in columns))
    console = Console(width=None if wide else PIPE_WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(drawn)
    print("\n".join(line.rstrip() for line in captured.get().rstrip("\n").splitlines()))


def pairs(values: Mapping[str, Any]) -> None:
    """Print names and values, one pair a line."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        print(f"{name:<{width}}  {cell(value)}")


def say(text: str) -> None:
    """Print a line for people."""
    if text:
        print(text)


def cell(value: Any) -> str:
    """One value as a person reads it."""
    if value in (None, "", [], (), {}):
        return NOTHING
    match value:
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case float():
            return f"{value:g}"
        case Mapping():
            return ", ".join(f"{name} {cell(each)}" for name, each in value.items())
        case list() | tuple():
            return ", ".join(map(cell, value))
        case _:
            # One line, and no escape sequence from outside reaches the terminal.
            return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value))


def span(seconds: float | None) -> str:
    """A length of time, rounded to what matters."""
    if seconds is None:
        return NOTHING
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def due(at: datetime, now: datetime) -> str:
    """A deadline, as far as it is away or past."""
    left = (at - now).total_seconds()
    return f"overdue {span(-left)}" if left < 0 else f"in {span(left)}"


def problem(what: Problem) -> None:
    """Print a problem: on standard error for people, as `{"error": …}` on standard output for `--json`."""
    if session.current.as_json:
        as_json({"error": what.as_json()})
        return
    print(f"✗ {what.code}: {cell(what.cause)}", file=sys.stderr)
    if what.next_step:
        print(f"→ {cell(what.next_step)}", file=sys.stderr)
    if what.log:
        print(f"  log: {what.log}", file=sys.stderr)
