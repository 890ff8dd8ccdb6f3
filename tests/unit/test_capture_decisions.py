"""What the watcher of the connector does, and what the connector's settings are."""

import pytest

from connectors.debezium import connect, register
from schemas import model
from streams import capture_watch
from streams.rules import capture_health
from streams.store import publication

RUNNING = connect.Task("connector", "RUNNING")
FAILED = connect.Task("task 0", "FAILED", "PSQLException: gone")
FINE_SLOT = capture_health.Slot(active=True, wal_status="reserved", safe_wal_size=1, confirmed="0/1", lag_bytes=0)


def slot(wal_status):
    return capture_health.Slot(active=False, wal_status=wal_status, safe_wal_size=None, confirmed="0/1", lag_bytes=0)


def config():
    source = register.Source("db", 5432, "canon", "syncline_capture", "secret", "http://registry:8080/")
    return register.build(source, publication.wanted(model.load()))


def test_a_failed_task_is_restarted_a_bounded_number_of_times():
    budget = capture_watch.Budget(restarts=5, window_s=600)
    status = connect.Status(RUNNING, (FAILED,))
    decisions = [capture_watch.decide(status, FINE_SLOT, budget, now) for now in (0, 10, 20, 30, 40, 50, 60, 599)]
    assert decisions == ["restart"] * 5 + ["exhausted"] * 3
    assert capture_watch.decide(status, FINE_SLOT, budget, 600) == "restart"


@pytest.mark.parametrize(
    ("status", "slot", "decision"),
    [
        (connect.Status(RUNNING, (connect.Task("task 0", "RUNNING"),)), FINE_SLOT, "fine"),
        (connect.Status(RUNNING, (connect.Task("task 0", "RUNNING"),)), slot("lost"), "slot_lost"),
        (connect.Status(RUNNING, (FAILED,)), slot("lost"), "slot_lost"),
        (connect.Status(RUNNING, (FAILED,)), slot("unreserved"), "restart"),
        (connect.Status(RUNNING, ()), None, "slot_lost"),
        (None, FINE_SLOT, "absent"),
        (connect.Status(connect.Task("connector", "PAUSED"), ()), FINE_SLOT, "fine"),
    ],
)
def test_decisions(status, slot, decision):
    assert capture_watch.decide(status, slot, capture_watch.Budget(), 0.0) == decision


def test_the_innermost_cause_is_what_a_person_reads():
    trace = """org.a.ConnectException: outer
	at x
Caused by: io.b.DebeziumException: middle
	at y
Caused by: org.postgresql.util.PSQLException: ERROR: no slot
	at z
	... 9 more"""
    assert connect.innermost_cause(trace) == "PSQLException: ERROR: no slot"
    assert connect.innermost_cause("org.a.ConnectException: alone\n\tat x") == "ConnectException: alone"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("snapshot.mode", "no_data"),
        ("publication.autocreate.mode", "disabled"),
        ("slot.drop.on.stop", "false"),
        ("offset.mismatch.strategy", "trust_offset"),
        ("event.processing.failure.handling.mode", "fail"),
        ("errors.tolerance", "none"),
        ("tombstones.on.delete", "false"),
        ("topic.prefix", "cdc"),
        ("producer.override.linger.ms", "0"),
        ("schema.name.adjustment.mode", "avro"),
        ("key.converter", "org.apache.kafka.connect.storage.StringConverter"),
    ],
)
def test_settings_that_keep_changes_from_being_lost(key, value):
    assert config()[key] == value


def test_what_must_never_be_set():
    assert not [key for key in config() if key.startswith(("exactly.once", "signal.", "topic.creation."))]


def test_nothing_but_the_allow_list_is_captured():
    included = config()["column.include.list"]
    assert (
        r"canon\.person\.(org_id|id|sync_key|version|origin|origin_event|modified_at|deleted_at|household_id|campus_id)"
        in included
    )
    assert "first_name" not in included
    assert "link_metadata" not in included
    assert "push_intent" not in config()["table.include.list"]


def test_drift_names_each_setting_and_no_secret():
    live = config() | {"snapshot.mode": "initial", "database.password": "other", "signal.data.collection": "x.y"}
    del live["errors.tolerance"]
    assert register.drift(live, config()) == (
        "database.password differs",
        "errors.tolerance is not set and should be none",
        "signal.data.collection is set to x.y and should not be set",
        "snapshot.mode is initial and should be no_data",
    )
    assert register.drift(config(), config()) == ()
