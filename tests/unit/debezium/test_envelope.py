import pytest

from connectors.debezium import envelope as captured
from schemas.codec import Envelope
from schemas.problems import Problem

ROOT, OTHER = "org/person_1", "org/person_2"
ROW = {"org_id": "org", "id": "email_1", "sync_key": ROOT, "version": 3, "origin": "pco-main", "origin_event": "e1"}
REST = {"op": "u", "source": {"ts_us": 1_000_001, "ts_ms": 1000}}


class Told(Envelope):
    def rest(self) -> dict:
        return REST


def change(before: dict | None, after: dict | None, *headers: tuple[str, bytes], topic: str = "cdc.canon.email"):
    key = (after or before or {}).get("sync_key", ROOT).encode()
    return captured.change(topic, key, headers, Told(before, after, b"", 0, None))


def test_an_update_is_read() -> None:
    read = change(None, ROW)
    assert (read.table, read.entity_type, read.entity_id, read.op) == ("email", "email", "email_1", "u")
    assert (read.sync_key, read.version, read.origin, read.origin_event) == (ROOT, 3, "pco-main", "e1")
    assert (read.roots, read.counts, read.committed_at_us) == ((ROOT,), True, 1_000_001)


def test_a_true_delete_does_not_count() -> None:
    read = change(ROW, None)
    assert (read.op, read.gone, read.counts, read.row) == ("d", True, False, ROW)
    assert (read.version, read.origin) == (0, ""), "Postgres tells the key's columns only"


def test_a_row_that_changed_its_root_concerns_both() -> None:
    left = change(ROW, None, (captured.NEW_KEY, b'{"sync_key":"org/person_2"}'))
    came = change(None, ROW | {"sync_key": OTHER}, (captured.OLD_KEY, b'{"sync_key":"org/person_1"}'))
    assert left.counts
    assert came.counts
    assert set(left.roots) == set(came.roots) == {ROOT, OTHER}


def test_a_header_that_cannot_be_read_still_counts() -> None:
    assert change(ROW, None, (captured.NEW_KEY, b"")).counts


def test_an_update_that_tells_its_former_root_concerns_both() -> None:
    assert change(ROW, ROW | {"sync_key": OTHER}).roots == (OTHER, ROOT)


@pytest.mark.parametrize(
    ("header", "key"),
    [(b'{"sync_key":"org/person_2"}', OTHER), (b"org/person_2", ""), (b"[]", ""), (b"", ""), (None, "")],
)
def test_the_key_in_a_header_is_json(header: bytes | None, key: str) -> None:
    assert captured.root(header) == key


def test_a_tombstone_names_what_was_deleted() -> None:
    row = {"org_id": "org", "entity_type": "email", "id": "email_1", "sync_key": ROOT, "version": 4, "origin": "local"}
    read = change(None, row, topic="cdc.sync.tombstone")
    assert (read.entity_type, read.entity_id, read.version, read.counts) == ("email", "email_1", 4, True)


def test_a_link_without_entity_has_no_entity() -> None:
    row = {"sync_key": ROOT, "entity_type": None, "entity_id": None}
    read = change(None, row, topic="cdc.sync.external_link")
    assert (read.entity_type, read.entity_id, read.version, read.origin) == ("", "", 0, "")


@pytest.mark.parametrize(("topic", "before", "after"), [("cdc.canon.email", None, None), ("inbound.events", None, ROW)])
def test_what_is_no_change_is_told(topic: str, before: dict | None, after: dict | None) -> None:
    with pytest.raises(Problem, match="not_a_change"):
        change(before, after, topic=topic)
