"""How the stack looks on a terminal: a line per component as it comes up, a table, a progress bar for downloads."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from streams.cli import session, show

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from streams.stack.downloads import Progress
    from streams.stack.supervisor import Event

SHOWN = {"ready": "✓", "failed": "✗", "backoff": "↻", "stopped": "·"}
COLUMNS = {
    "name": "COMPONENT",
    "state": "STATE",
    "port": "PORT",
    "pid": "PID",
    "memory": "MEMORY",
    "since": "SINCE",
    "log": "LOG",
}


def report(event: Event) -> None:
    """Print what a person who waits wants to see of an event."""
    mark = SHOWN.get(event.state)
    if mark is None:
        return
    line = f"{mark} {event.component:<9} {event.state:<8} {event.seconds:5.1f} s"
    if event.problem:
        line += f"  {show.cell(event.problem.cause)}"
    print(line, flush=True)


def table(status: Mapping[str, Any]) -> None:
    """Print the parts of a running stack."""
    rows = [
        {
            "name": name,
            "state": part["state"] if not part["problem"] else f"{part['state']} ({part['problem']['code']})",
            "port": part["port"],
            "pid": part["pid"],
            "memory": f"{part['rss'] / 2**20:.0f} MiB" if part["rss"] else None,
            "since": show.span(session.now().timestamp() - part["since"]) if part["since"] else None,
            "log": part["log"],
        }
        for name, part in status["components"].items()
    ]
    show.table(COLUMNS, rows)


def download() -> Progress:
    """A bar on a terminal, lines elsewhere."""
    from streams.stack.downloads import Lines

    return Bar() if sys.stdout.isatty() else Lines(lambda text: print(text, flush=True))


class Bar:
    """A progress bar over all files together."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def start(self, files: int, size: int) -> None:
        """Show the bar."""
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        self._bar = Progress(
            "Downloading {task.description}",
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task(f"{files} files", total=size)
        self._bar.start()

    def advance(self, size: int) -> None:
        """Move it; rich has its own lock."""
        if self._bar and self._task is not None:
            self._bar.advance(self._task, size)

    def finish(self) -> None:
        """Leave it as it is."""
        if self._bar:
            self._bar.stop()
