"""One child process: started bound to the supervisor, recorded, recognised again after the supervisor's death, ended.

A record (`run/NAME.pid`) holds the process id together with the kernel's start time of that process: an id alone may
have been given to somebody else's process since.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import psutil

BINDER: Final = Path(__file__).with_name("exec_bound.py")
LOG_KEEP_BYTES: Final = 8 << 20
TROUBLE: Final = ("FATAL", "PANIC", "ERROR", "Error", "Exception", "error:")


@dataclass(frozen=True, slots=True)
class Record:
    """A process of ours, as remembered in a file."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """Record a running process."""
        return cls(pid, psutil.Process(pid).create_time())

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The record in a file, if there is a readable one."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Remember in a file."""
        path.write_text(json.dumps({"pid": self.pid, "started": self.started}))

    def process(self) -> psutil.Process | None:
        """The process, if it still runs and is the same one."""
        try:
            process = psutil.Process(self.pid)
            # The boot time that create_time is computed from may be corrected by a few milliseconds.
            same = abs(process.create_time() - self.started) < 0.05
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


class Child:
    """A running child of the supervisor, with its own session: a Ctrl-C at the terminal does not reach it."""

    def __init__(self, popen: subprocess.Popen[bytes], record: Path) -> None:
        self._popen = popen
        self._record = record

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        record: Path,
        account: tuple[int, int] | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
        nice: int = 0,
    ) -> Self:
        """Start a program; it ends with the calling thread, so that thread must be the one that lives on.

        Raises:
            OSError: the log cannot be opened or no process can be made.
        """
        uid, gid = account or (-1, -1)
        bound = [sys.executable, "-I", "-S", str(BINDER)]
        bound += [str(part) for part in (os.getpid(), int(death_signal), uid, gid, 0o077, nice)]
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [*bound, "--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**_inherited(), **environment},
                # A folder every account can be in: initdb and postgres insist on entering theirs.
                cwd="/",
                start_new_session=True,
            )
        # A process that ended at once is seen by the first poll.
        with contextlib.suppress(psutil.Error):
            Record.of(popen.pid).write(record)
        return cls(popen, record)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def poll(self) -> int | None:
        """Its exit code, None while it runs; forgets the record of an ended one."""
        code = self._popen.poll()
        if code is not None:
            self._record.unlink(missing_ok=True)
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; an ended process is left alone."""
        if self._popen.poll() is None:
            self._popen.send_signal(number)

    def kill_group(self) -> None:
        """SIGKILL to it and whatever it started in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._popen.poll() is None:
                os.killpg(self._popen.pid, signal.SIGKILL)

    def destroy(self) -> None:
        """SIGKILL, and wait until it is gone; nothing survives that for long enough to matter to the loop."""
        self.kill_group()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(5)
        self.poll()


def _inherited() -> dict[str, str]:
    """The environment of the user, without what would change another program's Java."""
    return {name: value for name, value in os.environ.items() if name not in {"CLASSPATH", "JAVA_TOOL_OPTIONS"}}


def end_leftovers(run: Path, postgres_data: Path) -> list[str]:
    """End what a supervisor left behind that died so hard that not even the kernel's signal came through.

    Returns the names of components that had to be ended. Also removes a `postmaster.pid` nobody holds any more.
    """
    ended = []
    for path in sorted(run.glob("*.pid")):
        name = path.stem
        record = Record.read(path)
        if name != "supervisor" and record and (process := record.process()):
            _end(process, signal.SIGQUIT if name == "postgres" else signal.SIGKILL)
            ended.append(name)
        path.unlink(missing_ok=True)
    _remove_stale_lock(postgres_data)
    return ended


def _end(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)
        try:
            process.wait(10)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(10)


def _remove_stale_lock(data: Path) -> None:
    """Postgres gives up when another process now has the id of its dead postmaster; only we know that it is stale."""
    lock = data / "postmaster.pid"
    try:
        pid = int(lock.read_text().splitlines()[0])
        process = psutil.Process(pid)
        holds = process.name() == "postgres" and data.samefile(process.cwd())
    except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
        holds = False
    except psutil.Error:
        holds = True  # it may be one; Postgres itself decides
    if not holds:
        lock.unlink(missing_ok=True)


def rotate(log: Path) -> None:
    """Keep one older log, so that a stack that runs for months does not fill the disk with it."""
    if log.exists() and log.stat().st_size > LOG_KEEP_BYTES:
        log.replace(log.with_name(log.name + ".1"))


def last_words(log: Path, offset: int) -> str:
    """The line of a log that most likely tells why a program ended: the last one that speaks of trouble."""
    try:
        with log.open("rb") as file:
            file.seek(max(offset, log.stat().st_size - 65_536))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return ""
    meaningful = [line for line in lines if line and not line.startswith(("at ", "... ", "}", "{"))]
    trouble = [line for line in meaningful if any(word in line for word in TROUBLE)]
    return ((trouble or meaningful or [""])[-1])[:400]


def wait_gone(processes: Sequence[psutil.Process], seconds: float) -> bool:
    """Whether all are gone after at most this long."""
    deadline = time.monotonic() + seconds
    while any(process.is_running() for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
