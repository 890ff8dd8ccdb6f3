"""Reads the logs of a home: the last lines, and what is written after them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from schemas.problems import Problem
from streams.stack.state import Home

FOLLOW_EVERY_S: Final = 0.3
BLOCK_BYTES: Final = 1 << 16


def files(home: Home, component: str | None) -> list[Path]:
    """The log of a component, or all logs there are.

    Raises:
        Problem: `log_unknown`.
    """
    found = sorted(home.log("x").parent.glob("*.log"))
    if component is None:
        return found
    if home.log(component) not in found:
        names = ", ".join(path.stem for path in found) or "none yet"
        raise Problem("log_unknown", f"{home.path} has no log of `{component}`", f"There are: {names}.")
    return [home.log(component)]


def tail(path: Path, lines: int) -> tuple[list[str], int]:
    """The last lines of a log, and the position after them."""
    with path.open("rb") as file:
        end = at = file.seek(0, 2)
        data = b""
        while at > 0 and data.count(b"\n") <= lines:
            size = min(BLOCK_BYTES, at)
            at -= size
            file.seek(at)
            data = file.read(size) + data
    return (data.decode(errors="replace").splitlines()[-lines:] if lines else []), end


def follow(positions: dict[Path, int]) -> Iterator[tuple[Path, Sequence[str]]]:
    """What is written from now on; a log that was rotated is read from its beginning. Never ends."""
    while True:
        for path, position in positions.items():
            size = path.stat().st_size if path.exists() else 0
            begin = position if size >= position else 0
            if size > begin:
                with path.open("rb") as file:
                    file.seek(begin)
                    data = file.read(size - begin)
                whole = data.rfind(b"\n") + 1
                positions[path] = begin + whole
                if whole:
                    yield path, data[:whole].decode(errors="replace").splitlines()
        time.sleep(FOLLOW_EVERY_S)
