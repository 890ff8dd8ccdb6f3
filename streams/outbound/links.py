"""Where each entity is linked, as a Faust table beside the planner: `cdc.sync.external_link` → `links`.

The planner asks `known` for every change; the answer needs no query, because the links of a root have its Kafka key and
so live in the partition whose changes this worker plans. It is positive knowledge only: a link that is not known yet
costs the planner a join, one that is gone costs the dispatcher a look; both read Postgres.

A link that a match or a person made also plans its entity, so that nothing which was skipped for want of the link stays
behind. That comes before the table is written: after a crash in between, the record comes again and is new again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import ref

import faust
import orjson
import structlog
from faust.streams import _current_event  # the table reads the partition it writes to from here

from connectors.debezium import envelope
from connectors.debezium.envelope import Change
from schemas.codec import Codec
from schemas.problems import Problem
from streams import topics
from streams.agents import AgentSpec
from streams.chunks import Chunk, Record

log = structlog.get_logger(__name__)

NAME = "outbound.links"
TABLE = "links"
CACHED_KEYS = 200_000
PLANNED = frozenset({"match", "person"})
"""Links made by these plan their entity; those made by a push or an inbound create come with its state."""

Plan = Callable[[Sequence[str]], Awaitable[None]]
Bury = Callable[[Chunk, Record, Problem], Awaitable[None]]

Entry = dict[str, dict[str, list[str | None]]]
"""connection -> id of the link -> [external type, external id, part, entity id]"""

# small caches: there is one database per partition, and hot keys are cached above it
_ROCKSDB = {
    "block_cache_size": 8 * 2**20,
    "write_buffer_size": 4 * 2**20,
    "max_write_buffer_number": 2,
    "max_open_files": 64,
}


def after(entry: Entry, change: Change) -> Entry:
    """The entry of a root after one change of one of its links."""
    row = change.row
    link = str(row["id"])
    rest = {name: {i: told for i, told in links.items() if i != link} for name, links in entry.items()}
    if not change.gone and not row.get("deleted_at"):
        told = [row.get(name) for name in ("external_type", "external_id", "part", "entity_id")]
        rest.setdefault(str(row["connection"]), {})[link] = told
    return {name: links for name, links in rest.items() if links}


def plans(entry: Entry, change: Change) -> bool:
    """Whether this change is a new link that must plan its entity; `entry` as it was before."""
    row = change.row
    if change.gone or row.get("deleted_at") or not row.get("entity_id") or row.get("made_by") not in PLANNED:
        return False
    before = entry.get(str(row["connection"]), {}).get(str(row["id"]))
    return before is None or before[3] != row["entity_id"]


def connections(sync_key: str, entry: Entry) -> frozenset[str]:
    """The connections in which the root itself is linked."""
    root = sync_key.rpartition("/")[2]
    return frozenset(name for name, links in entry.items() if any(told[3] == root for told in links.values()))


class _Place:
    """Stands for the event that a table write belongs to: all a table asks of it is where it is from."""

    def __init__(self, topic: str, partition: int) -> None:
        self.message = self
        self.topic = topic
        self.partition = partition


@contextmanager
def _writing(chunk: Chunk) -> Iterator[None]:
    """Make table writes go to the chunk's partition, as they do inside Faust's own iteration."""
    place = _Place(chunk.topic, chunk.partition)
    stands_for: Any = place
    token = _current_event.set(ref(stands_for))
    try:
        yield
    finally:
        _current_event.reset(token)


class Links:
    """The table, its agent and its answers.

    Args:
        codec: decodes the captured records.
        plan: plans the entities of these sync_keys and commits; called before the links are known.
        bury: stores a record that cannot be read as a dead letter, durably.
        partitions: of all captured topics.
    """

    def __init__(self, codec: Codec, *, plan: Plan, bury: Bury, partitions: int) -> None:
        self._codec = codec
        self._plan = plan
        self._bury = bury
        self._partitions = partitions
        self._table: Any = None
        self._cache: OrderedDict[str, frozenset[str]] = OrderedDict()

    def spec(self) -> AgentSpec:
        """The agent. Kafka keeps its position, since its effect is in Kafka too; its records may come twice."""
        return AgentSpec(NAME, (topics.LINKS,), self.apply, stored=False, binding=self)

    def bind(self, app: faust.App) -> None:
        """Make the table in `app`."""
        self._table = app.Table(
            TABLE,
            key_type=bytes,
            value_type=bytes,
            partitions=self._partitions,
            options=dict(_ROCKSDB),
            help="where each entity is linked",
        )
        # what other partitions hold was written by others
        app.on_partitions_assigned.connect(self._forget, weak=False)

    async def _forget(self, *_: Any, **__: Any) -> None:
        self._cache.clear()

    def known(self, sync_key: str) -> frozenset[str]:
        """The connections that the root is known to be linked in; it may be linked in more."""
        found = self._cache.get(sync_key)
        if found is not None:
            self._cache.move_to_end(sync_key)
            return found
        found = frozenset() if self._table is None else connections(sync_key, self._entry(sync_key))
        self._keep(sync_key, found)
        return found

    def _keep(self, sync_key: str, found: frozenset[str]) -> None:
        self._cache[sync_key] = found
        self._cache.move_to_end(sync_key)
        if len(self._cache) > CACHED_KEYS:
            self._cache.popitem(last=False)

    def _entry(self, sync_key: str) -> Entry:
        held: bytes | None = self._table.get(sync_key.encode())
        entry: Entry = orjson.loads(held) if held else {}
        return entry

    async def apply(self, chunks: list[Chunk]) -> None:
        """The handler: take over the changes of links, planning what became linked."""
        await self._codec.learn(record.value for chunk in chunks for record in chunk.records)
        for chunk in chunks:
            with _writing(chunk):
                entries, to_plan = await self._read(chunk)
            if to_plan:
                await self._plan(list(to_plan))
            with _writing(chunk):
                self._write(entries)

    async def _read(self, chunk: Chunk) -> tuple[dict[str, Entry], dict[str, None]]:
        entries: dict[str, Entry] = {}
        to_plan: dict[str, None] = {}
        for record in chunk.records:
            try:
                change = envelope.change(chunk.topic, record.key, record.headers, self._codec.envelope(record.value))
            except Problem as problem:
                log.warning("record_unreadable", code=problem.code, topic=chunk.topic, offset=record.offset)
                await self._bury(chunk, record, problem)
                continue
            key = change.sync_key
            entry = entries[key] if key in entries else self._entry(key)
            if plans(entry, change):
                to_plan[key] = None
            entries[key] = after(entry, change)
        return entries, to_plan

    def _write(self, entries: dict[str, Entry]) -> None:
        for sync_key, entry in entries.items():
            key = sync_key.encode()
            if entry:
                self._table[key] = orjson.dumps(entry)
            elif key in self._table:
                del self._table[key]
            self._keep(sync_key, connections(sync_key, entry))
