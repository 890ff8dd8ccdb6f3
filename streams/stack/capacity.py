"""Whether this machine has room for the stack, asked before the first start: later it would end as a riddle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import psutil

from schemas.problems import Problem

MEMORY_BYTES: Final = 1_500 << 20
"""Resident memory of all parts of a small set-up, with some air."""
HOME_BYTES: Final = 2 << 30
"""Empty databases and logs take 150 MB; a held slot may keep 1 GB more."""
CACHE_BYTES: Final = 700 << 20


def check(home: Path, cache: Path, *, cached: bool) -> None:
    """Check memory and both disks.

    Raises:
        Problem: `memory_low` or `disk_low`.
    """
    available = psutil.virtual_memory().available
    if available < MEMORY_BYTES:
        raise Problem(
            "memory_low",
            f"the stack needs {_mib(MEMORY_BYTES)} of memory, {_mib(available)} is available",
            "End other programs, or use servers of your own: SYNCLINE_POSTGRES_*_DSN, SYNCLINE_KAFKA_BOOTSTRAP.",
        )
    needed = {home: HOME_BYTES} if cached else {home: HOME_BYTES, cache: CACHE_BYTES}
    for place, size in needed.items():
        free = shutil.disk_usage(_existing(place)).free
        if free < size:
            variable = "SYNCLINE_HOME" if place == home else "SYNCLINE_CACHE"
            raise Problem(
                "disk_low",
                f"{place} needs {_mib(size)} of free disk, {_mib(free)} is free",
                f"Make room, or name another place with {variable}.",
            )


def _existing(place: Path) -> Path:
    while not place.exists():
        place = place.parent
    return place


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"
