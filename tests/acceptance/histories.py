"""Random histories of one person over two systems and our own tables, through the real rules, folding and write plans.

What is real: `folding.fold` and what `writing` makes of it, `writes.plan_write`, `routing.route`. What is modelled: the
two systems with their clocks and webhooks, the stamp trigger, and the `confirm` statement of outbound.sql, each in few
lines. Every value that is written is unique, so that for each of them it can be told what became of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from connectors import registry
from connectors.contract import ExternalRecord, Op
from schemas import model as models
from schemas.fields import Document
from streams.inbound import folding, tracks, writing
from streams.inbound.incoming import Incoming, Unit, unit_of
from streams.inbound.loaded import Loaded, Record, State
from streams.inbound.publish import Sender, event_of
from streams.inbound.tracks import Track
from streams.outbound.writes import Claim, Linked, Planned, plan_write
from streams.rules import overtaken, routing
from streams.rules.clock_errors import Measured
from streams.rules.routing import Target, Verdict
from streams.rules.sides import Over, Policy
from streams.store.aggregates import Rows
from streams.store.canon_writes import Written
from streams.store.connections import Connection

MODEL = models.load()
MANIFEST = registry.find("sim-keyed").manifest
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIELDS = ("first_name", "last_name", "gender")
ORG, KIND, PERSON = "org", "people", "person_01jd8z3v5vf0qb4xk6r7n2m9pe"
MOST_EVENTS = 12
POLICIES = ("lww", "lww_record", "local", "remote", "manual", "merge", "merge:concat", "merge:max")
RESOLVERS = ("newest", "longest", "min", "concat")
ROUNDS = 40
"""Exchanges within which everything must have come to rest."""
TICK = timedelta(milliseconds=1)


def connection(name: str, delete: str, policies: dict[str, Any] | None = None) -> Connection:
    """A live connection as `sync.connection` would have it."""
    chosen = {"person": policies or {}}
    return Connection(
        org_id=ORG, name=name, system=MANIFEST.name, url="https://x.example", auth=None, settings={}, option=1,
        mode="both", delete_policy=delete, conflict_policy="lww", conflict_policies=chosen, retry_policy="durable",
        poll_interval_s=900.0, poll_intervals={}, full_read_every_s=0.0, allow_http=False, allow_private=False,
        http2=False, compress=False,
        filters={}, on_leave="keep", fields={}, concurrency=None, guard={}, budget={}, gates={"person": "live"},
        state="active", state_reason=None, epoch=1, created_at=START,
    )  # fmt: skip


@dataclass(slots=True)
class System:
    """One of their systems: a record at a time, a clock that is off, webhooks that are on their way."""

    name: str
    skew: timedelta
    whole: bool
    """It takes the whole record in every write, and so overwrites what it was not told of."""
    echoes: bool
    """It sends webhooks for what we write, too."""
    record: Document | None = None
    version: int = 0
    at: datetime = START
    number: int = 1
    sent: list[ExternalRecord] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Of the record: another one when it is made anew."""
        return f"{self.name}{self.number}"

    def stamp(self, now: datetime) -> None:
        self.at = max(now + self.skew, self.at + TICK)
        self.version += 1

    def told(self) -> ExternalRecord:
        """Its record as a webhook or a poll tells it."""
        op = Op.DELETE if self.record is None else Op.UPDATE
        return ExternalRecord(KIND, self.id, op, self.at, dict(self.record or {}), str(self.version))


@dataclass(frozen=True, slots=True)
class Closed:
    """A link that was taken away."""

    state: State
    at: datetime | None
    by_us: bool


@dataclass(slots=True)
class Pipe:
    """One connection: the link's state and the wish."""

    unit: Unit
    there: System
    state: State
    ahead: timedelta
    link: str | None = None
    """Their id of the record that is linked."""
    closed: dict[str, Closed] = field(default_factory=dict)
    rev: int = 1
    wanted: bool = False
    flying: Planned | None = None
    answer: tuple[str, datetime] | None = None
    seen: set[bytes] = field(default_factory=set)
    waits: list[ExternalRecord] = field(default_factory=list)
    questions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Field -> what a person is asked about it."""

    def known(self, external_id: str) -> Record:
        """What the tables know of a record, as `reading.load` tells it."""
        if external_id == self.link:
            return Record(external_id, f"link_{external_id}", PERSON, self.state)
        if (closed := self.closed.get(external_id)) is None:
            return Record(external_id)
        back = self.link is None and not closed.by_us
        found = Record(external_id, None, PERSON if back else None, closed.state, came_back=back, former=PERSON)
        found.unlinked_at, found.deleted_by_us = closed.at, closed.by_us
        return found

    def close(self, at: datetime | None, *, by_us: bool) -> None:
        """Take the link away."""
        if self.link is not None:
            self.closed[self.link], self.link = Closed(self.state, at, by_us), None


class History:
    """One history. `log` is the conflict log, `reasons` the ledger."""

    def __init__(self, dice: random.Random, *, deletes: bool, policies: bool = False) -> None:
        self.dice = dice
        self.policies = policies
        self.now = START + timedelta(days=1)
        self.values = itertools.count(1)
        self.deletes = deletes
        base: Document = {name: f"{name}0" for name in FIELDS}
        empty = {each.canonical: None for each in MANIFEST.aggregate(KIND).fields}
        self.root: dict[str, Any] = {
            "id": PERSON, "version": 1, "origin": "local", "origin_event": None, "modified_at": START.isoformat(),
            "field_times": {}, "deleted_at": None, **empty, **base,
        }  # fmt: skip
        self.pipes = {name: self._pipe(name, base) for name in ("a", "b")}
        self.log: list[dict[str, Any]] = []
        self.written: dict[str, tuple[str, str]] = {}
        self.superseded: set[Any] = set()
        self.edits = 0
        self.pushes = 0
        self.deleted_last = False
        self.made = 0

    def _pipe(self, name: str, base: Document) -> Pipe:
        skew = timedelta(seconds=self.dice.randrange(-3600, 3600))
        there = System(name, skew, self.dice.random() < 0.5, self.dice.random() < 0.7, dict(base), 1, START)
        policies = self._policies() if self.policies else None
        measured = skew + timedelta(milliseconds=self.dice.randrange(-500, 500))
        doubt = timedelta(minutes=self.dice.choice((0, 1, 30)) if self.policies else 0)
        clock = Measured(measured, abs(measured) + doubt)
        delete = "delete" if self.deletes else "ignore"
        unit = unit_of(connection(name, delete, policies), MANIFEST, KIND, MODEL, clock)
        known = {f.canonical: None for f in MANIFEST.aggregate(KIND).fields if not f.references} | base
        return Pipe(unit, there, State("1", START, START, None, known), measured, there.id)

    @property
    def may_keep(self) -> bool:
        """Whether a policy, a person or a clock in doubt may keep what was deleted last."""
        terms = [pipe.unit.terms for pipe in self.pipes.values()]
        return any(each.policy in (Policy.LOCAL, Policy.MANUAL) or each.tolerance for each in terms)

    def _policies(self) -> dict[str, Any]:
        """Any policy for the record, and another one for some of its fields."""
        chosen: dict[str, Any] = {"policy": self.dice.choice(list(Policy)), "resolver": self.dice.choice(RESOLVERS)}
        chosen["fields"] = {name: self.dice.choice(POLICIES) for name in FIELDS if self.dice.random() < 0.3}
        return chosen | self.dice.choice(({}, {"ties": "ours"}, {"ties": "theirs"}))

    # what people do ---------------------------------------------------------------------------------------------------

    def act(self, actor: str) -> None:
        """One edit or delete by a user of a system, or of ours (`local`)."""
        self.now += timedelta(seconds=self.dice.randrange(1, 1200))
        self.edits += 1
        gone = self.deletes and self.dice.random() < 0.08
        name = self.dice.choice(FIELDS)
        value = f"{name}{next(self.values)}"
        if actor == "local":
            self._act_here(name, value, gone=gone)
            return
        there = self.pipes[actor].there
        if there.record is None:
            return
        there.stamp(self.now)
        if gone:
            self.superseded |= {each for each, (by, _) in self.written.items() if by == actor} | set(
                there.record.values()
            )
            there.record = None
        else:
            self._supersede(there.record[name], value, actor, name)
            there.record[name] = value
        self.deleted_last = gone
        there.sent.append(there.told())

    def _act_here(self, name: str, value: str, *, gone: bool) -> None:
        if self.root["deleted_at"] is not None:
            return
        self.deleted_last = gone
        if gone:
            self._stamp({"deleted_at": self.now.isoformat()}, self.now, "local", {})
            return
        self._supersede(self.root[name], value, "local", name)
        self._stamp({name: value}, self.now, "local", {})

    def _supersede(self, before: Any, value: str, actor: str, name: str) -> None:
        """Whoever writes a field does so over what they see, and over what they wrote there before."""
        self.superseded |= {before} | {each for each, by in self.written.items() if by == (actor, name)}
        self.written[value] = actor, name

    def _stamp(self, columns: dict[str, Any], at: datetime, origin: str, times: dict[str, datetime]) -> None:
        """The trigger, and the plan that follows the commit."""
        default = self.root["field_times"] or {"": self.root["modified_at"]}
        given = {key: when.isoformat() for key, when in times.items()} or dict.fromkeys(columns, at.isoformat())
        self.root |= columns | {"field_times": default | given, "modified_at": at.isoformat(), "origin": origin}
        self.root["version"] += 1
        for name, pipe in self.pipes.items():
            target = Target(name, 1, "active", "live")
            if routing.route({origin}, target, takes_type=True, linked=pipe.link is not None).verdict is Verdict.PUSH:
                pipe.wanted = True

    # what we do -------------------------------------------------------------------------------------------------------

    def hear(self, name: str, record: ExternalRecord, source: str = "webhook") -> None:
        """Apply one event, as the applier does."""
        pipe, unit = self.pipes[name], self.pipes[name].unit
        event = event_of(record, Sender(ORG, name, MANIFEST.name), source=source, received_at=self.now)  # type: ignore[arg-type]
        if event.event_id in pipe.seen:
            return
        known = pipe.known(record.external_id)
        if known.entity_id is None and pipe.flying and pipe.flying.write.op is Op.CREATE:
            pipe.waits.append(record)  # as inbound.waiting does
            return
        pipe.seen.add(event.event_id)
        rows = {PERSON: Rows(dict(self.root))} if known.entity_id or known.former else {}
        loaded = Loaded({record.external_id: known}, rows=rows)
        if pipe.flying or pipe.wanted:
            loaded.intents[PERSON] = pipe.flying.sent if pipe.flying else {}
        loaded.questions[PERSON] = set(pipe.questions)
        loaded.shared = {PERSON}
        loaded.lost[PERSON] = [each for each in map(tracks.lost, self.log) if each]
        folded = folding.fold(unit, loaded, [Incoming(event, dict(record.payload), ahead=pipe.ahead)])
        tracks.retime(self.log, folded.moved)
        self.log += folded.losers
        for track in folded.tracks:
            self.made += track.entity is not None and track.entity.made
            for write in writing.rows_of(unit, loaded, track):
                self._stamp(write.columns, write.modified_at, write.origin, dict(write.times))
            if track.state_moved and track.record.link_id is not None:
                pipe.link = record.external_id
                pipe.rev += 1
                pipe.state = track.record.state
                self._ask(pipe, track)
                if writing.needs_correction(loaded, track, Written()):
                    pipe.wanted = True
                if track.gone:
                    pipe.close(pipe.state.at, by_us=False)

    def _ask(self, pipe: Pipe, track: Track) -> None:
        """The statements `save_questions` and `close_questions`."""
        asked, settled = writing.questions_of(track, set(pipe.questions))
        for question in asked:
            self._replace(pipe, question["field"], question["theirs"])
            pipe.questions[question["field"]] = question
        for name in settled:
            self._replace(pipe, name, self.root[name])
            del pipe.questions[name]

    def _replace(self, pipe: Pipe, name: str, theirs: Any) -> None:
        before = pipe.questions.get(name)
        if before is not None and before["theirs"] != theirs:
            self._lose(name, before["ours"], before["theirs"], "ours")

    def _lose(self, name: str, ours: Any, theirs: Any, winner: str) -> None:
        row = {"entity_id": PERSON, "field": name, "ours": ours, "theirs": theirs, "winner": winner, "rule": "manual"}
        self.log.append(row)

    def answer(self) -> bool:
        """A person answers all questions, as the conflict desk does; whether there were any."""
        asked = [(pipe, each) for pipe in self.pipes.values() for each in pipe.questions.values()]
        for pipe, question in asked:
            name, side = question["field"], self.dice.choice(("ours", "theirs"))
            ours = self.root[name]
            self._lose(name, ours, question["theirs"], side)
            pipe.wanted = True
            if name == "deleted_at":
                self._answer_delete(pipe, side)
            elif side == "theirs":
                self._stamp({name: question["theirs"]}, self.now, "local", {})
            pipe.questions.clear()
        return bool(asked)

    def _answer_delete(self, pipe: Pipe, side: str) -> None:
        if side == "theirs":
            self._stamp({"deleted_at": self.now.isoformat()}, self.now, "local", {})
        else:
            pipe.close(pipe.state.at, by_us=False)

    def push(self, name: str) -> None:
        """Take the next step of a write: freeze it, have it applied there, or hear the answer."""
        pipe = self.pipes[name]
        if pipe.answer is not None:
            self._confirm(pipe)
        elif pipe.flying is not None:
            self._apply(pipe)
        elif pipe.wanted:
            self._freeze(pipe)

    def _freeze(self, pipe: Pipe) -> None:
        pipe.wanted = False
        state, asked = pipe.state, {name: question["theirs"] for name, question in pipe.questions.items()}
        linked = Linked(pipe.link or "", pipe.rev, dict(state.base or {}), asked, state.version)  # type: ignore[arg-type]
        links = {PERSON: linked} if pipe.link else {}
        plan = plan_write(
            _claim(self.now), Rows(dict(self.root)), links, connection=pipe.unit.connection, manifest=MANIFEST
        )
        if isinstance(plan, Planned):
            pipe.flying = plan

    def _apply(self, pipe: Pipe) -> None:
        there, plan = pipe.there, pipe.flying
        assert plan is not None
        if there.record is None and plan.write.op is Op.UPDATE:
            pipe.flying = None  # 404: it is dead until something newer is wanted
            return
        self.pushes += 1
        self.now += timedelta(seconds=self.dice.randrange(1, 60))
        there.stamp(self.now)
        there.number += plan.write.op is Op.CREATE
        if plan.write.op is Op.DELETE:
            there.record = None
        else:
            payload = plan.write.payload
            carried = (
                payload
                if there.whole or plan.write.op is Op.CREATE
                else {k: v for k, v in payload.items() if k in plan.write.changed}
            )
            there.record = {**(there.record or {}), **{k: v for k, v in carried.items() if k in FIELDS}}
        if there.echoes:
            there.sent.append(there.told())
        pipe.answer = str(there.version), there.at

    def _confirm(self, pipe: Pipe) -> None:
        """The `confirm` and `unlink` statements."""
        plan, answer, state = pipe.flying, pipe.answer, pipe.state
        assert plan is not None
        assert answer is not None
        pipe.flying = pipe.answer = None
        if plan.write.op is Op.DELETE:
            pipe.close(self.now, by_us=True)
            return
        if plan.write.op is Op.UPDATE and not pipe.link:
            return  # of the record that they deleted meanwhile
        version, at = answer
        if plan.write.op is Op.CREATE:
            pipe.link, pipe.rev = pipe.there.id, pipe.rev + 1
            pipe.state = State(version, at, None, self.now, dict(plan.sent))
            pipe.there.sent += pipe.waits
            pipe.waits = []
            return
        moved = pipe.rev != plan.rev
        newer = state.at is None or at > state.at
        if newer:
            push = Over(dict(state.base or {}), state.version, state.at, version, at)
            state.over = (*state.over, push)[-overtaken.KEPT :]
            state.version, state.at = version, at
        if not moved or newer:
            state.base = dict(plan.sent)
        state.pushed_at = self.now
        pipe.rev += 1
        pipe.wanted = pipe.wanted or moved

    # how it ends ------------------------------------------------------------------------------------------------------

    def settle(self) -> bool:
        """Exchange until nothing is wanted or on its way, once more after a poll, and once more after a person has
        answered what is asked; whether it came to rest."""
        quiet = self._exchange()
        for name, pipe in self.pipes.items():
            self.hear(name, pipe.there.told(), "poll")
        quiet = quiet and self._exchange()
        for _ in range(ROUNDS):
            if not (quiet and self.answer()):
                return quiet
            quiet = self._exchange()
        return False

    def _exchange(self) -> bool:
        for _ in range(ROUNDS):
            busy = False
            for name, pipe in self.pipes.items():
                while pipe.there.sent:
                    self.hear(name, pipe.there.sent.pop(self.dice.randrange(len(pipe.there.sent))))
                    busy = True
                while pipe.wanted or pipe.flying:
                    self.push(name)
                    busy = True
            if not busy:
                return True
        return False

    def state(self) -> tuple[Any, ...]:
        """The final state of all three."""
        ours = None if self.root["deleted_at"] else tuple(self.root[name] for name in FIELDS)
        return (ours, *(self._held(pipe.there) for pipe in self.pipes.values()))

    def _held(self, there: System) -> Any:
        return None if there.record is None else tuple(there.record.get(name) for name in FIELDS)

    def unlogged(self) -> list[str]:
        """Values that somebody wrote, nobody wrote over, and that are neither in the end state nor in the log."""
        if self.root["deleted_at"]:
            return []  # the row keeps its values, and the mark can be taken away
        final = {self.root[name] for name in FIELDS}
        logged = {row["ours"] for row in self.log} | {row["theirs"] for row in self.log}
        return sorted(self.written.keys() - self.superseded - final - logged)


def _claim(now: datetime) -> Claim:
    empty: dict[str, Any] = dict.fromkeys(Claim.__dataclass_fields__)
    for computed in ("resent", "before", "version", "modified_at"):
        del empty[computed]
    return Claim(
        **empty
        | {"external_type": KIND, "entity_type": "person", "entity_id": PERSON, "sync_key": f"{ORG}/{PERSON}"}
        | {"reason": "change", "fence": 1, "claimed_seq": 1, "generation": 1, "attempt": 1, "resolve_tries": 0}
        | {"event_done": 0, "claimed_at": now}
    )


# the two kinds of run -------------------------------------------------------------------------------------------------


def mixed(seed: int, *, deletes: bool, policies: bool = False) -> History:
    """Edits, deliveries in any order, doubled ones and half-done pushes, all mixed."""
    dice = random.Random(seed)
    history = History(dice, deletes=deletes, policies=policies)
    for _ in range(dice.randrange(2, MOST_EVENTS + 1)):
        history.act(dice.choice(("a", "b", "local")))
        for _ in range(dice.randrange(0, 4)):
            name = dice.choice(("a", "b"))
            waiting = history.pipes[name].there.sent
            if waiting and dice.random() < 0.6:
                place = dice.randrange(len(waiting))
                history.hear(name, waiting[place] if dice.random() < 0.1 else waiting.pop(place))
            else:
                history.push(name)
    return history


def apart(seed: int, *, deletes: bool = False) -> tuple[list[tuple[str, ExternalRecord]], Any]:
    """Edits that nobody heard of yet: what has to be delivered, and a maker of fresh histories that have made them."""

    def make() -> History:
        dice = random.Random(seed)
        history = History(dice, deletes=deletes)
        for _ in range(dice.randrange(2, 6)):
            history.act(dice.choice(("a", "b", "local")))
        return history

    history = make()
    return [(name, record) for name, pipe in history.pipes.items() for record in pipe.there.sent], make


def orders_of(seed: int, *, deletes: bool = False) -> Iterable[History]:
    """One history for every order in which the events of `apart` can arrive, whoever sent them."""
    waiting, make = apart(seed, deletes=deletes)
    for order in itertools.permutations(range(len(waiting))):
        history = make()
        for pipe in history.pipes.values():
            pipe.there.sent.clear()
        for place in order:
            history.hear(*waiting[place])
        yield history


def judge(history: History, found: Counter[str], examples: list[str], seed: int) -> Any:
    """Let a history come to rest and count what is wrong with it; the final state."""
    quiet = history.settle()
    ours, *others = history.state()
    wrong = {
        "not_quiet": not quiet,
        "diverged": quiet and any(each != ours for each in others),
        "unlogged": quiet and bool(history.unlogged()),
        "resurrected": quiet
        and ((history.deleted_last and ours is not None and not history.may_keep) or history.made > 0),
    }
    found["orders"] += 1
    found["events"] += history.edits
    found["pushes"] += history.pushes
    found["conflicts"] += len(history.log)
    for name, is_wrong in wrong.items():
        found[name] += is_wrong
        if is_wrong and len(examples) < 5:
            examples.append(f"{name}: seed {seed}")
    return ours


def chunk(first: int, count: int) -> tuple[Counter[str], list[str]]:
    """Run histories `first` … `first + count - 1`: of four, one apart, in all orders, every other with deletes; three
    mixed, one with deletes and one with any policies."""
    found: Counter[str] = Counter(dict.fromkeys(("diverged", "unlogged", "resurrected", "not_quiet"), 0))
    examples: list[str] = []
    for seed in range(first, first + count):
        found["histories"] += 1
        if seed % 4:
            history = mixed(seed, deletes=seed % 4 == 2 or seed % 8 == 7, policies=seed % 4 == 3)
            judge(history, found, examples, seed)
            continue
        ends = {judge(each, found, examples, seed) for each in orders_of(seed, deletes=seed % 8 == 4)}
        found["order_dependent"] += len(ends) > 1
        if len(ends) > 1 and len(examples) < 5:
            examples.append(f"order_dependent: seed {seed}")
    return found, examples


def histories(count: int, seed: int) -> dict[str, Any]:
    """Run so many histories on all cores; counts, and seeds of what went wrong."""
    size = max(1, min(500, count // 4))
    starts = range(seed, seed + count, size)
    with ProcessPoolExecutor() as pool:
        results = list(pool.map(chunk, starts, [min(size, seed + count - start) for start in starts]))
    total = sum((found for found, _ in results), Counter[str]())
    examples = [each for _, some in results for each in some][:10]
    bad = ("diverged", "unlogged", "resurrected", "not_quiet", "order_dependent")
    told = {"seed": seed, **dict.fromkeys(bad, 0), **total, "examples": examples}
    return told | {"held": not any(told[each] for each in bad)}


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m tests.acceptance.histories --count N`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--count", type=int, default=1000)
    given = parser.parse_args(arguments)
    told = histories(given.count, given.seed)
    print(json.dumps(told, indent=2))
    return 0 if told["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
