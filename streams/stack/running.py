"""`syncline up`: the supervisor in this process, or in one that goes on when the command has returned."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NoReturn

from schemas.problems import Problem
from streams.stack import control, launch
from streams.stack.installation import Installation
from streams.stack.state import Home
from streams.stack.supervisor import Event, Lock, Prepare, Report, Supervisor

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def foreground(
    home: Home, install: Installation, wanted: Iterable[str], *, report: Report, prepare: Prepare | None
) -> None:
    """Run the stack until a signal or `syncline down` ends it.

    Raises:
        Problem: what kept it from starting, or `stack_busy`.
    """
    lock = Lock(home)
    # Whoever holds the lock without answering is about to start or to end.
    if not lock.take():
        raise Problem(
            "stack_busy",
            f"another command is starting or ending the stack at {home.path}",
            "Try again in a few seconds.",
        )
    try:
        one = Supervisor(launch.Launch.prepare(home.path, install), report=report, prepare=prepare)
        with _ended_by_signals(one):
            one.run(wanted)
    finally:
        lock.release()


def detached(
    home: Home, install: Installation, wanted: Iterable[str], *, report: Report, prepare: Prepare | None
) -> None:
    """Run the stack in a process of its own, and return when it is ready. Call it before any thread is started.

    Raises:
        Problem: what kept it from starting.
    """
    home.create()
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        os.close(reader)
        _daemon(home, install, wanted, writer, prepare)
    os.close(writer)
    os.wait()
    with os.fdopen(reader, "rb") as lines:
        pid = int(lines.readline() or 0)
        try:
            for line in lines:
                event = _read(line)
                if event.component == "stack" and event.problem:
                    raise event.problem
                report(event)
                if event.component == "stack":
                    return
        except KeyboardInterrupt:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            lines.read()  # ends when the supervisor has ended
            raise
    raise Problem(
        "stack_failed", "the supervisor ended without a word", "See its log.", log=str(home.log("supervisor"))
    )


def attached(home: Home, wanted: Iterable[str]) -> dict[str, object] | None:
    """The status of a stack that already runs, with what is wanted started; None where none runs."""
    socket = home.run / "control.sock"
    try:
        control.ask(socket, "wait")
        for name in wanted:
            control.ask(socket, "start", component=name)
        return control.ask(socket, "status")
    except Problem as problem:
        if problem.code == "not_running":
            return None
        raise


def _daemon(home: Home, install: Installation, wanted: Iterable[str], writer: int, prepare: Prepare | None) -> NoReturn:
    """The middle process: start the one that stays, and make room for it."""
    os.setsid()
    if os.fork():
        os._exit(0)
    code = 1
    with os.fdopen(writer, "wb", buffering=0) as events:
        try:
            _redirect(home.log("supervisor"))
            events.write(f"{os.getpid()}\n".encode())

            def report(event: Event) -> None:
                _note(f"{event.component} {event.state}")
                with contextlib.suppress(OSError, ValueError):  # nobody listens once the command has returned
                    events.write(_line(event))

            foreground(home, install, wanted, report=report, prepare=prepare)
            code = 0
        except BaseException as error:  # noqa: BLE001 - the last frame of this process
            problem = (
                error if isinstance(error, Problem) else Problem("stack_failed", f"{type(error).__name__}: {error}")
            )
            _note(str(problem))
            with contextlib.suppress(OSError, ValueError):
                events.write(_line(Event("stack", "failed", 0, problem)))
    os._exit(code)


def _note(text: str) -> None:
    """To the supervisor's own log."""
    sys.stdout.write(f"{time.strftime('%FT%TZ', time.gmtime())} {text}\n")
    sys.stdout.flush()


def _redirect(log: Path) -> None:
    """No terminal any more: nothing to read from, and a log to write to."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(output)
    os.chdir("/")


@contextlib.contextmanager
def _ended_by_signals(one: Supervisor) -> Iterator[None]:
    """Ctrl-C, `kill` and a closed terminal end the stack in order; a second one at once."""
    before = {number: signal.signal(number, lambda *_: one.end()) for number in ENDING}
    # A reader of our output that has gone away must not end the stack.
    before[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _line(event: Event) -> bytes:
    problem = event.problem.as_json() if event.problem else None
    return json.dumps([event.component, event.state, event.seconds, problem]).encode() + b"\n"


def _read(line: bytes) -> Event:
    component, state, seconds, problem = json.loads(line)
    if problem:
        problem = Problem(problem["code"], problem["cause"], problem.get("next_step", ""), log=problem.get("log", ""))
    return Event(component, state, seconds, problem)
