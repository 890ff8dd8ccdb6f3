"""Class archives: after the first start on a machine, the parsed classes of each Java part are kept for later starts.

That halves a part's start-up time. The archives are made one after the other, at the lowest priority, while the stack
is already in use; a stack that ends before loses nothing, the next one tries again. They lie in the cache and serve all
homes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from streams.stack import processes
from streams.stack.components import Component
from streams.stack.site import Archive
from streams.stack.state import Home

SETTLE_S: Final = 5.0
"""The first use after a start, a demo or a test, has the machine for itself."""
LOWEST: Final = 19


class Archiver:
    """Makes the missing archives of a stack, a step at a time."""

    def __init__(self, parts: Mapping[str, Component], home: Home) -> None:
        self._missing = [part.archive for part in parts.values() if part.archive]
        self._home = home
        self._not_before = 0.0
        self._current: Archive | None = None
        self._child: processes.Child | None = None

    def step(self, now: float) -> None:
        """Called from the supervisor's loop while all is ready."""
        if self._child and self._current:
            code = self._child.poll()
            if code is not None:
                self._finish(self._current, succeeded=code == 0)
        elif self._missing:
            self._not_before = self._not_before or now + SETTLE_S
            if now >= self._not_before:
                self._begin(self._missing.pop(0))

    def stop(self) -> None:
        """Give up the one in work."""
        if self._child and self._current:
            self._child.destroy()
            self._finish(self._current, succeeded=False)
        self._missing = []

    def _begin(self, archive: Archive) -> None:
        if not Path(archive.classes).exists() or Path(archive.file).exists():
            return
        draft = self._draft(archive)
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        self._current = archive
        self._child = processes.Child.start(
            (archive.argv[0], f"-XX:SharedArchiveFile={draft}", *archive.argv[1:]),
            environment={},
            log=self._home.log("archives"),
            record=self._home.run / "archives.pid",
            nice=LOWEST,
        )

    def _finish(self, archive: Archive, *, succeeded: bool) -> None:
        draft = self._draft(archive)
        if succeeded and draft.exists():
            draft.replace(archive.file)
        draft.unlink(missing_ok=True)
        if succeeded:
            Path(archive.classes).unlink(missing_ok=True)
        self._child = self._current = None

    @staticmethod
    def _draft(archive: Archive) -> Path:
        return Path(f"{archive.file}.draft")
