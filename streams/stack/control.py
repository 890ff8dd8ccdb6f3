"""How a command reaches the supervisor: a socket in the home, one JSON line asked, one JSON line answered.

The socket lies in a folder only its owner can enter, so there is no token. An answer may take its time (a component
that has to become ready first); the supervisor's loop keeps the connection until then.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from schemas.problems import Problem

Answer = dict[str, Any]
Pending = Callable[[], Answer | None]
"""Asked again and again until it gives an answer."""
LONGEST_PATH: Final = 100
"""The kernel takes 107 bytes for a socket's path."""


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for the socket that is short enough, however deep the home lies."""
    if len(str(path)) <= LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def ask(path: Path, operation: str, *, timeout: float | None = 300.0, **arguments: Any) -> Answer:
    """Ask the supervisor at a socket.

    Raises:
        Problem: `not_running` when nobody is there; whatever the supervisor answers with.
    """
    try:
        with _short(path) as name, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(name)
            connection.sendall(json.dumps({"operation": operation, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                line = lines.readline()
    except TimeoutError as error:
        raise Problem("stack_slow", f"the supervisor did not finish `{operation}` in {timeout:.0f} s") from error
    except OSError as error:
        raise not_running(path.parent.parent) from error
    if not line:
        raise not_running(path.parent.parent)
    answer: Answer = json.loads(line)
    if problem := answer.get("problem"):
        raise Problem(problem["code"], problem["cause"], problem.get("next_step", ""), log=problem.get("log", ""))
    return answer


def not_running(home: Path) -> Problem:
    """What to tell someone who needs a stack where none runs."""
    return Problem("not_running", f"no stack runs at {home}", "Start it with `syncline up`.")


@dataclass(slots=True)
class _Call:
    connection: socket.socket
    pending: Pending


class Server:
    """The supervisor's side; `serve` is called from its loop."""

    def __init__(self, path: Path, handle: Callable[[Answer], Pending]) -> None:
        self._handle = handle
        self._path = path
        self._calls: list[_Call] = []
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        with _short(path) as name:
            self._socket.bind(name)
        path.chmod(0o600)
        self._socket.listen(16)
        self._socket.settimeout(0)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)

    def serve(self, seconds: float) -> None:
        """Wait for a request for at most this long; answer those whose answer is ready."""
        if self._selector.select(0 if self._calls and seconds < 0.02 else seconds):
            with contextlib.suppress(OSError, ValueError):
                self._accept()
        self.answer()

    def answer(self) -> None:
        """Answer every request that can be answered by now."""
        waiting = []
        for call in self._calls:
            answer = call.pending()
            if answer is None:
                waiting.append(call)
            else:
                _send(call.connection, answer)
        self._calls = waiting

    def close(self) -> None:
        """Take no further request."""
        self._selector.close()
        self._socket.close()
        self._path.unlink(missing_ok=True)
        for call in self._calls:
            call.connection.close()

    def _accept(self) -> None:
        connection, _ = self._socket.accept()
        # A client writes its line at once; one that does not must not hold up the loop.
        connection.settimeout(0.5)
        try:
            with connection.makefile("rb") as lines:
                request = json.loads(lines.readline(65_536))
            pending = self._handle(request)
        except Problem as problem:
            _send(connection, {"problem": problem.as_json()})
        except (OSError, ValueError, KeyError, TypeError) as error:
            _send(connection, {"problem": Problem("request_invalid", f"not understood: {error}").as_json()})
        else:
            self._calls.append(_Call(connection, pending))


def _send(connection: socket.socket, answer: Answer) -> None:
    """Answer and hang up; a client that has gone away is no concern of ours."""
    with contextlib.suppress(OSError), connection:
        connection.sendall(json.dumps(answer).encode() + b"\n")
