import pytest

from schemas.problems import Problem
from streams import topics
from streams.topics import Topic


def test_names_keys_and_settings_are_explicit() -> None:
    made = {topic.name: topic for topic in topics.table(["person"])}
    assert "cdc.canon.person" in made
    assert made[topics.INBOUND].config()["retention.ms"] == str(30 * topics.DAY_MS)
    assert all(topic.config()["cleanup.policy"] == "delete" for topic in made.values()), "no compacted deletes"
    assert all(topic.key and topic.value for topic in made.values())


def test_the_entity_types_are_those_with_a_schema() -> None:
    assert {"person", "household", "email"} <= set(topics.entity_types())
    assert topics.changes(["person"]) == ("cdc.canon.person", "cdc.sync.tombstone")


def test_another_partition_count_is_refused() -> None:
    wanted = [Topic("a", "k", "v", 1), Topic("b", "k", "v", 1, partitioned=False), Topic("new", "k", "v", 1)]
    topics.check({"a": 12, "b": 1, "else": 3}, wanted, 12)
    with pytest.raises(Problem, match=r"topic_partitions.*a has 4, not 12"):
        topics.check({"a": 4, "b": 1}, wanted, 12)
