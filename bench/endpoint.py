"""The cheapest HTTP endpoint there is, so that what is measured is the sender: answers 200 after a wait.

`python -m bench.endpoint --port 0 --wait-ms 20` prints its port. It notes when each request arrived, and tells that on
`GET /arrivals` as `{"body's first 64 bytes": unix seconds}`.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import orjson
import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Endpoint(asyncio.Protocol):
    """One connection. Requests come one after the other, each with a content-length."""

    arrivals: dict[str, float] = {}  # noqa: RUF012  shared by all connections on purpose
    wait_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._held = b""

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._held) < end + 4 + length:
                return
            body = self._held[end + 4 : end + 4 + length]
            self._held = self._held[end + 4 + length :]
            if head.startswith(b"get /arrivals"):
                self._tell()
                continue
            self.arrivals[body[:64].decode(errors="replace")] = time.time()
            if self.wait_s:
                asyncio.get_running_loop().call_later(self.wait_s, self._answer)
            else:
                self._answer()

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(ANSWER)  # type: ignore[attr-defined]

    def _tell(self) -> None:
        body = orjson.dumps(self.arrivals)
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)  # type: ignore[attr-defined]


async def serve(port: int, wait_s: float) -> None:
    Endpoint.wait_s = wait_s
    server = await asyncio.get_running_loop().create_server(Endpoint, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--wait-ms", type=float, default=0)
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.wait_ms / 1000))
