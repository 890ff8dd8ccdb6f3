"""Ports of the embedded stack: chosen once at the first start, kept in stack.json, checked before every start."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import psutil

from schemas.problems import Problem

LOOPBACK: Final = "127.0.0.1"
RANGE: Final = range(21_000, 30_000)
"""Below the ports that systems hand out for outgoing connections: those could take ours while the stack is down."""


def choose(names: Iterable[str], preferred: Mapping[str, int]) -> dict[str, int]:
    """A free port for each name; the preferred one where it is free.

    Raises:
        Problem: `port_taken` when no port of the range is free.
    """
    chosen: dict[str, int] = {}
    for name in names:
        candidates = [preferred[name]] if name in preferred else []
        # Random: two homes that are both stopped, and so look free to each other, seldom choose the same.
        candidates += random.sample(RANGE, 200)
        port = next((port for port in candidates if port not in chosen.values() and is_free(port)), None)
        if port is None:
            raise Problem("port_taken", f"no free port between {RANGE.start} and {RANGE.stop} for {name}")
        chosen[name] = port
    return chosen


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def check(component: str, ports: Collection[int], source: str) -> None:
    """Make sure that a component's ports are free before it starts.

    Raises:
        Problem: `port_taken`, naming the component, the port and, where the system tells, the process.
    """
    for port in ports:
        if not is_free(port):
            raise Problem(
                "port_taken",
                f"{component} needs port {port} on {LOOPBACK}, which {holder(port)} holds",
                f"Stop that process, or stop the stack and change the port in {source}.",
            )


def holder(port: int) -> str:
    """The process that listens on a port, in words; other users' processes are not always visible."""
    try:
        listening = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
        ]
        if listening and listening[0]:
            process = psutil.Process(listening[0])
            return f"{process.name()} (pid {process.pid})"
    except psutil.Error:
        pass
    return "another process"
