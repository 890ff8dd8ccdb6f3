"""Runs an emulator: as a program of its own with `run`, or inside a test's event loop with `serve`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from connectors import registry
from connectors.emulators.app import TRANSPORT, Emulator
from connectors.emulators.world import System
from schemas.problems import Problem

IDLE_TIMEOUT_S = 75
BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Running:
    """An emulator that answers at `url` (without a slash at the end)."""

    url: str
    emulator: Emulator


def create(system: str, **options: Any) -> Emulator:
    """The emulator of a type name or alias; options as `app.Emulator` takes them. Raises Problem (`no_emulator`)."""
    package = registry.module(system)
    try:
        kind = importlib.import_module(f"{package}.emulator").EMULATOR
    except ModuleNotFoundError as failure:
        if failure.name != f"{package}.emulator":
            raise
        raise Problem("no_emulator", f"there is no emulator of {system}") from failure
    return Emulator(cast(type[System], kind), registry.find(system).manifest.webhook_scheme, **options)


def run(
    system: str,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    seed_records: int = 0,
    latency_ms: float = 0,
    faults: Iterable[Mapping[str, Any]] = (),
    seed: int = 0,
) -> None:
    """Run a system's emulator until Ctrl-C or SIGTERM; prints its URL first. Port 0 takes a free one.

    Args:
        faults: fault rules as the control API takes them.

    Raises Problem: `adapter_unknown`, `no_emulator`, `fault_invalid`, `port_in_use`.
    """
    emulator = create(system, seed_records=seed_records, latency_ms=latency_ms, rules=faults, seed=seed)
    listening = _listen(host, port)
    print(f"{system} emulator: {_url(listening)} (control API: {_url(listening)}/_emulator/state)", flush=True)

    server_config = _config(emulator)

    async def main() -> None:
        try:
            await uvicorn.Server(server_config).serve(sockets=[listening])
        finally:
            await emulator.close()

    # uvicorn's choice is uvloop, which halves the CPU of a call.
    loop_factory = server_config.get_loop_factory()
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


@contextlib.asynccontextmanager
async def serve(system: str, host: str = "127.0.0.1", port: int = 0, **options: Any) -> AsyncIterator[Running]:
    """Run a system's emulator in this event loop; options as `app.Emulator` takes them."""
    emulator = create(system, **options)
    listening = _listen(host, port)
    server = _QuietServer(_config(emulator))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn offers no event
            await asyncio.sleep(0.001)
        yield Running(_url(listening), emulator)
    finally:
        server.should_exit = server.force_exit = True
        await task
        await emulator.close()
        listening.close()


class _QuietServer(uvicorn.Server):
    """A server that leaves the process's signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which also hands its connection to the application."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(dict[str, Any], self.scope)[TRANSPORT] = self.transport


def _config(emulator: Emulator) -> uvicorn.Config:
    return uvicorn.Config(
        cast(Any, emulator),
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,  # the emulator's own clock says it
        timeout_keep_alive=IDLE_TIMEOUT_S,
        timeout_graceful_shutdown=1,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)  # here, so that whoever reads the printed URL is not refused
    except OSError as failure:
        listening.close()
        raise Problem(
            "port_in_use", f"cannot listen on {host}:{port} ({failure.strerror})", "Choose another port."
        ) from None
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
