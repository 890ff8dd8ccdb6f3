"""All Kafka topics in one table: the contract between the steps of the pipeline.

`ensure` makes the missing ones with explicit settings (the brokers' auto-creation is off) and refuses to go on when an
existing one has another partition count: keys would hash to other partitions than their neighbours' topics, and stored
positions would mean other records. Connect makes its own three topics, Faust its changelogs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]  # its stubs leave it out

from schemas.problems import Problem

log = structlog.get_logger(__name__)

PREFIX = "cdc"
DAY_MS = 24 * 60 * 60 * 1000
BODY_CAP_BYTES = 8 * 2**20
"""Above the largest body that the gateway takes."""
TIMEOUT_S = 15.0

INBOUND = "inbound.events"
OUTCOMES = "outbound.outcomes"
TOMBSTONES = f"{PREFIX}.sync.tombstone"
LINKS = f"{PREFIX}.sync.external_link"
HEARTBEAT = f"__debezium-heartbeat.{PREFIX}"
HEARTBEAT_TABLE = f"{PREFIX}.sync.heartbeat"
MESSAGES = f"{PREFIX}.message"

CAPTURED_IF_UNKNOWN = ("address", "campus", "email", "household", "person", "phone_number")


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic.

    Args:
        name: in full.
        key: what its keys are.
        value: what its values are.
        partitioned: has as many partitions as all data topics; else one.
        kept_days: retention.
        settings: further topic settings.
    """

    name: str
    key: str
    value: str
    kept_days: int
    partitioned: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)

    def config(self) -> dict[str, str]:
        """The topic's settings, all explicit."""
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(self.kept_days * DAY_MS),
            "retention.bytes": "-1",
            "max.message.bytes": str(BODY_CAP_BYTES),
            "message.timestamp.type": "CreateTime",
            **self.settings,
        }


def entity_types() -> tuple[str, ...]:
    """The canonical entity types, by the names of their schema files."""
    folder = resources.files("schemas").joinpath("entities")
    found = sorted(file.name.removesuffix(".avsc") for file in folder.iterdir() if file.name.endswith(".avsc"))
    return tuple(found) or CAPTURED_IF_UNKNOWN


def canonical(entity_type: str) -> str:
    """The topic of one canonical table."""
    return f"{PREFIX}.canon.{entity_type}"


def changes(types: Iterable[str] | None = None) -> tuple[str, ...]:
    """What the planner reads: the canonical tables and the tombstones."""
    return (*(canonical(each) for each in (entity_types() if types is None else types)), TOMBSTONES)


def table(types: Iterable[str] | None = None) -> tuple[Topic, ...]:
    """All topics that we make; `types` are the captured entity types."""
    names = entity_types() if types is None else tuple(types)
    return (
        *(Topic(canonical(each), "sync_key", "Debezium envelope", 7) for each in names),
        Topic(TOMBSTONES, "sync_key", "Debezium envelope", 7),
        # not compacted: the links of one root share a key
        Topic(LINKS, "sync_key", "Debezium envelope", 7),
        Topic(INBOUND, "connection/external_type/external_id", "InboundEvent", 30),
        Topic(OUTCOMES, "sync_key", "DeliveryOutcome", 7),
        Topic(HEARTBEAT, "server name", "Debezium heartbeat", 1, partitioned=False),
        Topic(HEARTBEAT_TABLE, "id", "Debezium envelope", 1, partitioned=False),
        Topic(MESSAGES, "prefix", "logical message", 7, partitioned=False),
    )


def ensure(
    bootstrap: str,
    *,
    partitions: int,
    replication: int = 1,
    topics: Iterable[Topic] | None = None,
) -> list[str]:
    """Make the topics that are missing and check those that exist; blocking. The names of those made.

    Raises:
        Problem: `topic_partitions` when an existing topic has another partition count, `kafka_unreachable`.
    """
    wanted = tuple(table() if topics is None else topics)
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        existing = admin.list_topics(timeout=TIMEOUT_S).topics
        check({name: len(topic.partitions) for name, topic in existing.items()}, wanted, partitions)
        missing = [topic for topic in wanted if topic.name not in existing]
        made = _make(admin, missing, partitions, replication)
        _await_leaders(admin, [t for t in missing if t.name in made], partitions)
        return made
    except KafkaException as error:
        raise Problem("kafka_unreachable", f"Kafka at {bootstrap}: {error}", "Start it, or wait.") from error


def check(existing: Mapping[str, int], wanted: Iterable[Topic], partitions: int) -> None:
    """Compare partition counts, `existing` by topic name. Raises Problem `topic_partitions`."""
    counts = {topic.name: partitions if topic.partitioned else 1 for topic in wanted}
    wrong = [f"{name} has {existing[name]}, not {n}" for name, n in counts.items() if existing.get(name, n) != n]
    if wrong:
        raise Problem(
            "topic_partitions",
            f"partition counts differ from the settings: {'; '.join(wrong)}",
            "Set SYNCLINE_KAFKA_PARTITIONS to the count the topics were made with; it never changes afterwards.",
        )


def _make(admin: AdminClient, missing: list[Topic], partitions: int, replication: int) -> list[str]:
    made = []
    asked = [NewTopic(t.name, partitions if t.partitioned else 1, replication, config=t.config()) for t in missing]
    for name, answer in (admin.create_topics(asked) if asked else {}).items():
        try:
            answer.result(TIMEOUT_S)
        except KafkaException as error:
            # another process made it at the same moment
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        else:
            made.append(name)
            log.info("topic_made", topic=name)
    return made


def _await_leaders(admin: AdminClient, made: Iterable[Topic], partitions: int) -> None:
    """Wait until every new partition can be read: a topic exists before its leaders do.

    Raises:
        KafkaException: they do not come.
    """
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    places = [TopicPartition(t.name, n) for t in made for n in range(partitions if t.partitioned else 1)]
    deadline = time.monotonic() + TIMEOUT_S
    while places:
        try:
            for answer in admin.list_offsets(dict.fromkeys(places, latest), request_timeout=TIMEOUT_S).values():
                answer.result(TIMEOUT_S)
            return
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
