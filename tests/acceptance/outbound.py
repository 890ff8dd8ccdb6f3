"""`make accept-outbound`: the outbound engine at full size, on a stack of its own. Prints JSON; 0 when all held.

Each step has an organisation and emulated systems of its own, and returns what it measured and whether it held.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.acceptance import site
from tests.acceptance.outage import outage
from tests.acceptance.site import Site, Step, Theirs, Told
from tests.integration.conftest import Server

TIERS = ("sim-keyed", "sim-client-id", "sim-search", "sim-none")
KIND = "people"


class Outbound:
    """The steps; `scale` shrinks every size for a quick look."""

    def __init__(self, at: Site, seed: int, scale: float) -> None:
        self.site = at
        self.seed = seed
        self.scale = scale
        self.dice = random.Random(seed)

    def size(self, full: int) -> int:
        return max(1, int(full * self.scale))

    def lost_answers(self) -> Told:
        """Creates with 10 % of the answers dropped after they were applied, in every create tier."""
        org, count, told = "org_lost", self.size(10_000), {}
        systems = {tier: self.site.emulate(tier, seed=self.seed) for tier in TIERS}
        for tier, theirs in systems.items():
            if tier == "sim-search":
                theirs.set("settings", {"read_lag_s": 2})
            method = "PUT" if tier == "sim-client-id" else "POST"
            theirs.set("faults", [{"kind": "drop-after", "rate": 0.1, "method": method}])
            self.site.connect(org, tier, theirs, option=2)  # what a poll finds there makes no rows
        started = time.monotonic()
        self.site.people(org, count)
        self.site.settled(org, len(TIERS) * count, 900)
        held = True
        for tier, theirs in systems.items():
            counts = theirs.counts()
            creates = Counter(counts["creates"].get(KIND, {}))
            states = self.site.states(org, tier)
            dropped = counts["by_status"].get("0", 0)
            tells: Told = {
                "made": len(creates),
                "doubled": sum(1 for times in creates.values() if times > 1),
                "answers_dropped": dropped,
                "states": states,
            }
            expected = {"DONE": count - dropped, "PARKED": dropped} if tier == "sim-none" else {"DONE": count}
            tells["held"] = tells["made"] == count and not tells["doubled"] and states == expected and dropped > 0
            held = held and tells["held"]
            told[tier] = tells
        return {"creates": count, "took_s": round(time.monotonic() - started, 1), **told, "held": held}

    def stuck_keys(self) -> Told:
        """Updates on few keys, 1 % of them stuck: order per key, and the others are as fast as without."""
        updates, keys = self.size(100_000), self.size(2_000)
        without = self._updates("org_free", updates // 2, keys, stuck=0)
        beside = self._updates("org_stuck", updates // 2, keys, stuck=max(1, keys // 100))
        ratio = round(beside["p99_ms"] / without["p99_ms"], 3)
        inversions = without["inversions"] + beside["inversions"]
        return {
            "updates": updates,
            "keys": keys,
            "without": without,
            "beside": beside,
            "p99_ratio": ratio,
            "held": inversions == 0 and ratio <= 1.1 and without["behind"] == beside["behind"] == 0,
        }

    def _updates(self, org: str, updates: int, keys: int, *, stuck: int) -> Told:
        theirs = self.site.emulate("sim-keyed", seed=self.seed)
        self.site.connect(org, "sim-keyed", theirs, concurrency=64, guard={"updates": None})
        people = self.site.people(org, keys)
        self.site.settled(org, keys)
        tied = people[:stuck]
        theirs.set("faults", [{"kind": "half-open", "rate": 1, "contains": each} for each in self._ids(org, tied)])
        free, after = people[stuck:], theirs.counts()["calls"]
        committed: dict[str, dict[int, float]] = defaultdict(dict)
        pace, number, step = 600.0, 0, 60
        started = time.monotonic()
        while number < updates:
            chosen = self.dice.sample(free, min(step - len(tied[:1]), len(free)))
            chosen += self.dice.sample(tied, 1) if tied else []
            rows = [{"id": each, "n": number + place} for place, each in enumerate(chosen)]
            self.site.rows(
                "update canon.person p set national_id = j.n::text"
                " from json_to_recordset(%s::json) as j(id text, n int) where p.org_id = %s and p.id = j.id",
                json.dumps(rows), org,
            )  # fmt: skip
            at = time.time()
            for row in rows:
                committed[row["id"]][row["n"]] = at
            number += len(rows)
            time.sleep(max(0.0, started + number / pace - time.monotonic()))
        theirs.set("faults", [])
        self.site.settled(org, keys, 300)
        waits, inversions = self._waits(theirs, after, committed, frozenset(tied))
        cuts = statistics.quantiles(waits, n=100)
        held_there = {r["external_ref"]: r["national_id"] for r in theirs.records(KIND).values()}
        behind = sum(1 for each, told in committed.items() if held_there.get(each) != str(max(told)))
        told = {"p50_ms": round(cuts[49], 1), "p99_ms": round(cuts[98], 1), "arrivals": len(waits), "behind": behind}
        return told | {"stuck": stuck, "inversions": inversions, "per_s": round(number / (time.monotonic() - started))}

    def _ids(self, org: str, people: Sequence[str]) -> list[str]:
        found = self.site.rows(
            "select external_id from sync.external_link where org_id = %s and entity_id = any(%s)", org, list(people)
        )
        return [row[0] for row in found]

    def _waits(
        self, theirs: Theirs, after: int, committed: dict[str, dict[int, float]], tied: frozenset[str]
    ) -> tuple[list[float], int]:
        """Milliseconds from a commit to its arrival, of the keys that are not stuck; arrivals out of order."""
        link = {record_id: record["external_ref"] for record_id, record in theirs.records(KIND).items()}
        waits, inversions, newest = [], 0, {}
        for call in theirs.calls(after):
            if call["method"] != "PATCH" or not call["status"]:
                continue
            key = link[call["keys"][0]]
            number = int(json.loads(call["body"])["national_id"])
            inversions += number < newest.get(key, -1)
            newest[key] = max(number, newest.get(key, -1))
            if key not in tied and number in committed[key]:
                waits.append(1000 * (call["at"] - committed[key][number]))
        return waits, inversions

    def quota(self) -> Told:
        """100 calls per 20 s, shared by two workers; then half of it."""
        org, theirs = "org_quota", self.site.emulate("sim-keyed", seed=self.seed)
        theirs.set("limits", {"calls": 100, "per_s": 20})
        self.site.connect(org, "sim-keyed", theirs)
        second = self.site.worker()
        self.site.people(org, 1000)
        windows = 5
        time.sleep(20 * windows + 2)
        lowered_at = time.time()
        theirs.set("limits", {"calls": 50, "per_s": 20})
        time.sleep(20 * 3 + 2)
        calls = [call for call in theirs.calls() if call["method"] == "POST"]
        slots = {row[0] for row in self.site.rows("select distinct slot from sync.push_intent where org_id = %s", org)}
        second.terminate()
        before = [call for call in calls if call["at"] < lowered_at]
        throttled = sum(1 for call in calls if call["status"] == 429)
        first = before[0]["at"]
        full = [call for call in before if call["at"] < first + 20 * windows and call["status"] != 429]
        use = len(full) / (100 * windows)
        late = [call for call in calls if call["at"] > lowered_at + 20]
        after = max(Counter(int((call["at"] - lowered_at) // 20) for call in late).values(), default=0)
        told = {"calls": len(calls), "throttled": throttled, "share_429": round(throttled / len(calls), 4)}
        told |= {"use": round(use, 3), "per_window_after": after, "workers": self.site.workers(), "slots": len(slots)}
        self.site.rows("update sync.connection set state = 'paused' where org_id = %s", org)
        self.site.rows("select pg_notify('sync_connection', %s)", f"{org}/sim-keyed")
        return told | {"held": told["share_429"] <= 0.005 and use >= 0.9 and after <= 50}

    def half_an_hour_of_outage(self) -> Told:
        """On a clock that jumps, with a Postgres of its own."""
        folder = Path(tempfile.mkdtemp(prefix="syncline-outage-"))
        folder.chmod(0o711)
        server = Server(folder)
        server.start()
        try:
            from streams.store.migrate import migrate

            database = server.database("outage", folder)
            migrate(database)
            told = asyncio.run(outage(database, self.size(50_000)))
        finally:
            server.stop()
        good = told["share_of_backlog"] <= 0.02 and told["ratio"] <= 1.2
        return told | {"held": good and told["not_done"] == told["doubled"] == 0}

    def slot_dropped(self) -> Told:
        """The slot goes while rows are written; the documented command brings it back."""
        org, theirs, count = "org_slot", self.site.emulate("sim-keyed", seed=self.seed), self.size(3_000)
        self.site.connect(org, "sim-keyed", theirs, delete_policy="delete")
        people = self.site.people(org, count)
        self.site.settled(org, count)
        after = theirs.counts()["calls"]
        changed = people[: count // 2]
        self._rename(org, changed[: len(changed) // 2], "before")
        with psycopg.connect(self.site.settings.dsn("admin"), autocommit=True) as admin:
            dropped_at = time.time()
            self._drop_slot(admin)
        self._rename(org, changed[len(changed) // 2 :], "gap")
        self.site.rows("delete from canon.person where id = any(%s)", people[-10:])
        new = self.site.people(org, 100)
        red = self.site.until("capture to be red", self._red, 30, every_s=0.1)
        red_s = round(time.time() - dropped_at, 1)
        command = self.site.cli("connectors", "apply", "--new-slot")
        self._rename(org, new, "later")
        expected = count + 100 - 10
        self.site.until("all of it to be there", lambda: self._equal(org, theirs) == expected, 180, every_s=1)
        self.site.settled(org, count + 100)
        time.sleep(35)  # two more sweeps: nothing may follow
        writes = [c for c in theirs.calls(after) if c["method"] in ("POST", "PATCH", "DELETE") and c["status"] < 300]
        creates = Counter(theirs.counts()["creates"][KIND])
        # those that were new in the gap were created, and perhaps renamed after it
        needless = len(writes) - len(changed) - 10 - len({*new}) - sum(1 for c in writes if self._renames(c, "later"))
        told = {"red_s": red_s, "red": red, "command": command.returncode, "writes": len(writes), "needless": needless}
        told |= {"doubled": sum(1 for n in creates.values() if n > 1), "lost": expected - self._equal(org, theirs)}
        told["missed"] = dict(self.site.rows("select name, sum(value)::int from sync.counter group by name"))
        good = red_s <= 10 and command.returncode == 0 and needless <= 0
        return told | {"held": good and told["doubled"] == told["lost"] == 0}

    def _rename(self, org: str, people: Sequence[str], name: str) -> None:
        self.site.rows(
            "update canon.person set first_name = %s where org_id = %s and id = any(%s)", name, org, list(people)
        )

    def _renames(self, call: dict[str, Any], name: str) -> bool:
        return call["method"] == "PATCH" and json.loads(call["body"]).get("first_name") == name

    def _drop_slot(self, admin: psycopg.Connection) -> None:
        while admin.execute("select 1 from pg_replication_slots where slot_name = 'syncline'").fetchone():
            admin.execute("select pg_terminate_backend(active_pid) from pg_replication_slots where active")
            try:
                admin.execute("select pg_drop_replication_slot('syncline')")
            except psycopg.errors.ObjectInUse:
                continue

    def _red(self) -> Any:
        found = self.site.rows("select code, cause from sync.capture_state where state = 'red'")
        return found[0] if found else None

    def _equal(self, org: str, theirs: Theirs) -> int:
        """How many of our rows they hold as we do; minus one when they hold others."""
        ours = dict(self.site.rows("select id, first_name from canon.person where org_id = %s", org))
        held = {record["external_ref"]: record["first_name"] for record in theirs.records(KIND).values()}
        return sum(1 for each, name in ours.items() if held.get(each) == name) if held.keys() <= ours.keys() else -1

    def rejected_rows(self) -> Told:
        """One transaction with 1 % of rows that they refuse; mended, those follow by themselves."""
        org, theirs, count = "org_rejected", self.site.emulate("sim-keyed", seed=self.seed), self.size(5_000)
        bad = max(1, count // 100)
        theirs.set("reject", {"type": KIND, "field": "last_name", "equals": "Nobody", "message": "last_name: unknown"})
        self.site.connect(org, "sim-keyed", theirs)
        self.site.rows(
            "insert into canon.person (org_id, first_name, last_name) select %s, 'First' || n,"
            " case when n %% 100 = 0 then 'Nobody' else 'Last' || n end from generate_series(1, %s) n", org, count,
        )  # fmt: skip
        self.site.settled(org, count)
        letters = self.site.rows(
            "select state, cause, count(*) from sync.dead_letter where org_id = %s group by 1, 2", org
        )
        states = self.site.states(org)
        self.site.rows("update canon.person set last_name = 'Mended' where org_id = %s and last_name = 'Nobody'", org)
        done = lambda: self.site.states(org).get("DONE", 0) == count  # noqa: E731
        self.site.until("the mended rows to be confirmed", done, 60)
        closed = self.site.value("select count(*) from sync.dead_letter where org_id = %s and state = 'open'", org)
        held = states == {"DONE": count - bad, "DEAD": bad} and closed == 0
        told = len(letters) == 1 and letters[0][2] == bad and "last_name: unknown" in letters[0][1]
        return {"rows": count, "states": states, "dead_letters": letters, "open_after": closed, "held": held and told}

    def accidental_delete(self) -> Told:
        """DELETE FROM canon.person with deletes switched on: held, then approved; and once more, dropped."""
        told, held = {}, True
        for decision in ("approve", "drop"):
            org, theirs, count = f"org_{decision}", self.site.emulate("sim-keyed", seed=self.seed), self.size(10_000)
            self.site.connect(org, "sim-keyed", theirs, delete_policy="delete")
            self.site.people(org, count)
            self.site.settled(org, count)
            self.site.rows("delete from canon.person where org_id = %s", org)
            stopped = lambda org=org, count=count: self.site.states(org).get("HELD", 0) >= count - 20  # noqa: E731
            self.site.until("the deletes to be held", stopped, 120, every_s=0.25)
            self.site.settled(org, count)
            calls = [call for call in theirs.calls() if call["method"] == "DELETE"]
            hold = self.site.value("select id from sync.mass_hold where org_id = %s and state = 'open'", org)
            command = self.site.cli("--org", org, "holds", decision, str(hold))
            self.site.settled(org, count)
            left = len(theirs.records(KIND))
            tells = {
                "deleted_before": len(calls),
                "command": command.returncode,
                "left_there": left,
                "said": command.stdout,
            }
            tells["states"] = self.site.states(org)
            expected = 0 if decision == "approve" else count - len(calls)
            tells["held"] = len(calls) <= 20 and command.returncode == 0 and left == expected
            held = held and bool(tells["held"])
            told[decision] = tells
        return told | {"held": held}


def steps(at: Site, seed: int, scale: float) -> Sequence[Step]:
    """In order."""
    run = Outbound(at, seed, scale)
    return [
        run.lost_answers,
        run.rejected_rows,
        run.accidental_delete,
        run.stuck_keys,
        run.quota,
        run.half_an_hour_of_outage,
        run.slot_dropped,
    ]


if __name__ == "__main__":
    sys.exit(site.run("outbound", (__doc__ or "").splitlines()[0], steps))
