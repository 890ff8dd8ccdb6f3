"""The REST API of Kafka Connect, with patience: a worker that has just started, or that rebalances, answers 404, 409 or
nothing at all for a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from connectors.http import certificates
from schemas.problems import Problem

PASSING = (404, 409, 503)
"""Answers of a worker that is about to be ready, to requests that name nothing which might be missing."""
RETRY_EVERY_S = 0.25
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Task:
    """State of a task, or of the connector itself: RUNNING, FAILED, PAUSED, UNASSIGNED, STOPPED, RESTARTING."""

    name: str
    state: str
    cause: str = ""
    """The innermost cause when FAILED."""


@dataclass(frozen=True, slots=True)
class Status:
    """The connector and its tasks."""

    connector: Task
    tasks: tuple[Task, ...]
    version: str = ""
    """Of the connector plugin; empty where Connect does not tell."""

    @property
    def running(self) -> bool:
        """Whether the connector and at least one task run, and none does not."""
        return bool(self.tasks) and all(part.state == "RUNNING" for part in (self.connector, *self.tasks))

    @property
    def failed(self) -> tuple[Task, ...]:
        """What is FAILED."""
        return tuple(part for part in (self.connector, *self.tasks) if part.state == "FAILED")


def innermost_cause(trace: str) -> str:
    """The last `Caused by` of a Java stack trace, without its class's package; the first line if there is none."""
    lines = trace.strip().splitlines()
    causes = [line.strip().removeprefix("Caused by: ") for line in lines if line.strip().startswith("Caused by: ")]
    line = causes[-1] if causes else (lines[0] if lines else "no reason given")
    kind, colon, message = line.partition(": ")
    return f"{kind.rpartition('.')[2]}{colon}{message}"


def read_status(body: Mapping[str, Any]) -> Status:
    """A status out of the answer to `GET /connectors/NAME/status`."""

    def part(name: str, state: Mapping[str, Any]) -> Task:
        trace = str(state.get("trace") or "")
        return Task(name, str(state.get("state", "UNKNOWN")), innermost_cause(trace) if trace else "")

    tasks = tuple(part(f"task {task['id']}", task) for task in body.get("tasks", ()))
    connector = body.get("connector", {})
    return Status(part("connector", connector), tasks, version=str(connector.get("version") or ""))


class Connect:
    """A worker's REST API. Use it as `async with Connect(url) as connect`."""

    def __init__(
        self, url: str, *, patience_s: float = 30.0, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.url = url
        self._patience_s = patience_s
        self._http = httpx.AsyncClient(
            base_url=url, timeout=TIMEOUT_S, transport=transport, trust_env=False, verify=certificates()
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def version(self) -> str:
        """Version of the worker."""
        return str((await self._ask("GET", "/")).json()["version"])

    async def config(self, name: str) -> dict[str, str] | None:
        """The connector's settings as Connect has them; None when there is no such connector."""
        if name not in (await self._ask("GET", "/connectors")).json():
            return None
        answer = await self._ask("GET", f"/connectors/{name}/config")
        return {key: str(value) for key, value in answer.json().items()}

    async def put_config(self, name: str, config: Mapping[str, str]) -> None:
        """Create or change the connector; Problem `connector_refused` when Connect finds the settings wrong."""
        answer = await self._ask("PUT", f"/connectors/{name}/config", json=dict(config), refusals=(400,))
        if answer.status_code == 400:
            raise Problem(
                "connector_refused",
                f"Kafka Connect refuses the settings of `{name}`: {_message(answer)}",
                "Check that Postgres is reachable from Connect as the capture role, then run `syncline doctor`.",
            )

    async def status(self, name: str) -> Status | None:
        """State of the connector and its tasks; None when Connect knows none (yet)."""
        answer = await self._ask("GET", f"/connectors/{name}/status", refusals=(404,))
        return None if answer.status_code == 404 else read_status(answer.json())

    async def restart_failed(self, name: str) -> None:
        """Restart what is FAILED of the connector and its tasks."""
        await self._ask("POST", f"/connectors/{name}/restart", params={"includeTasks": "true", "onlyFailed": "true"})

    async def forget_offsets(self, name: str) -> None:
        """Stop the connector and remove what it remembers of its position; `resume` starts it at its slot's."""
        await self._ask("PUT", f"/connectors/{name}/stop")
        await self._ask("DELETE", f"/connectors/{name}/offsets", passing=(*PASSING, 400))

    async def resume(self, name: str) -> None:
        """Start a stopped or paused connector."""
        await self._ask("PUT", f"/connectors/{name}/resume")

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        json: dict[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        refusals: tuple[int, ...] = (),
        passing: tuple[int, ...] = PASSING,
    ) -> httpx.Response:
        """One answer; those of `refusals` are the caller's to read, everything else that is no success is a Problem."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                answer = await self._http.request(method, path, json=json, params=params)
                if answer.is_success or answer.status_code in refusals:
                    return answer
                cause = f"answered {answer.status_code}: {_message(answer)}"
                may_pass = answer.status_code in passing
            except httpx.TransportError as error:
                cause, may_pass = f"does not answer ({type(error).__name__})", True
            if not may_pass or time.monotonic() >= deadline:
                raise Problem(
                    "connect_unreachable" if may_pass else "connect_failed",
                    f"Kafka Connect at {self.url} {cause}",
                    "Start it (`syncline up` for the embedded stack) and look at its log.",
                )
            await asyncio.sleep(RETRY_EVERY_S)


def _message(answer: httpx.Response) -> str:
    """What Connect says is wrong, in one line."""
    try:
        text = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        text = answer.text
    return " ".join(text.split())[:500]
