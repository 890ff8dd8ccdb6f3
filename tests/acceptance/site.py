"""What the acceptance runs of the flows share: a stack of their own, emulated systems, organisations, a report."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx
import psycopg

from connectors import config
from schemas.problems import Problem
from streams import connections, logging
from streams.choices import Choices
from streams.prepare import prepare
from streams.resources import plan_all
from streams.stack.embedded import Stack
from streams.stack.processes import Child

Told = dict[str, Any]
Step = Callable[[], Told]
_URL = re.compile(rb"http://[0-9.]+:[0-9]+")


class Theirs:
    """One emulated system, through its control API."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=f"{url}/_emulator", timeout=120)

    def records(self, kind: str) -> dict[str, Any]:
        """Id -> record of one type."""
        found: dict[str, Any] = self._get("/state")["records"].get(kind, {})
        return found

    def counts(self) -> dict[str, Any]:
        """Calls, creates per record, answers by status."""
        return self._get("/counts")

    def calls(self, after: int = 0) -> list[dict[str, Any]]:
        """The calls since number `after`, oldest first."""
        found: list[dict[str, Any]] = []
        while page := self._get("/calls", after=found[-1]["n"] if found else after, limit=20_000):
            found += page
        return found

    def edit(self, kind: str, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Edit records that have an `id`, add the others, as users of theirs; the records as they are then."""
        return list(self._http.put(f"/records/{kind}", json=list(records)).raise_for_status().json())

    def remove(self, kind: str, record_id: str) -> None:
        """Delete a record, as a user of theirs."""
        self._http.delete(f"/records/{kind}/{record_id}").raise_for_status()

    def listed(self, kind: str) -> list[dict[str, Any]]:
        """What a poll of everything reads: the living and the gone."""
        found: list[dict[str, Any]] = []
        query = {"limit": "500"}
        while True:
            page = self._http.get(f"{self.url}/v1/{kind}", params=query).raise_for_status().json()
            found += page["data"]
            if page["next"] is None:
                return found
            query["cursor"] = page["next"]

    def taken(self) -> list[dict[str, Any]]:
        """The bodies of the webhooks that were answered with 2xx."""
        found: list[dict[str, Any]] = []
        while page := self._get("/webhooks", after=len(found)):
            found += page
        return found

    def set(self, what: str, content: Any) -> Any:
        """`faults`, `limits`, `reject`, `webhooks` … as the control API takes them."""
        return self._http.post(f"/{what}", json=content).raise_for_status().json()

    def _get(self, path: str, **query: Any) -> Any:
        return self._http.get(path, params=query).raise_for_status().json()


class Site:
    """The stack with a worker and a gateway. Use as a context manager."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stack = Stack(home, stack_only=False)
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        self.stack.start(prepare=prepare)
        self._closing.callback(self.stack.stop)
        self.settings = self.stack.info()
        self.sql = self._closing.enter_context(psycopg.connect(self.settings.dsn("app"), autocommit=True))
        self.until("the worker to be ready", self.workers)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def workers(self) -> int:
        """How many workers are ready."""
        ready = "select count(*) from pg_stat_activity where application_name like 'syncline-worker-%% ready%%'"
        return int(self.value(ready))

    def emulate(self, system: str, *options: str, seed: int = 1) -> Theirs:
        """Start an emulated system on a free port, without records."""
        log = self.home / "logs" / f"{system}-{time.monotonic_ns()}.log"
        child = Child.start(
            [sys.executable, "-m", "connectors.emulators", system, "--port", "0", "--seed", str(seed), *options],
            environment={"PYTHONUNBUFFERED": "1"},
            log=log,
            record=self.home / "run" / f"{log.stem}.pid",
            account=None,
            death_signal=signal.SIGKILL,
        )
        self._closing.callback(child.destroy)
        found = self.until(
            "the emulator to listen", lambda: _URL.search(log.read_bytes()) if log.exists() else None, 20
        )
        return Theirs(found[0].decode())

    def worker(self) -> subprocess.Popen[bytes]:
        """A second worker; ends with the site."""
        command = [sys.executable, "-m", "streams", "--home", str(self.home), "worker"]
        log = (self.home / "logs" / "worker-2.log").open("ab")
        before = self.workers()
        process = subprocess.Popen(command, stdout=log, stderr=log)
        self._closing.callback(log.close)
        self._closing.callback(_end, process)
        self.until("the second worker to be ready", lambda: self.workers() > before, 60)
        return process

    def connect(
        self,
        org: str,
        system: str,
        theirs: Theirs,
        *,
        name: str = "",
        settings: Mapping[str, Any] | None = None,
        **choices: Any,
    ) -> connections.Webhook:
        """Connect an organisation to an emulated system, under the system's name if no other is given."""
        given = config.load({"type": system, "url": theirs.url, "extraFields": dict(settings or {})})
        service = connections.service(self.settings, "acceptance", plan_all())

        async def connect() -> connections.Connected:
            async with await psycopg.AsyncConnection.connect(self.settings.dsn("app"), autocommit=True) as conn:
                chosen = Choices(poll_interval_s=3600.0, **choices)
                return await service.connect(conn, org, name or system, given, chosen)

        return asyncio.run(connect()).webhook

    def listen(self, webhook: connections.Webhook, theirs: Theirs) -> None:
        """Have a system send its webhooks to our gateway."""
        url, secret = webhook.url.get_secret_value(), webhook.secret.get_secret_value()
        theirs.set("webhooks", {"url": url, "secret": secret})

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line on this site."""
        command = [sys.executable, "-m", "streams", "--home", str(self.home), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run SQL as the application's role; once more where it met somebody who had the same rows in another order."""
        while True:
            try:
                cursor = self.sql.execute(statement, values)
            except psycopg.errors.DeadlockDetected:
                continue
            return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, *values: object) -> Any:
        """The first column of the first row; None when there is none."""
        found = self.rows(statement, *values)
        return found[0][0] if found else None

    def people(self, org: str, count: int) -> list[str]:
        """Insert so many people in one transaction; their ids in order."""
        found = self.rows(
            "insert into canon.person (org_id, first_name, last_name, national_id)"
            " select %s, 'First' || n, 'Last' || n, n::text from generate_series(1, %s) n returning id", org, count
        )  # fmt: skip
        return [row[0] for row in found]

    def states(self, org: str, connection: str | None = None) -> dict[str, int]:
        """State -> intents."""
        return dict(
            self.rows(
                "select state, count(*) from sync.push_intent"
                " where org_id = %s and connection = coalesce(%s, connection) group by state", org, connection
            )
        )  # fmt: skip

    def settled(self, org: str, intents: int, timeout_s: float = 300) -> None:
        """Wait until an organisation has so many intents and none of them is open."""

        def done() -> bool:
            states = self.states(org)
            resting = sum(states.get(state, 0) for state in ("DONE", "DEAD", "PARKED", "HELD"))
            return sum(states.values()) == resting >= intents

        self.until(f"the {intents} intents of {org} to rest", done, timeout_s, every_s=0.25)

    def until(self, what: str, true: Callable[[], Any], timeout_s: float = 60, every_s: float = 0.05) -> Any:
        """Wait until `true()` is; what it was then. Raises Problem `waited_in_vain`, naming what was waited for."""
        deadline = time.monotonic() + timeout_s
        while not (found := true()):
            if time.monotonic() > deadline:
                raise Problem("waited_in_vain", f"{timeout_s:.0f} s for: {what}", log=str(self.home / "logs"))
            time.sleep(every_s)
        return found


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


def run(name: str, description: str, steps: Callable[[Site, int, float], Sequence[Step]]) -> int:
    """Run the steps on a site, one after the other; print one JSON document; the exit code.

    What has held is kept in `.accept/NAME.json` and not run again with the same seed and scale, until `--fresh`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes; 1 is what counts")
    parser.add_argument("--only", default="", help="names of steps, comma separated")
    parser.add_argument("--fresh", action="store_true", help="run also what has held before")
    given = parser.parse_args()
    logging.configure("warning")
    kept = Path(".accept") / f"{name}.json"
    told: Told = {"seed": given.seed, "scale": given.scale}
    if kept.exists() and not given.fresh:
        before = json.loads(kept.read_text())
        if before.get("seed") == given.seed and before.get("scale") == given.scale:
            told |= {step: found for step, found in before.items() if isinstance(found, dict) and found.get("held")}
    home = Path(tempfile.mkdtemp(prefix=f"syncline-{name}-"))
    home.chmod(0o711)
    with Site(home) as site:
        chosen = [
            s for s in steps(site, given.seed, given.scale) if not given.only or s.__name__ in given.only.split(",")
        ]
        for step in chosen:
            if step.__name__ in told:
                continue
            started = time.monotonic()
            try:
                told[step.__name__] = step()
            except Problem as problem:
                told[step.__name__] = {"held": False} | problem.as_json()
            told[step.__name__]["seconds"] = round(time.monotonic() - started, 1)
            print(json.dumps({step.__name__: told[step.__name__]}, default=str), file=sys.stderr, flush=True)
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(told, indent=2, default=str))
    held = all(each["held"] for each in told.values() if isinstance(each, dict))
    print(json.dumps(told | {"held": held, "cpus": os.cpu_count()}, indent=2, default=str))
    if held:
        shutil.rmtree(home, ignore_errors=True)
    return 0 if held else 1
