"""The library API of the embedded stack, for tests, the demo and commands.

    with Stack(home) as stack:
        settings = stack.info()

The supervisor's loop then runs in a thread of this process, and the stack ends with the process. Where a supervisor
already runs for the home (`syncline up -d`), the same calls go to that one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from schemas.problems import Problem
from streams import settings
from streams.stack import control, downloads, launch, supervisor
from streams.stack.components import PROCESSES, STACK
from streams.stack.installation import Installation
from streams.stack.state import Home
from streams.stack.supervisor import Event, Lock, Prepare, Report

START_SECONDS: Final = 240.0


def _quiet(event: Event) -> None:
    del event


class Stack:
    """The stack of one home."""

    def __init__(
        self,
        home: Path,
        *,
        stack_only: bool = True,
        progress: downloads.Progress | None = None,
        report: Report = _quiet,
    ) -> None:
        self.home = Home(home.absolute())
        self._everything = STACK if stack_only else (*STACK, *PROCESSES)
        self._progress = progress or downloads.Silent()
        self._report = report
        self._thread: threading.Thread | None = None
        self._failure: Problem | None = None

    # --- all of it --------------------------------------------------------------------------------------------------

    def start(self, components: Iterable[str] | None = None, prepare: Prepare | None = None) -> Self:
        """Start the stack (or some components and what they need), and return when it can be used.

        `prepare` is called when Postgres, Kafka, the registry and Connect are ready, before Syncline's own processes
        start. Where the stack already runs, this waits until it is ready and does not call `prepare`.

        Raises:
            Problem: what kept it from starting; everything has been ended by then.
        """
        if self.running():
            self._ask("wait", timeout=START_SECONDS)
            for name in components if components is not None else self._everything:
                self.start_component(name)
            return self
        install = launch.ready_installation(self.home.path, self._progress)
        started, wanted = threading.Event(), tuple(components) if components is not None else self._everything
        self._failure = None
        self._thread = threading.Thread(
            target=self._run, args=(install, wanted, prepare, started), name="stack", daemon=True
        )
        self._thread.start()
        started.wait()
        try:
            self._ask("wait", timeout=START_SECONDS)
        except Problem:
            self.stop()
            raise self._ended_because() from None
        return self

    def _ended_because(self) -> Problem:
        return self._failure or Problem("stack_failed", f"the stack at {self.home.path} ended")

    def _run(
        self, install: Installation, wanted: Iterable[str], prepare: Prepare | None, started: threading.Event
    ) -> None:
        """The supervisor's thread."""
        lock = Lock(self.home)
        try:
            if not lock.take():
                raise Problem("stack_busy", f"another process starts or ends the stack at {self.home.path}")
            ready = launch.Launch.prepare(self.home.path, install)
            one = supervisor.Supervisor(ready, report=self._report, prepare=prepare)
            started.set()
            one.run(wanted)
        except Problem as problem:
            self._failure = problem
        except Exception as error:  # noqa: BLE001 - told to the thread that waits
            self._failure = Problem("stack_failed", f"{type(error).__name__}: {error}")
        finally:
            lock.release()
            started.set()

    def stop(self) -> None:
        """End everything and wait until it is gone; nothing to do where nothing runs."""
        if self.running():
            self._ask("down")
        if self._thread:
            self._thread.join()
            self._thread = None
        lock = Lock(self.home)
        try:
            # The supervisor of another process answers before it lets go.
            while not lock.take():
                time.sleep(0.02)
        finally:
            lock.release()

    def wipe(self) -> None:
        """Stop, then remove what the stack made under the home; downloads are kept, they are in the cache."""
        self.stop()
        self.home.remove()

    def running(self) -> bool:
        """Whether a supervisor answers at the home."""
        try:
            control.ask(self._socket, "status", timeout=10)
        except Problem:
            return False
        return True

    # --- one component ----------------------------------------------------------------------------------------------

    def start_component(self, component: str) -> None:
        """Start one that is stopped, with what it needs; returns when it is ready."""
        self._ask("start", component=component)

    def stop_component(self, component: str) -> None:
        """Stop one in its orderly way; it stays down until it is started."""
        self._ask("stop", component=component)

    def kill(self, component: str, *, restart: bool = False) -> None:
        """SIGKILL one. It stays down until it is started, or with `restart` comes back as after a crash."""
        self._ask("kill", component=component, restart=restart)

    # --- what there is ----------------------------------------------------------------------------------------------

    def info(self) -> settings.Settings:
        """How to reach the stack."""
        return settings.load(self.home.path)

    def status(self) -> dict[str, Any]:
        """Per component: state, pid, port, since, rss, log.

        Raises:
            Problem: `not_running`.
        """
        return self._ask("status")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _socket(self) -> Path:
        return self.home.run / "control.sock"

    def _ask(self, operation: str, *, timeout: float | None = 300.0, **arguments: Any) -> dict[str, Any]:
        return control.ask(self._socket, operation, timeout=timeout, **arguments)
