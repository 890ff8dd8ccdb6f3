"""Asks a component whether it can be used: one short attempt at a time, no waiting, so that one loop can watch all."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import sys
from typing import Final

import psycopg

TIMEOUT_S: Final = 0.5
METADATA: Final = 3
CLIENT: Final = b"syncline-readiness"


def postgres(dsn: str) -> bool:
    """Whether the database answers."""
    try:
        with psycopg.connect(dsn, connect_timeout=2, autocommit=True) as connection:
            connection.execute("select 1")
    except psycopg.OperationalError:
        return False
    return True


def http_ok(host: str, port: int, path: str) -> bool:
    """Whether the path answers 200."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path, headers={"Accept": "application/json"})
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False


def kafka(host: str, port: int) -> bool:
    """Whether the broker is in its own metadata: the port opens earlier, before the controller let the broker in."""
    # Metadata request, version 1, with an empty (not null) list of topics: brokers only.
    body = struct.pack(">hhih", METADATA, 1, 1, len(CLIENT)) + CLIENT + struct.pack(">i", 0)
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            size = struct.unpack(">i", _read(connection, 4))[0]
            answer = _read(connection, size)
    except (OSError, EOFError):
        return False
    # After the correlation id comes the array of brokers.
    return size >= 8 and int(struct.unpack(">i", answer[4:8])[0]) > 0


def main() -> None:
    """`python -m streams.stack.readiness kafka|http HOST PORT [PATH]`: exit code 0 when ready; for containers."""
    kind, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    ready = kafka(host, port) if kind == "kafka" else http_ok(host, port, sys.argv[4])
    sys.exit(0 if ready else 1)


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


if __name__ == "__main__":
    main()
