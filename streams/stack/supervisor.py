"""Runs a stack: one loop in one thread starts components in order, watches them, answers commands and ends them.

All children are made by the loop's thread. The kernel ends them with that thread (see `exec_bound`), so whatever
happens to the supervisor, nothing is left behind.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import IO, Any, Final

from schemas.problems import Problem
from streams.settings import Settings
from streams.stack import components, control, database, processes
from streams.stack.archives import Archiver
from streams.stack.components import Component
from streams.stack.launch import Launch
from streams.stack.managed import SETTLED, Managed
from streams.stack.state import Home

BUSY_S: Final = 0.03
IDLE_S: Final = 0.3

Prepare = Callable[[Settings], None]


@dataclass(frozen=True, slots=True)
class Event:
    """Something a person who waits wants to see."""

    component: str
    state: str
    seconds: float
    problem: Problem | None = None


Report = Callable[[Event], None]


class Lock:
    """The right to run the stack of a home; the kernel takes it back when the process dies."""

    def __init__(self, home: Home) -> None:
        home.create()
        self._file: IO[str] = (home.run / "lock").open("a")

    def take(self) -> bool:
        """Whether it could be had."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let others have it."""
        self._file.close()


class Supervisor:
    """The stack of one home. Make it and call `run` in the same thread."""

    def __init__(self, launch: Launch, *, report: Report, prepare: Prepare | None = None) -> None:
        self._launch = launch
        self._report = report
        self._prepare = prepare
        self._since = time.time()
        self._wanted_at_start: Collection[str] = components.STACK
        self._prepared = prepare is None
        self._preparing: threading.Thread | None = None
        self._failure: Problem | None = None
        self._going_down = False
        self._ended = False
        self.managed = {name: Managed(part, launch.surroundings, self._changed) for name, part in launch.parts.items()}
        self.managed["postgres"].on_ready = self._create_roles
        self._archiver = Archiver(launch.parts, launch.home)
        self._server = control.Server(launch.home.run / "control.sock", self._handle)

    def run(self, wanted: Iterable[str]) -> None:
        """Start what is wanted and go on until somebody asks for the end.

        Raises:
            Problem: what kept a component from its first start; everything has been ended by then.
        """
        processes.Record.of(os.getpid()).write(self._launch.home.run / "supervisor.pid")
        try:
            self._wanted_at_start = self.with_needs(wanted)
            # A hook prepares a whole stack; for a part of one there is nothing to wait for.
            self._prepared = self._prepared or not set(components.STACK) <= set(self._wanted_at_start)
            now = time.time()
            for name in self._wanted_at_start:
                self.managed[name].want(now)
            while not self._is_over():
                self._step()
                busy = any(one.state not in SETTLED for one in self.managed.values()) or self._preparing
                self._server.serve(BUSY_S if busy else IDLE_S)
        finally:
            self._ended = True
            self._kill_all()
            self._server.answer()
            self._server.close()
            (self._launch.home.run / "supervisor.pid").unlink(missing_ok=True)
        if self._failure:
            raise self._failure

    def end(self) -> None:
        """Have everything end in order; a second call ends it at once. Safe in a signal handler."""
        if self._going_down:
            for one in self.managed.values():
                one.kill(time.time(), restart=False)
        self._going_down = True

    def with_needs(self, names: Iterable[str]) -> list[str]:
        """The components named, and before them those they need.

        Raises:
            Problem: `component_unknown`.
        """
        found: list[str] = []
        for name in names:
            if name not in self.managed:
                raise unknown(name, self.managed)
            for one in (*self.with_needs(self._launch.parts[name].depends_on), name):
                if one not in found:
                    found.append(one)
        return found

    # --- the loop ---------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        now = time.time()
        if self._going_down:
            self._stop_in_order(now)
        for one in self.managed.values():
            one.step(now, self._needs_ready)
        self._run_prepare()
        if not self._wanted_at_start and not self._going_down:
            self._archiver.step(now)
        starting = [self.managed[name] for name in self._wanted_at_start]
        if not self._failure and not self._going_down and self._wanted_at_start:
            if failed := next((one for one in starting if one.state == "failed"), None):
                self._fail(failed.problem)
            elif all(one.state == "ready" for one in starting) and self._prepared:
                self._wanted_at_start = ()
                self._report(Event("stack", "ready", now - self._since))

    def _needs_ready(self, part: Component) -> bool:
        ready = all(self.managed[name].state == "ready" for name in part.depends_on)
        return ready and (part.kind != "process" or self._prepared)

    def _stop_in_order(self, now: float) -> None:
        """Stop each component once nothing that depends on it runs any more."""
        for name, one in self.managed.items():
            dependents = [other for other in self.managed.values() if name in other.part.depends_on]
            if one.state not in {"stopped", "stopping"} and all(other.state == "stopped" for other in dependents):
                one.stop(now)

    def _run_prepare(self) -> None:
        """When the stack is ready for the first time, run the hook in a thread: Ctrl-C and `status` go on working."""
        stack = [self.managed[name] for name in components.STACK]
        if self._prepared or self._preparing or any(one.state != "ready" for one in stack):
            return

        def call(prepare: Prepare, started: float) -> None:
            self._report(Event("prepare", "starting", 0))
            try:
                prepare(self._launch.settings())
            except Problem as problem:
                self._fail(problem)
            except Exception as error:  # noqa: BLE001 - whatever a hook raises ends the start, with its cause
                self._fail(Problem("prepare_failed", f"{type(error).__name__}: {error}"))
            else:
                self._prepared = True
                self._report(Event("prepare", "ready", time.time() - started))
            self._preparing = None

        if self._prepare:
            self._preparing = threading.Thread(target=call, args=(self._prepare, time.time()), daemon=True)
            self._preparing.start()

    def _fail(self, problem: Problem | None) -> None:
        self._failure = self._failure or problem
        self._going_down = True

    def _is_over(self) -> bool:
        return self._going_down and all(one.pid is None for one in self.managed.values())

    def _kill_all(self) -> None:
        self._archiver.stop()
        for one in self.managed.values():
            if one.pid is not None:
                one.kill(time.time(), restart=False)
                one.step(time.time(), lambda _: False)

    def _create_roles(self) -> None:
        around = self._launch.surroundings
        database.prepare(around.admin_dsn, self._launch.embedded.passwords, self._launch.settings().org_id)

    def _changed(self, one: Managed, seconds: float) -> None:
        self._report(Event(one.part.name, one.state, seconds, one.problem))

    # --- commands ---------------------------------------------------------------------------------------------------

    def _handle(self, request: dict[str, Any]) -> control.Pending:
        now = time.time()
        match request["operation"]:
            case "status":
                answer = self.status()
                return lambda: answer
            case "wait":
                return self._until(lambda: not self._wanted_at_start)
            case "down":
                self.end()
                return lambda: {} if self._ended else None
            case "start":
                one = self._named(request)
                for name in self.with_needs([one.part.name]):
                    self.managed[name].want(now)
                return self._until(lambda: one.state == "ready", lambda: one.state == "failed", one)
            case "stop":
                one = self._named(request)
                one.stop(now)
                return self._until(lambda: one.pid is None)
            case "kill":
                one = self._named(request)
                killed = one.pid
                one.kill(now, restart=bool(request.get("restart")))
                return self._until(lambda: one.pid is None or one.pid != killed)
            case other:
                raise Problem("request_invalid", f"the supervisor knows no operation `{other}`")

    def _named(self, request: dict[str, Any]) -> Managed:
        name = str(request["component"])
        if name not in self.managed:
            raise unknown(name, self.managed)
        return self.managed[name]

    def _until(
        self, done: Callable[[], bool], failed: Callable[[], bool] = lambda: False, one: Managed | None = None
    ) -> control.Pending:
        def pending() -> control.Answer | None:
            if failed() and one and one.problem:
                return {"problem": one.problem.as_json()}
            if self._failure:
                return {"problem": self._failure.as_json()}
            if done():
                return self.status()
            return {"problem": control.not_running(self._launch.home.path).as_json()} if self._ended else None

        return pending

    def status(self) -> dict[str, Any]:
        """What runs, for people and programs."""
        return {
            "home": str(self._launch.home.path),
            "supervisor": {"pid": os.getpid(), "since": self._since},
            "ready": not self._wanted_at_start and not self._going_down,
            "components": {name: one.as_json() for name, one in self.managed.items()},
        }


def unknown(name: str, known: Iterable[str]) -> Problem:
    """What to say to a name that is no component's."""
    return Problem("component_unknown", f"there is no component `{name}` here", f"There are: {', '.join(known)}.")
