"""`make accept-skeleton`: the first slice end to end at full size, on a stack of its own. Prints JSON; 0 when all held.

Each step is a function that returns what it measured and whether it held. Sizes and the seed are in the output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg

from schemas.problems import Problem
from streams import logging
from streams.demo.audit import pushes_of, sync_compare
from streams.demo.run import connect
from streams.demo.world import SYSTEM, World
from streams.prepare import prepare
from streams.resources import manifest
from streams.stack.embedded import Stack

PERSON = "individual"
Told = dict[str, Any]


class Run:
    """One acceptance run: the world it acts on, its seed, its sizes."""

    def __init__(self, world: World, seed: int, rows: int) -> None:
        self.world = world
        self.dice = random.Random(seed)
        self.rows = rows

    def audit(self) -> Told:
        settings = self.world.settings
        audit = sync_compare(settings.dsn("app"), settings.org_id, self.world.theirs, manifest(SYSTEM))
        found = {"compared": audit.compared, "lost": audit.lost, "doubled": audit.doubled, "examples": audit.examples}
        return found | {"held": audit.lost == audit.doubled == 0}

    def sending(self) -> int:
        return int(self.world.value("select count(*) from sync.push_intent where state = 'SENDING'"))

    def many_rows_in_one_transaction(self) -> Told:
        started = time.time()
        self.world.rows(
            "insert into canon.person (first_name, last_name)"
            " select 'First' || n, 'Last' || n from generate_series(1, %s) n", self.rows
        )  # fmt: skip
        committed = time.time()
        arrived = lambda: self.world.theirs.counts().get("submissions", 0) >= self.rows  # noqa: E731
        self.world.until("all rows to arrive", arrived, 300, every_s=0.5)
        self.world.quiet(1)
        last = max(call["at"] for call in self.world.theirs.writes())
        seconds = {"insert_s": round(committed - started, 2), "all_there_s": round(last - committed, 2)}
        return self.audit() | seconds | {"rows": self.rows}

    def updates_under_kills(self) -> Told:
        ids = [row[0] for row in self.world.rows("select id from canon.person order by id")]
        chosen = self.dice.sample(ids, 500)
        self.world.theirs.faults(
            {"kind": "5xx-after", "rate": 0.05, "method": "POST"},
            {"kind": "slow", "rate": 1, "method": "POST", "delay_ms": 700},
        )
        in_flight, duplicates = [], self.world.theirs.counts().get("duplicate_guids", 0)
        for n in range(5):
            self._update(chosen[n * 100 : n * 100 + 60], f"kill-{n}")
            self.world.until("50 writes in flight", lambda: self.sending() >= 50, 60)
            in_flight.append(self.sending())
            self.world.stack.kill("worker", restart=True)
            self._update(chosen[n * 100 + 60 : n * 100 + 100], f"restart-{n}")
            self.world.until("writes in flight", lambda: self.sending() > 0, 60)
            self.world.stack.stop_component("worker")
            self.world.stack.start_component("worker")
        self.world.theirs.faults()
        self.world.quiet(1, 180)
        repeated = self.world.theirs.counts().get("duplicate_guids", 0) - duplicates
        last = self.world.theirs.counts()["submissions"]
        time.sleep(30)
        silent = self.world.theirs.counts()["submissions"] == last
        told = self.audit() | {
            "in_flight_at_kill": in_flight,
            "repeats_without_effect": repeated,
            "silent_30_s": silent,
        }
        return told | {"held": told["held"] and silent and min(in_flight) >= 50}

    def _update(self, ids: list[str], value: str) -> None:
        for each in ids:
            self.world.sql.execute(
                "update canon.person set membership_status = %s, first_name = %s where id = %s",
                (value, f"F{self.dice.randrange(10**6)}", each),
            )

    def plain_psql(self) -> Told:
        statement = "insert into canon.person (first_name) values ('Plain') returning id"
        done = self._cli("psql", "-At", "-c", statement)
        person = done.stdout.split()[0] if done.stdout else ""
        self.world.until("the row to arrive", lambda: self.world.theirs.record(PERSON, person), 20)
        return {"held": person.startswith("person_"), "id": person}

    def no_echo(self) -> Told:
        person = self._any_person()
        after = self.world.theirs.counts()["calls"]
        self.world.theirs.edit(PERSON, person, lastName="From-There")
        self._until_last_name(person, "From-There")
        self.world.theirs.edit(PERSON, "8a6e0804-2bd0-4672-b79d-d97027f9071a", firstName="New", lastName="There")
        self.world.until("a row for their new record", lambda: self._linked("8a6e0804-2bd0-4672-b79d-d97027f9071a"), 20)
        self.world.quiet(3)
        echoed = pushes_of(self.world.theirs, frozenset({person, "8a6e0804-2bd0-4672-b79d-d97027f9071a"}), after)
        return {"held": not echoed, "echoed": sum(echoed.values())}

    def conflict_that_we_win(self) -> Told:
        person = self._any_person()
        self.world.stack.stop_component("worker")
        self.world.theirs.edit(PERSON, person, lastName="Theirs-Earlier")
        time.sleep(0.5)
        self.world.sql.execute("update canon.person set last_name = 'Ours-Later' where id = %s", (person,))
        self.world.stack.start_component("worker")
        logged = self.world.until(
            "the conflict to be logged",
            lambda: self.world.rows("select winner, rule from sync.conflict_log where entity_id = %s", person),
            30,
        )
        self.world.quiet(1)
        there = (self.world.theirs.record(PERSON, person) or {})["data"]["lastName"]
        return {"held": there == "Ours-Later" and logged[0][0] == "ours", "there": there, "log": logged}

    def email_moves(self) -> Told:
        giver, taker = self._any_person(), self._any_person(1)
        email = self.world.value(
            "insert into canon.email (person_id, address) values (%s, 'moves@example.org') returning id", giver
        )
        self.world.until("the e-mail to arrive", lambda: self._emails(giver) == ["moves@example.org"], 20)
        self.world.sql.execute("update canon.email set person_id = %s where id = %s", (taker, email))
        self.world.until(
            "it to move", lambda: (self._emails(giver), self._emails(taker)) == ([], ["moves@example.org"]), 20
        )
        return {"held": True}

    def idle_latency(self) -> Told:
        self.world.quiet(1)
        ids = [row[0] for row in self.world.rows("select id from canon.person order by id limit 100")]
        after, commits = self.world.theirs.counts()["calls"], {}
        for each in ids:
            self.world.sql.execute("update canon.person set membership_status = 'idle' where id = %s", (each,))
            commits[each] = time.time()
            time.sleep(0.1)
        self.world.quiet(0.5)
        waits = sorted(
            1000 * (call["at"] - commits.pop(key))
            for call in self.world.theirs.writes(after) for key in call["keys"] if key in commits
        )  # fmt: skip
        cuts = statistics.quantiles(waits, n=100)
        told = {"commits": len(waits), "p50_ms": round(cuts[49], 1), "p95_ms": round(cuts[94], 1)}
        return told | {"p99_ms": round(cuts[98], 1), "held": len(waits) == len(ids)}

    def doctor(self) -> Told:
        healthy = self._cli("doctor")
        self._cli("stack", "stop", "connect")
        stopped = self._cli("doctor")
        self._lose_the_slot()
        self._cli("stack", "start", "connect")
        self.world.until("Connect to report RUNNING", self._connector_runs, 60)
        lost = self._cli("doctor")
        told = {"healthy": healthy.returncode, "connect_stopped": stopped.returncode, "slot_lost": lost.returncode}
        held = healthy.returncode == 0 and stopped.returncode != 0 and "connect" in stopped.stdout
        held = held and lost.returncode != 0 and "lost" in lost.stdout
        return told | {"held": held, "says": [line for line in lost.stdout.splitlines() if "lost" in line][:2]}

    def _lose_the_slot(self) -> None:
        with psycopg.connect(self.world.settings.dsn("admin"), autocommit=True) as admin:
            admin.execute("alter system set max_slot_wal_keep_size = '1MB'")
            admin.execute("select pg_reload_conf()")
            admin.execute("create table public.noise (t text)")
            for _ in range(200):
                admin.execute(
                    "insert into public.noise select repeat(md5(n::text), 30) from generate_series(1, 2000) n"
                )
                admin.execute("select pg_switch_wal()")
                admin.execute("checkpoint")
                row = admin.execute(
                    "select wal_status from pg_replication_slots where slot_name = 'syncline'"
                ).fetchone()
                if row and row[0] == "lost":
                    return
        raise Problem("slot_alive", "the slot could not be invalidated")

    def _connector_runs(self) -> bool:
        from httpx import HTTPError, get

        try:
            answer = get(f"{self.world.settings.connect_url}/connectors?expand=status", timeout=5).json()
        except (HTTPError, ValueError):
            return False
        return any(each["status"]["connector"]["state"] == "RUNNING" for each in answer.values())

    def _cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "streams", "--home", str(self.world.home), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def _any_person(self, offset: int = 0) -> str:
        self._used = getattr(self, "_used", 0) + 1
        return str(
            self.world.value("select id from canon.person order by id desc offset %s limit 1", self._used * 5 + offset)
        )

    def _until_last_name(self, person: str, name: str) -> None:
        told = lambda: self.world.value("select last_name from canon.person where id = %s", person) == name  # noqa: E731
        self.world.until(f"last_name to be {name}", told, 20)

    def _linked(self, external_id: str) -> bool:
        return bool(self.world.value("select entity_id from sync.external_link where external_id = %s", external_id))

    def _emails(self, person: str) -> list[str]:
        record = self.world.theirs.record(PERSON, person) or {"data": {}}
        return [email["address"] for email in record["data"].get("emails", [])]


def steps(run: Run) -> list[Callable[[], Told]]:
    """In order; the last one breaks the stack."""
    return [
        run.many_rows_in_one_transaction,
        run.updates_under_kills,
        run.plain_psql,
        run.no_echo,
        run.conflict_that_we_win,
        run.email_moves,
        run.idle_latency,
        run.doctor,
    ]


def leftovers(home: Path) -> list[str]:
    """Processes that still mention the home."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(home) in line and process.pid != psutil.Process().pid:
            found.append(line[:120])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=20261120)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--only", default="", help="names of steps, comma separated")
    given = parser.parse_args()
    logging.configure("warning")
    home = Path(tempfile.mkdtemp(prefix="syncline-accept-"))
    home.chmod(0o711)
    told: dict[str, Any] = {"seed": given.seed}
    with World(home, Stack(home, stack_only=False)) as world:
        world.start_stack(prepare)
        world.start_emulator(seed=given.seed)
        hook = asyncio.run(connect(world.settings, world.theirs.url, poll_interval_s=2.0)).webhook
        world.theirs.send_webhooks_to(hook.url.get_secret_value(), hook.secret.get_secret_value())
        for step in steps(Run(world, given.seed, given.rows)):
            if given.only and step.__name__ not in given.only.split(","):
                continue
            started = time.monotonic()
            try:
                told[step.__name__] = step()
            except Problem as problem:
                told[step.__name__] = {"held": False} | problem.as_json()
            told[step.__name__]["seconds"] = round(time.monotonic() - started, 1)
            print(json.dumps({step.__name__: told[step.__name__]}, default=str), file=sys.stderr, flush=True)
    told["left_behind"] = leftovers(home)
    held = all(each["held"] for each in told.values() if isinstance(each, dict)) and not told["left_behind"]
    print(json.dumps(told | {"held": held}, indent=2, default=str))
    if held:
        shutil.rmtree(home, ignore_errors=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
