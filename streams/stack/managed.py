"""One component under supervision: a small state machine that a loop advances. It never waits.

    stopped → waiting → setup → starting → ready → stopping → stopped
                  ↑                 └────────┴── crashed: backoff → waiting … at last failed

`waiting` ends when the components it needs are ready. Whoever wants something of a component only changes what is
wanted; the loop's next `step` acts on it.
"""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import psutil

from schemas.problems import Problem
from streams.stack import ports, processes, readiness
from streams.stack.components import Component, Setup
from streams.stack.state import Home, write_private

State = Literal["stopped", "waiting", "setup", "starting", "ready", "stopping", "backoff", "failed"]
SETTLED: Final = ("stopped", "ready", "failed")
CRASH_WINDOW_S: Final = 600.0
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
SETUP_SECONDS: Final = 60.0
PROBE_EVERY_S: Final = 0.1
ALIVE_SECONDS: Final = 1.0
"""A process without an endpoint counts as ready when it has run for this long."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every component of a stack shares."""

    home: Home
    port_numbers: dict[str, int]
    account: tuple[int, int] | None
    """Account of Postgres, None for the supervisor's own."""
    admin_dsn: str


class Managed:
    """A component and its current process."""

    def __init__(self, part: Component, surroundings: Surroundings, changed: Callable[[Managed, float], None]) -> None:
        self.part = part
        self.state: State = "stopped"
        self.wanted = False
        self.since = 0.0
        self.problem: Problem | None = None
        self.crashes: list[float] = []
        self.on_ready: Callable[[], None] | None = None
        """Called each time before the component counts as ready."""
        self._around = surroundings
        self._changed = changed
        self._child: processes.Child | None = None
        self._setups: list[Setup] = []
        self._was_ready = False
        self._not_before = self._deadline = self._next_probe = self._began = 0.0
        self._log_offset = 0

    # --- what others want of it -------------------------------------------------------------------------------------

    def want(self, now: float) -> None:
        """Have it run."""
        self.wanted = True
        if self.state in {"stopped", "failed"}:
            self.crashes, self.problem = [], None
            self._began = now
            self._enter("waiting", now)

    def stop(self, now: float) -> None:
        """Have it end in its own orderly way."""
        self.wanted = False
        if self._child is None:
            self._enter("stopped", now)
        elif self.state != "stopping":
            # SIGINT is Postgres' fast shutdown: open sessions are ended, not waited for.
            self._child.signal(signal.SIGINT if self.part.kind == "postgres" else signal.SIGTERM)
            self._deadline = now + self.part.stop_seconds
            self._enter("stopping", now)

    def kill(self, now: float, *, restart: bool) -> None:
        """End it without warning, as a crash would."""
        self.wanted = self.wanted and restart
        if self._child is None:
            self.stop(now)
            return
        self._child.kill_group()
        if not restart and self.state != "stopping":
            self._deadline = now
            self._enter("stopping", now)

    # --- what the loop does -----------------------------------------------------------------------------------------

    def step(self, now: float, needs_ready: Callable[[Component], bool]) -> None:
        """Advance as far as is possible without waiting."""
        code = self._child.poll() if self._child else None
        if code is not None:
            self._child = None
            self._ended(code, now)
        elif self.state == "stopping" and now > self._deadline and self._child:
            self._child.kill_group()
        elif self.state in {"setup", "starting"} and now > self._deadline:
            self._give_up(f"is not ready after {now - self.since:.0f} s", now)
        elif self.state == "starting" and now >= self._next_probe:
            self._next_probe = now + PROBE_EVERY_S
            if self._answers(now):
                self._become_ready(now)
        elif self.state in {"waiting", "backoff"} and now >= self._not_before and needs_ready(self.part):
            self._begin(now)

    @property
    def pid(self) -> int | None:
        """Process id while there is a process."""
        return self._child.pid if self._child else None

    @property
    def log(self) -> Path:
        """Its log."""
        return self._around.home.log(self.part.name)

    def as_json(self) -> dict[str, Any]:
        """Its part of `status`."""
        return {
            "state": self.state,
            "pid": self.pid,
            "port": self._around.port_numbers[self.part.ports[0]] if self.part.ports else None,
            "since": self.since,
            "rss": _memory(self.pid) if self.pid else 0,
            "log": str(self.log),
            "version": self.part.version,
            "restarts": len(self.crashes),
            "problem": self.problem.as_json() if self.problem else None,
        }

    # --- steps ------------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        """Check the ports, write the configuration, then run what prepares the data or the program itself."""
        try:
            numbers = [self._around.port_numbers[name] for name in self.part.ports]
            ports.check(self.part.name, numbers, str(self._around.home.description))
        except Problem as problem:
            self._fail(problem, now)
            return
        for path, text in self.part.files.items():
            write_private(Path(path), text)
        processes.rotate(self.log)
        self._setups = [setup for setup in self.part.setup if not Path(setup.done).exists()]
        if self._setups:
            self._set_up(now)
        else:
            self._run(now)

    def _set_up(self, now: float) -> None:
        setup = self._setups[0]
        folder = Path(setup.folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        self._give_away(folder)
        for path, text in setup.secrets.items():
            place = Path(path)
            place.unlink(missing_ok=True)
            place.touch(0o600)
            self._give_away(place)
            place.write_text(text)
        self._deadline = now + SETUP_SECONDS
        self._spawn(setup.argv)
        self._enter("setup", now)

    def _run(self, now: float) -> None:
        self._deadline = now + self.part.probe.seconds
        self._next_probe = now + PROBE_EVERY_S
        self._spawn(self.part.argv)
        self._enter("starting", now)

    def _spawn(self, argv: tuple[str, ...]) -> None:
        postgres = self.part.kind == "postgres"
        self._log_offset = self.log.stat().st_size if self.log.exists() else 0
        self._child = processes.Child.start(
            argv,
            environment=self.part.environment,
            log=self.log,
            record=self._around.home.run / f"{self.part.name}.pid",
            account=self._around.account if postgres else None,
            # Postgres then ends its sessions and leaves no shared memory behind; its recovery is made for that.
            death_signal=signal.SIGQUIT if postgres else signal.SIGKILL,
        )

    def _ended(self, code: int, now: float) -> None:
        setup = self._setups[0] if self.state == "setup" else None
        if setup:
            for path in setup.secrets:
                Path(path).unlink(missing_ok=True)
        if self.state == "stopping" or not self.wanted:
            self._enter("stopped", now)
            if self.wanted:  # asked for again while it was stopping
                self.want(now)
        elif setup and code == 0:
            Path(setup.done).write_text("")
            self._setups.pop(0)
            if self._setups:
                self._set_up(now)
            else:
                self._run(now)
        else:
            self._give_up(f"ended with {_exit(code)}", now)

    def _give_up(self, what: str, now: float) -> None:
        """A start that failed, or a crash: try again if it once worked and not too often, else stay down."""
        self._destroy()
        words = processes.last_words(self.log, self._log_offset)
        problem = Problem(
            "component_failed",
            f"{self.part.name} {what}" + (f": {words}" if words else ""),
            f"See `syncline logs {self.part.name}`, then start it again.",
            log=str(self.log),
        )
        self.crashes = [*(at for at in self.crashes if now - at < CRASH_WINDOW_S), now]
        if not self._was_ready or len(self.crashes) > self.part.restarts:
            self._fail(problem, now)
            return
        self.problem = problem
        self._not_before = now + BACKOFF_S[min(len(self.crashes), len(BACKOFF_S)) - 1]
        self._enter("backoff", now)

    def _become_ready(self, now: float) -> None:
        try:
            if self.on_ready:
                self.on_ready()
        except Exception as error:  # noqa: BLE001 - any failure of a hook is this component's failure
            cause = error.cause if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
            self._fail(Problem("component_failed", f"{self.part.name} could not be prepared: {cause}"), now)
            return
        self.problem, self._was_ready = None, True
        self._enter("ready", now)

    def _fail(self, problem: Problem, now: float) -> None:
        self._destroy()
        self.problem = problem
        self._enter("failed", now)

    def _destroy(self) -> None:
        if self._child:
            self._child.destroy()
            self._child = None

    def _enter(self, state: State, now: float) -> None:
        if state != self.state:
            self.state, self.since = state, now
            self._changed(self, now - self._began)

    def _answers(self, now: float) -> bool:
        probe = self.part.probe
        port = self._around.port_numbers.get(probe.port or self.part.name, 0)
        match probe.kind:
            case "postgres":
                return readiness.postgres(self._around.admin_dsn)
            case "kafka":
                return readiness.kafka(ports.LOOPBACK, port)
            case "http":
                return readiness.http_ok(ports.LOOPBACK, port, probe.path)
            case "alive":
                return now - self.since >= ALIVE_SECONDS

    def _give_away(self, path: Path) -> None:
        """To the account of Postgres, which alone has one of its own."""
        if self.part.kind == "postgres" and self._around.account and sys.platform != "win32":
            shutil.chown(path, *self._around.account)


def _exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _memory(pid: int) -> int:
    """Resident bytes of a process and its children; shared memory counts once per process, as in `ps`."""
    total = 0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.Error:
        pass
    return total
