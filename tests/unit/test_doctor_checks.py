"""Findings from what was found, without the parts."""

from datetime import UTC, datetime, timedelta

import pytest

from connectors.debezium.connect import Status, Task
from schemas import model
from streams import topics
from streams.doctor import broker, completeness, connector, database, local
from streams.rules import capture_health
from streams.settings import Settings
from streams.store import publication

ENTITIES = model.load()
GIB = 2**30
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def slot(**changes):
    values = {"active": True, "wal_status": "reserved", "safe_wal_size": GIB, "confirmed": "0/1", "lag_bytes": 0}
    values |= {"limit_bytes": GIB}
    return capture_health.Slot(**(values | changes))


@pytest.mark.parametrize(
    ("found", "state", "says"),
    [
        (slot(), "ok", "active, reserved"),
        (slot(wal_status="extended"), "ok", "extended"),
        (slot(lag_bytes=600 * 2**20), "warn", "more than half"),
        (slot(active=False), "red", "nobody reads it"),
        (slot(wal_status="unreserved"), "red", "unreserved"),
        (slot(wal_status="lost"), "red", "is lost"),
        (slot(active=True, wal_status="lost"), "red", "is lost"),
        (None, "red", "does not exist"),
    ],
)
def test_the_slots_own_state_decides(found, state, says):
    check = database.slot_check(found)
    assert check.state == state
    assert says in check.detail
    assert bool(check.next_step) == (state != "ok")


def test_an_unlimited_slot_is_not_measured_against_a_limit():
    assert database.slot_check(slot(lag_bytes=10 * GIB, limit_bytes=None)).state == "ok"


def published():
    return {table: frozenset(columns) for table, columns in publication.wanted(ENTITIES).items()}


def test_a_publication_as_wanted():
    assert database.publication_check(published(), ENTITIES).state == "ok"


def test_what_is_published_too_much_or_too_little_is_named():
    found = published()
    found["sync", "credential"] = frozenset({"sealed"})
    found["canon", "person"] = (found["canon", "person"] - {"version"}) | {"national_id"}
    del found["canon", "email"]
    check = database.publication_check(found, ENTITIES)
    assert check.state == "red"
    assert check.detail.split("; ") == [
        "sync.credential is published and must not be",
        "canon.email is not published",
        "canon.person.national_id is published and must not be",
        "canon.person.version is not published",
    ]


def all_topics():
    wanted = topics.table(ENTITIES.order)
    partitions = {topic.name: 12 if topic.partitioned else 1 for topic in wanted}
    return partitions, {topic.name: topic.config() for topic in wanted}, wanted


def test_topics_as_wanted():
    assert broker.topics_check(*all_topics(), 12).state == "ok"


def test_missing_topics_and_wrong_partitions_and_retention_are_named():
    partitions, found, wanted = all_topics()
    del partitions["inbound.events"]
    partitions["cdc.canon.email"] = 4
    found["cdc.canon.person"]["retention.ms"] = "1000"
    check = broker.topics_check(partitions, found, wanted, 12)
    assert check.state == "red"
    assert "inbound.events is missing" in check.detail
    assert "cdc.canon.email has 4 partitions, not 12" in check.detail
    assert "cdc.canon.person has retention.ms 1000, not 604800000" in check.detail


RUNNING, FAILED = Task("task 0", "RUNNING"), Task("task 0", "FAILED", "PSQLException: no slot")
CONNECTOR = Task("connector", "RUNNING")


@pytest.mark.parametrize(
    ("status", "state", "says"),
    [
        (Status(CONNECTOR, (RUNNING,), "3.7.0.Final"), "ok", "3.7.0.Final"),
        (Status(CONNECTOR, (RUNNING,), "3.6.1.Final"), "red", "loses changes"),
        (Status(CONNECTOR, (FAILED,), "3.7.0.Final"), "red", "no slot"),
        (Status(CONNECTOR, (), "3.7.0.Final"), "red", "connector RUNNING"),
        (Status(Task("connector", "PAUSED"), (Task("task 0", "PAUSED"),)), "red", "PAUSED"),
        (None, "red", "no state yet"),
    ],
)
def test_the_connectors_state(status, state, says):
    check = connector.state_check(status)
    assert (check.state, says in check.detail) == (state, True)


KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@pytest.mark.parametrize(
    ("content", "mode", "state"), [(KEY, 0o600, "ok"), (KEY, 0o644, "red"), ("x", 0o600, "red"), (None, 0, "red")]
)
def test_the_key_file_is_there_and_private(tmp_path, content, mode, state):
    if content is not None:
        (tmp_path / "key").write_text(content)
        (tmp_path / "key").chmod(mode)
    check = local.check_key(Settings(home=tmp_path))
    assert check.state == state
    assert KEY not in check.detail


@pytest.mark.parametrize(
    ("turned_s", "swept_s", "missed", "state", "says"),
    [
        (None, None, 0, "warn", "never run"),
        (3.0, None, 0, "ok", "just begun"),
        (3.0, 70.0, 0, "ok", "missed nothing"),
        (3.0, 70.0, 4, "ok", "found 4 changes"),
        (3.0, 300.0, 0, "red", "has not moved for 300 s"),
        (300.0, 310.0, 0, "warn", "last ran 300 s ago"),
    ],
)
def test_a_sweep_that_does_not_move_is_red(turned_s, swept_s, missed, state, says):
    check = completeness.sweep_check(turned_s, swept_s, 15.0, missed)
    assert check.state == state
    assert says in check.detail
    assert bool(check.next_step) == (state != "ok")


@pytest.mark.parametrize(
    ("found", "age_s", "state"),
    [("ok", 2, "ok"), ("ok", 31, "warn"), ("warning", 2, "warn"), ("red", 2, "red"), ("red", 31, "warn")],
)
def test_the_watch_over_capture_is_told_as_it_was_last(found, age_s, state):
    row = {"state": found, "cause": "because", "next_step": "Mend it.", "at": NOW, "since": NOW}
    check = completeness.capture_check(row, NOW + timedelta(seconds=age_s))
    assert check.state == state
    assert bool(check.next_step) == (state != "ok")
    assert completeness.capture_check(None, NOW).state == "warn"
