"""`make accept-inbound`: the inbound engine at full size, on a stack of its own. Prints JSON; 0 when all held.

Each step has an organisation and emulated systems of its own, and returns what it measured and whether it held.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests.acceptance import site
from tests.acceptance.fuzz import fuzz
from tests.acceptance.histories import histories
from tests.acceptance.site import Site, Step, Theirs, Told

KIND = "people"
KILLS = {"worker": 20, "gateway": 5}
FIELDS = ("first_name", "last_name", "national_id")

Version = tuple[str, str]
"""Id of a record of theirs, and when it came to be as it is."""


class Inbound:
    """The steps; `scale` shrinks every size for a quick look."""

    def __init__(self, at: Site, seed: int, scale: float) -> None:
        self.site = at
        self.seed = seed
        self.scale = scale
        self.dice = random.Random(seed)
        self.numbers = itertools.count(10**6)
        """National ids: two people with the same one would be put to a person."""

    def size(self, full: int) -> int:
        return max(1, int(full * self.scale))

    def random_histories(self) -> Told:
        """Histories of two systems and our own tables through the real rules; see `tests.acceptance.histories`."""
        return histories(self.size(100_000), self.seed)

    def hostile_bodies(self) -> Told:
        """Webhook bodies that no honest system sends; see `tests.acceptance.fuzz`."""
        return fuzz(self.site, self.size(10_000), self.seed)

    # webhooks under kills ---------------------------------------------------------------------------------------------

    def webhooks_under_kills(self) -> Told:
        """Webhooks doubled, reordered and lost, while workers and gateways die; then one poll."""
        org, changes = "org_flood", self.size(100_000)
        theirs = self.site.emulate("sim-keyed", seed=self.seed)
        self.site.listen(self.site.connect(org, "sim-keyed", theirs, delete_policy="delete"), theirs)
        rates = {"webhook-duplicate": 0.1, "webhook-reorder": 0.2, "webhook-drop": 0.05}
        theirs.set("faults", [{"kind": kind, "rate": rate} for kind, rate in rates.items()])
        started = time.monotonic()
        made = self._edits(theirs, changes)
        sent = self._drained(theirs)
        theirs.set("faults", [])
        took = time.monotonic() - started
        self._applied(org)
        self._poll(org, "sim-keyed")
        self._applied(org)
        told = self._compare(org, theirs, made) | {"webhooks": sent, "changes": changes, "took_s": round(took, 1)}
        told |= {"kills": {component: self.size(count) for component, count in KILLS.items()}}
        clean = ("differing", "lost_after_202", "not_theirs", "doubled", "waiting")
        return told | {"held": not any(told[each] for each in clean) and told["recovered"] > 0}

    def _edits(self, theirs: Theirs, changes: int) -> set[Version]:
        """Make the changes while processes die; what they were."""
        made: set[Version] = set()
        living: list[str] = []
        kills = self._kills(changes)
        while len(made) < changes:
            batch = min(200, changes - len(made))
            records = [self._change(living, number) for number in range(batch)]
            for record in theirs.edit(KIND, records):
                made.add(_version(record))
                living.append(record["id"])
            if self.dice.random() < 0.5 and len(living) > 1000:
                gone = self.dice.choice(living)
                living = [each for each in living if each != gone]
                theirs.remove(KIND, gone)
            if kills and len(made) >= kills[0][0]:
                self._kill(kills.pop(0)[1])
            # their outbox drops beyond its limit: they do not write faster than they can send
            self.site.until("their outbox to have room", lambda: theirs.counts()["webhooks"]["waiting"] < 2_000, 300)
        for _, component in kills:
            self._kill(component)
        return made

    def _kill(self, component: str) -> None:
        """SIGKILL it; it is back when this returns. Started by hand, since a supervisor gives up what dies so often."""
        self.site.stack.kill(component)
        self.site.stack.start_component(component)

    def _kills(self, changes: int) -> list[tuple[float, str]]:
        """After how many changes which component dies."""
        return sorted(
            ((k + 0.5) / count * changes, component)
            for component, full in KILLS.items()
            for count in [self.size(full)]
            for k in range(count)
        )

    def _change(self, living: Sequence[str], number: int) -> dict[str, Any]:
        name = f"{self.dice.randrange(10**6)}"
        fields = {"first_name": f"F{name}", "last_name": f"L{number}", "national_id": f"N{next(self.numbers)}"}
        if len(living) > 500 and self.dice.random() < 0.8:
            return {"id": self.dice.choice(living), **fields}
        return fields

    def _drained(self, theirs: Theirs) -> dict[str, int]:
        self.site.until("their webhooks to be sent", lambda: not theirs.counts()["webhooks"]["waiting"], 900, 0.5)
        counts: dict[str, int] = theirs.counts()["webhooks"]
        return counts

    def _poll(self, org: str, name: str) -> None:
        """One poll of everything."""
        asked = time.time()
        done = self.site.cli("--org", org, "connections", "set", name, "--poll-interval", "5")
        if done.returncode:
            raise AssertionError(done.stderr)
        self.site.until(
            "a poll that began after the last webhook",
            lambda: self.site.value(
                "select count(*) from sync.checkpoint where org_id = %s and external_type = %s"
                " and polled_at > to_timestamp(%s) and failures = 0", org, KIND, asked
            ),
            300,
        )  # fmt: skip

    def _applied(self, org: str) -> None:
        """Wait until nothing of this organisation is on its way inbound."""
        last, since = -1, time.monotonic()
        deadline = time.monotonic() + 900
        while time.monotonic() - since < 15 and time.monotonic() < deadline:
            found = self.site.value("select count(*) from sync.applied_event where org_id = %s", org)
            found += self.site.value("select count(*) from sync.waiting_event where org_id = %s", org)
            if found != last:
                last, since = found, time.monotonic()
            time.sleep(1)

    def _compare(self, org: str, theirs: Theirs, made: set[Version]) -> Told:
        there = theirs.records(KIND)
        rows = self.site.rows(
            "select l.external_id, p.first_name, p.last_name, p.national_id from sync.external_link l"
            " join canon.person p on p.org_id = l.org_id and p.id = l.entity_id"
            " where l.org_id = %s and l.deleted_at is null and p.deleted_at is null", org
        )  # fmt: skip
        here = {row[0]: row[1:] for row in rows}
        differing = [each for each, record in there.items() if here.get(each) != tuple(record[name] for name in FIELDS)]
        ledger = {
            (row[0], row[1].isoformat(timespec="milliseconds"))
            for row in self.site.rows(
                "select external_id, occurred_at at time zone 'UTC' from sync.applied_event where org_id = %s", org
            )
        }  # fmt: skip
        buried = self.site.value("select count(*) from sync.dead_letter where org_id = %s", org)
        taken = {_version(body["record"]) for body in theirs.taken()}
        told = made | {_version(record) for record in theirs.listed(KIND)} | taken
        linked = "select count(distinct entity_id) from sync.external_link where org_id = %s"
        people = "select count(*) from canon.person where org_id = %s"
        return {
            "records": len(there),
            "differing": len(differing) + len(here.keys() - there.keys()),
            "examples": differing[:3],
            "accepted": len(taken),
            "lost_after_202": max(0, len(taken - ledger) - buried),
            "not_theirs": len(ledger - told),
            "doubled": self.site.value(people, org) - self.site.value(linked, org),
            "waiting": self.site.value("select count(*) from sync.waiting_event where org_id = %s", org),
            "dead_letters": buried,
            "decisions": dict(
                self.site.rows("select decision, count(*) from sync.applied_event where org_id = %s group by 1", org)
            ),
            "recovered": int(
                self.site.value("select coalesce(sum(recovered), 0) from sync.checkpoint where org_id = %s", org)
            ),
        }

    # hub --------------------------------------------------------------------------------------------------------------

    def hub(self) -> Told:
        """Edits in one of three systems, taken in and passed on to the two others."""
        org, edits, people = "org_hub", self.size(10_000), self.size(1_000)
        systems = {name: self.site.emulate("sim-keyed", seed=self.seed + n) for n, name in enumerate(("a", "b", "c"))}
        for name, theirs in systems.items():
            self.site.listen(self.site.connect(org, "sim-keyed", theirs, name=name, guard={"updates": None}), theirs)
        records = systems["a"].edit(KIND, [{"first_name": f"P{n}", "last_name": "Hub"} for n in range(people)])
        for name in ("b", "c"):
            self.site.until(
                f"all people in {name}", lambda name=name: len(systems[name].records(KIND)) == people, 300, 0.5
            )
        self._quiet(systems, 10)
        before = {name: theirs.counts()["calls"] for name, theirs in systems.items()}
        planned_before = self._planned(org)
        versions_before = self._versions(org)
        known_before = self._ledger(org, "a")
        ids = [record["id"] for record in records]
        started = time.monotonic()
        for start in range(0, edits, 100):
            chosen = [self.dice.choice(ids) for _ in range(min(100, edits - start))]
            systems["a"].edit(KIND, [{"id": each, "national_id": f"{start + n}"} for n, each in enumerate(chosen)])
        self.site.until("their webhooks", lambda: not systems["a"].counts()["webhooks"]["waiting"], 600, 0.5)
        last = self._quiet(systems, 60)
        writes = {name: self._writes(theirs, before[name]) for name, theirs in systems.items()}
        changed = self._versions(org) - versions_before
        events = self._ledger(org, "a") - known_before
        planned = {name: count - planned_before.get(name, 0) for name, count in self._planned(org).items()}
        told: Told = {
            "edits": edits,
            "events": dict(events),
            "row_changes": changed,
            "planned": planned,
            "pushes": writes,
            "coalesced": {
                "edits_in_one_row_change": edits - changed,
                "row_changes_in_one_plan": {name: changed - planned[name] for name in ("b", "c")},
                "plans_in_one_push": {name: planned[name] - writes[name] for name in ("b", "c")},
            },
            "took_s": round(last - started, 1),
            "silent_s": 60,
            "differing": self._hub_differs(org, systems),
        }
        exact = all(0 < writes[name] <= planned[name] <= changed for name in ("b", "c"))
        exact = exact and events.total() == edits and changed <= events["applied"]
        return told | {"held": exact and writes["a"] == 0 and not told["differing"]}

    def _versions(self, org: str) -> int:
        return int(self.site.value("select sum(version) from canon.person where org_id = %s", org))

    def _ledger(self, org: str, connection: str) -> Counter[str]:
        found = self.site.rows(
            "select decision, count(*) from sync.applied_event where org_id = %s and connection = %s group by 1",
            org, connection
        )  # fmt: skip
        return Counter(dict(found))

    def _planned(self, org: str) -> dict[str, int]:
        found = self.site.rows(
            "select connection, sum(wanted_seq) from sync.push_intent where org_id = %s group by 1", org
        )
        return {name: int(count) for name, count in found}

    def _writes(self, theirs: Theirs, after: int) -> int:
        """Records written since: a batch call writes several."""
        calls = [each for each in theirs.calls(after) if each["method"] != "GET" and each["status"] < 300]
        return sum(max(1, len(each["keys"])) for each in calls)

    def _quiet(self, systems: Mapping[str, Theirs], seconds: float) -> float:
        """Wait until no system was called for so long; when the last call was."""
        last, since = -1, time.monotonic()
        deadline = time.monotonic() + 900
        while time.monotonic() - since < seconds:
            calls = sum(theirs.counts()["calls"] for theirs in systems.values())
            if calls != last:
                last, since = calls, time.monotonic()
            if time.monotonic() > deadline:
                return since
            time.sleep(0.5)
        return since

    def _hub_differs(self, org: str, systems: Mapping[str, Theirs]) -> int:
        rows = self.site.rows(
            "select l.connection, l.external_id, p.national_id from sync.external_link l"
            " join canon.person p on p.org_id = l.org_id and p.id = l.entity_id where l.org_id = %s", org
        )  # fmt: skip
        held = {name: theirs.records(KIND) for name, theirs in systems.items()}
        wrong = sum(1 for name, theirs, value in rows if held[name].get(theirs, {}).get("national_id") != value)
        return wrong + abs(len(rows) - sum(map(len, held.values())))


def _version(record: Mapping[str, Any]) -> Version:
    return record["id"], record["updated_at"].partition("+")[0]


def steps(at: Site, seed: int, scale: float) -> Sequence[Step]:
    """All of them, in the order of the list."""
    run = Inbound(at, seed, scale)
    return [run.random_histories, run.webhooks_under_kills, run.hub, run.hostile_bodies]


if __name__ == "__main__":
    sys.exit(site.run("inbound", (__doc__ or "").splitlines()[0], steps))
