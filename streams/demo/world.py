"""Everything the demo and the acceptance runs act on: the stack, an emulated system, SQL, and clocks to read."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx
import psycopg

from schemas.problems import Problem
from streams.settings import Settings
from streams.stack.embedded import Stack
from streams.stack.processes import Child

SYSTEM = "mock-sync-server"
CONNECTION = "mirror"
_URL = re.compile(rb"http://[0-9.]+:[0-9]+")


class Emulated:
    """The emulated system, through its control API."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=f"{url}/_emulator", timeout=60)

    def records(self, kind: str) -> dict[str, Any]:
        """Id -> record of one type."""
        found: dict[str, Any] = self._http.get("/state").json()["records"][kind]
        return found

    def record(self, kind: str, record_id: str) -> dict[str, Any] | None:
        """One record, None while it is not there."""
        answer = self._http.get(f"/records/{kind}/{record_id}")
        return answer.json() if answer.status_code == httpx.codes.OK else None

    def counts(self) -> dict[str, Any]:
        """Calls, creates per record, webhooks."""
        found: dict[str, Any] = self._http.get("/counts").json()
        return found

    def calls(self, after: int = 0) -> list[dict[str, Any]]:
        """The calls of the system's own API since call number `after`."""
        found: list[dict[str, Any]] = self._http.get("/calls", params={"after": after}).json()
        return found

    def writes(self, after: int = 0) -> list[dict[str, Any]]:
        """The calls that write."""
        return [call for call in self.calls(after) if call["method"] == "POST"]

    def edit(self, kind: str, record_id: str, **fields: Any) -> dict[str, Any]:
        """Edit a record as the system's own user would."""
        edited: dict[str, Any] = self._http.put(f"/records/{kind}/{record_id}", json=fields).raise_for_status().json()
        return edited

    def faults(self, *rules: dict[str, Any]) -> None:
        """Replace the faults in force."""
        self._http.post("/faults", json=list(rules)).raise_for_status()

    def send_webhooks_to(self, url: str, secret: str) -> None:
        """Subscribe the gateway."""
        self._http.post("/webhooks", json={"url": url, "secret": secret}).raise_for_status()


class World:
    """The stack with a worker and a gateway, and one emulated system. Use as a context manager.

    Args:
        home: state of the stack; a throw-away of the demo's own.
        stack: not started yet.
    """

    def __init__(self, home: Path, stack: Stack) -> None:
        self.home = home
        self.stack = stack
        self._closing = ExitStack()

    def start_stack(self, prepare: Callable[[Settings], None]) -> None:
        """Start the stack, the worker and the gateway."""
        self.stack.start(prepare=prepare)
        self._closing.callback(self.stack.stop)
        self.settings = self.stack.info()
        self.sql = self._closing.enter_context(psycopg.connect(self.settings.dsn("app"), autocommit=True))
        ready = "select 1 from pg_stat_activity where application_name like 'syncline-worker-%% ready%%'"
        self.until("the worker to be ready", lambda: self.value(ready))

    def start_emulator(self, port: int = 0, seed: int = 1) -> None:
        """Start the emulated system on a free port, or on the one it had."""
        log = self.home / "logs" / "emulator.log"
        before = log.stat().st_size if log.exists() else 0
        self.emulator = Child.start(
            [sys.executable, "-m", "connectors.emulators", SYSTEM, "--port", str(port), "--seed", str(seed)],
            environment={"PYTHONUNBUFFERED": "1"},
            log=log,
            record=self.home / "run" / "emulator.pid",
            account=None,
            death_signal=signal.SIGKILL,
        )
        self._closing.callback(self.emulator.destroy)

        def address() -> str | None:
            found = _URL.search(log.read_bytes()[before:])
            return found[0].decode() if found else None

        self.theirs = Emulated(self.until("the emulator to listen", address, 20))

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run SQL as the application's role."""
        cursor = self.sql.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, *values: object) -> Any:
        """The first column of the first row; None when there is none."""
        found = self.rows(statement, *values)
        return found[0][0] if found else None

    def until(self, what: str, true: Callable[[], Any], timeout_s: float = 60, every_s: float = 0.01) -> Any:
        """Wait until `true()` is; what it was then. Ask seldom where the question is work for those who answer.

        Raises:
            Problem: `demo_timeout`, naming what was waited for.
        """
        deadline = time.monotonic() + timeout_s
        while not (found := true()):
            if time.monotonic() > deadline:
                raise Problem(
                    "demo_timeout",
                    f"waited {timeout_s:.0f} s in vain for: {what}",
                    "Look at `syncline status` and the logs.",
                    log=str(self.home / "logs"),
                )
            time.sleep(every_s)
        return found

    def open_intents(self) -> int:
        """Wishes that are neither fulfilled nor waiting for a person."""
        return int(
            self.value(
                "select count(*) from sync.push_intent where state in ('PENDING', 'RETRY', 'SENDING', 'UNKNOWN')"
            )
        )

    def quiet(self, silence_s: float, timeout_s: float = 120) -> None:
        """Wait until nothing is open, all webhooks are taken, and the other side saw no write for `silence_s`."""
        self.until("all intents to be done", lambda: self.open_intents() == 0, timeout_s, every_s=0.05)
        taken = lambda: not self.theirs.counts()["webhooks"]["waiting"]  # noqa: E731
        self.until("all webhooks to be taken", taken, timeout_s, every_s=0.2)
        calls, since, deadline = self._write_count(), time.monotonic(), time.monotonic() + timeout_s
        while time.monotonic() - since < silence_s:
            time.sleep(0.1)
            if (now := self._write_count()) != calls or self.open_intents():
                calls, since = now, time.monotonic()
            if time.monotonic() > deadline:
                raise Problem("demo_timeout", f"writes went on for {timeout_s:.0f} s", "Look at `syncline status`.")

    def _write_count(self) -> int:
        return int(self.theirs.counts().get("submissions", 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
