"""What happens in the demo, scene by scene. Each says what it does, does it, and shows what came of it."""

from __future__ import annotations

import time
from datetime import datetime
from statistics import quantiles
from typing import Any

import orjson
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.pretty import Pretty
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streams.demo import people
from streams.demo.world import World

MANY = 1_000
AT_ONCE = 50
PERSON = "individual"


class Scenes:
    """The scenes, in order, and the number of changes they made.

    Attributes:
        edited_there: records whose last change came from there, with the number of the last call before it: nothing
            may be sent to them afterwards.
    """

    def __init__(self, world: World, console: Console) -> None:
        self.world = world
        self.console = console
        self.changes = 0
        self.edited_there: dict[str, int] = {}

    def first(self) -> None:
        """One row, while everything is still cold."""
        self._title("One row, by plain SQL: no id, no version")
        statement = "insert into canon.person (first_name, last_name) values ('Ada', 'Lovelace') returning id"
        self.console.print(statement, style="dim", highlight=False)
        person = self.world.value(statement)
        committed = time.time()
        self.world.until("the row to arrive", lambda: self.world.theirs.record(PERSON, person))
        arrived = min(call["at"] for call in self.world.theirs.writes() if person in call["keys"])
        self.changes += 1
        self._say(f"{person} is there after {1000 * (arrived - committed):.0f} ms, the first time; all is cold")

    def load(self) -> None:
        """1,000 people by one SQL statement."""
        self._title("1,000 people are inserted by plain SQL, in one transaction")
        rows = people.rows()
        self.console.print(people.LOAD.replace("%(people)s", "$1"), style="dim", highlight=False)
        before = self.world.theirs.counts()
        started = time.time()
        self.world.sql.execute(people.LOAD, {"people": orjson.dumps(rows).decode()})
        self.changes += len(rows)
        committed = time.time()
        with Progress(
            TextColumn("arriving"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=self.console
        ) as bar:
            task = bar.add_task("", total=len(rows))

            def arrived() -> bool:
                count = int(self.world.theirs.counts()["submissions"]) - int(before["submissions"])
                bar.update(task, completed=count)
                return count >= len(rows)

            self.world.until("1,000 people to arrive", arrived, every_s=0.2)
        last = max(call["at"] for call in self.world.theirs.writes(before["calls"]))
        seconds = last - committed
        self._say(
            f"SQL took {committed - started:.2f} s; all {len(rows):,} were there {seconds:.2f} s after COMMIT, "
            f"{len(rows) / max(seconds, 0.001):,.0f} people/s, {self._arrivals(before['calls'])}"
        )

    def _arrivals(self, after: int) -> str:
        """Commit (Debezium's source.ts_us) to arrival (the emulator's clock), over all writes since."""
        arrival = {key: call["at"] for call in self.world.theirs.writes(after) for key in call["keys"]}
        commits = dict(self.world.rows("select entity_id, committed_at from sync.delivery where outcome = 'delivered'"))
        waits = sorted(arrival[key] - at.timestamp() for key, at in commits.items() if key in arrival and at)
        return f"commit to arrival {_percentiles(waits)}"

    def one_by_one(self) -> None:
        """Single commits on an idle pipeline."""
        self._title("50 single commits, one after the other, on an idle pipeline")
        self.world.quiet(0.5)
        ids = [row[0] for row in self.world.rows("select id from canon.person order by id limit 50")]
        after = self._last_call()
        commits = {}
        for each in ids:
            self.world.sql.execute("update canon.person set membership_status = 'member' where id = %s", (each,))
            commits[each] = time.time()
            time.sleep(0.04)
        self.changes += len(ids)
        self.world.until(
            "the 50 to arrive", lambda: len(self._arrived(after) & commits.keys()) == len(ids), every_s=0.2
        )
        first: dict[str, float] = {}
        for call in self.world.theirs.writes(after):
            for key in call["keys"]:
                first.setdefault(key, call["at"])
        waits = [first[key] - at for key, at in commits.items()]
        self._say(f"from COMMIT, read on our clock, to their server: {_percentiles(waits)}")

    def side_by_side(self) -> None:
        """One person in both systems, and its journey."""
        self._title("One person, in our table and over there, and how it got there")
        person = self.world.value("select id from canon.person where first_name is not null order by id limit 1")
        self.world.quiet(0.2)
        row = self.world.rows(
            "select to_jsonb(p) - 'sync_key' - 'changed_xid' - 'custom' from canon.person p where id = %s", person
        )[0][0]
        record = self.world.theirs.record(PERSON, person)
        panels = [
            Panel(Pretty(row, expand_all=True), title="canon.person", width=58),
            Panel(Pretty(record, expand_all=True), title="their JSON", width=58),
        ]
        self.console.print(Columns(panels) if self.console.width >= 118 else panels[0])
        if self.console.width < 118:
            self.console.print(panels[1])
        self.console.print(self._journey(person))

    def _journey(self, entity_id: str) -> Table:
        hops = self.world.rows(
            "select committed_at, planned_at, claimed_at, sent_at, answered_at, recorded_at from sync.delivery"
            " where entity_id = %s order by id desc limit 1",
            entity_id,
        )[0]
        names = ("COMMIT in Postgres", "planned", "claimed, bytes frozen", "request sent", "answered", "recorded")
        return _hops(f"the last change of {entity_id}", list(zip(names, hops, strict=True)))

    def edit_there(self) -> None:
        """An edit there comes back."""
        self._title("Somebody edits that person over there; the webhook brings it back")
        person = self._person(1)
        after = self._last_call()
        edited = time.time()
        self.world.theirs.edit(PERSON, person, lastName="Edited-There")
        self.world.until("the edit to come back", lambda: self._last_name(person) == "Edited-There", 20)
        self._say(f"our row says last_name = 'Edited-There' {1000 * (time.time() - edited):.0f} ms after the edit")
        self.edited_there[person] = after
        self.changes += 1

    def lost_webhook(self) -> None:
        """A webhook is lost; the poll makes it good."""
        self._title("The next webhook is lost on the way; the poll (every 2 s here) makes it good")
        person = self._person(2)
        after = self._last_call()
        self.world.theirs.faults({"kind": "webhook-drop", "next": 1})
        edited = time.time()
        self.world.theirs.edit(PERSON, person, lastName="Webhook-Lost")
        self.world.until("the poll to bring the edit", lambda: self._last_name(person) == "Webhook-Lost", 20)
        self.world.theirs.faults()
        self._say(f"our row has it {time.time() - edited:.1f} s after the edit")
        self.edited_there[person] = after
        self.changes += 1

    def kill(self) -> None:
        """The worker is killed with writes in flight; some of them had been applied there, some not."""
        self._title(f"{MANY:,} changes; the worker is killed (SIGKILL) with at least {AT_ONCE} writes in flight")
        self.world.theirs.faults(
            {"kind": "5xx-after", "rate": 0.3, "method": "POST"},
            {"kind": "slow", "rate": 1, "method": "POST", "delay_ms": 300},
        )
        edited = list(self.edited_there)
        count = self.world.sql.execute(
            "update canon.person set membership_status = 'killed-' || right(id, 4) where id <> all(%s)", (edited,)
        ).rowcount
        self.changes += count
        self.world.until("writes in flight", lambda: self._sending() >= AT_ONCE)
        in_flight = self._sending()
        self.world.stack.kill("worker", restart=True)
        killed = time.time()
        self.world.theirs.faults()
        self._say(f"killed with {in_flight} writes in flight; its successor starts")
        duplicates = self.world.theirs.counts().get("duplicate_guids", 0)
        self.world.quiet(0.5)
        repeats = self.world.theirs.counts().get("duplicate_guids", 0) - duplicates
        self._say(f"all {count:,} changes are there {time.time() - killed:.1f} s after the kill")
        self._say(f"what was in flight was sent again with the same bytes and key; {repeats} repeats changed nothing")

    def both_at_once(self) -> None:
        """Both sides edit the same field."""
        self._title("Both sides edit the same field at once")
        person = self._person(3)
        # their server is slow to take our write, so that their own edit surely comes first
        self.world.theirs.faults({"kind": "slow", "rate": 1, "method": "POST", "delay_ms": 1000})
        self.world.sql.execute("update canon.person set last_name = 'Ours' where id = %s", (person,))
        time.sleep(0.1)
        self.world.theirs.edit(PERSON, person, lastName="Theirs")
        self.changes += 2
        found = self.world.until(
            "the conflict to be decided",
            lambda: self.world.rows(
                "select field, ours, theirs, winner, rule, ours_at, theirs_at from sync.conflict_log"
                " where entity_id = %s",
                person,
            ),
            20,
        )
        self.world.theirs.faults()
        self.world.quiet(0.5)
        table = Table("field", "ours", "theirs", "winner", "rule", "ours at", "theirs at", title=person)
        for field, ours, theirs, winner, rule, ours_at, theirs_at in found:
            table.add_row(field, str(ours), str(theirs), winner, rule, _clock(ours_at), _clock(theirs_at))
        self.console.print(table)
        there = (self.world.theirs.record(PERSON, person) or {})["data"]["lastName"]
        self._say(
            f"both sides now say {self._last_name(person)!r} and {there!r}; the loser is kept in sync.conflict_log"
        )

    def _arrived(self, after: int) -> set[str]:
        return {key for call in self.world.theirs.writes(after) for key in call["keys"]}

    def _last_call(self) -> int:
        return int(self.world.theirs.counts()["calls"])

    def _person(self, number: int) -> str:
        """A person that no other scene uses."""
        return str(self.world.value("select id from canon.person order by id desc offset %s limit 1", number * 7))

    def _last_name(self, person: str) -> str | None:
        name: str | None = self.world.value("select last_name from canon.person where id = %s", person)
        return name

    def _sending(self) -> int:
        return int(self.world.value("select count(*) from sync.push_intent where state = 'SENDING'"))

    def _title(self, text: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{text}", align="left")

    def _say(self, text: str) -> None:
        self.console.print(f"  {text}", highlight=False)


def _percentiles(seconds: list[float]) -> str:
    cuts = quantiles(sorted(seconds), n=100)
    return f"p50 {1000 * cuts[49]:.0f} ms, p99 {1000 * cuts[98]:.0f} ms"


def _clock(at: datetime | None) -> str:
    return at.strftime("%H:%M:%S.%f")[:-3] if at else ""


def _hops(title: str, hops: list[tuple[str, Any]]) -> Table:
    table = Table("hop", "at", "ms since COMMIT", title=title)
    start = hops[0][1]
    for name, at in hops:
        table.add_row(name, _clock(at), f"{1000 * (at - start).total_seconds():.1f}" if at and start else "")
    return table
