"""Kafka: reachable, and its topics as the table of topics says."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from schemas.model import Model
from streams import topics
from streams.doctor.findings import Check, from_faults, ok, red
from streams.settings import Settings

TIMEOUT_S = 4.0
COMPARED = ("cleanup.policy", "retention.ms", "retention.bytes")
"""Settings whose drift loses records that nobody has read yet."""


def check(settings: Settings, entities: Model) -> list[Check]:
    """All findings about Kafka."""
    start = "Start it: `syncline up` for the embedded stack; then look again."
    if not settings.kafka_bootstrap:
        return [red("kafka", "no broker is configured", "Run `syncline up`, or set SYNCLINE_KAFKA_BOOTSTRAP.")]
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap, "log_level": 0, "socket.timeout.ms": 4000})
    try:
        listed = admin.list_topics(timeout=TIMEOUT_S)
        partitions = {name: len(topic.partitions) for name, topic in listed.topics.items()}
        wanted = [topic for topic in topics.table(entities.order) if topic.name in partitions]
        resources = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in wanted]
        answers = admin.describe_configs(resources, request_timeout=TIMEOUT_S) if resources else {}
        found = {
            resource.name: {name: entry.value for name, entry in answer.result(TIMEOUT_S).items()}
            for resource, answer in answers.items()
        }
    except KafkaException as error:
        return [red("kafka", f"{settings.kafka_bootstrap}: {error.args[0].str()}", start)]
    told = f"{len(listed.brokers)} broker{'' if len(listed.brokers) == 1 else 's'} at {settings.kafka_bootstrap}"
    return [ok("kafka", told), topics_check(partitions, found, topics.table(entities.order), settings.kafka_partitions)]


def topics_check(
    partitions: Mapping[str, int],
    found: Mapping[str, Mapping[str, str | None]],
    wanted: tuple[topics.Topic, ...],
    data_partitions: int,
) -> Check:
    """Topics as they are (name -> partitions, name -> settings) against the table of topics."""
    faults: list[str] = []
    for topic in wanted:
        count = data_partitions if topic.partitioned else 1
        if topic.name not in partitions:
            faults.append(f"{topic.name} is missing")
            continue
        if partitions[topic.name] != count:
            faults.append(f"{topic.name} has {partitions[topic.name]} partitions, not {count}")
        for key, value in topic.config().items():
            has = found.get(topic.name, {}).get(key)
            if key in COMPARED and has != value:
                faults.append(f"{topic.name} has {key} {has}, not {value}")
    step = "Run `syncline connectors apply` for missing ones; set the others with kafka-configs."
    return from_faults("topics", faults, f"{len(wanted)} topics with their partitions and retention", step)
