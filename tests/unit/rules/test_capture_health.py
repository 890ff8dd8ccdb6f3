"""How capture is judged: the slot first, then room, reader and connector."""

from __future__ import annotations

import pytest

from streams.rules.capture_health import FINE, Growth, Slot, Verdict, judge

GIB = 2**30
BROKEN = Verdict("red", "connector_failed", "task 0: gone", "Mend it.")


def slot(**changes: object) -> Slot:
    values = {"active": True, "wal_status": "reserved", "safe_wal_size": GIB, "confirmed": "0/1", "lag_bytes": 0}
    return Slot(**(values | {"limit_bytes": GIB} | changes))  # type: ignore[arg-type]


@pytest.mark.covers("C20", "C22")
@pytest.mark.parametrize(
    ("found", "forecast_s", "state", "code"),
    [
        (slot(), None, "ok", "ok"),
        (slot(), 60.0, "ok", "ok"),  # next to nothing of the room is taken: the pace of a moment says nothing
        (None, None, "red", "slot_lost"),
        (slot(wal_status="lost", safe_wal_size=None), None, "red", "slot_lost"),
        (slot(reason="idle_timeout"), None, "red", "slot_lost"),
        (slot(wal_status="unreserved"), None, "red", "slot_in_danger"),
        (slot(lag_bytes=GIB // 5), 500.0, "red", "slot_in_danger"),
        (slot(lag_bytes=GIB // 5), 2000.0, "warning", "slot_fills"),
        (slot(lag_bytes=GIB // 5), 20_000.0, "ok", "ok"),
        (slot(lag_bytes=GIB // 5), None, "ok", "ok"),
        (slot(lag_bytes=GIB * 3 // 5), None, "warning", "slot_half_full"),
        (slot(lag_bytes=GIB, limit_bytes=None), 500.0, "red", "slot_in_danger"),  # the disk
        (slot(lag_bytes=2**20, limit_bytes=None), 500.0, "ok", "ok"),
        (slot(active=False, unread_s=5.0), None, "ok", "ok"),
        (slot(active=False, unread_s=31.0), None, "red", "slot_unread"),
    ],
)
def test_the_slot_decides(found: Slot | None, forecast_s: float | None, state: str, code: str) -> None:
    told = judge(found, FINE, forecast_s)
    assert (told.state, told.code) == (state, code)
    assert bool(told.next_step) == bool(told.cause) == (state != "ok")


def test_the_worst_is_told_and_a_lost_slot_is_worse_than_all() -> None:
    assert judge(slot(), BROKEN, None) == BROKEN
    assert judge(slot(lag_bytes=GIB * 3 // 5), BROKEN, None) == BROKEN
    assert judge(None, BROKEN, None).code == "slot_lost"


def test_a_pace_is_of_the_last_minute_and_of_the_narrowest_room() -> None:
    growth = Growth(over_s=60)
    assert growth.forecast_s((1000, None), 0) is None
    assert growth.forecast_s((900, None), 10) == 90
    assert growth.forecast_s((900, None), 70) is None  # it has stood still since
    narrow = Growth()
    narrow.forecast_s((1000, 500), 0)
    assert narrow.forecast_s((900, 100), 10) == pytest.approx(2.5)
    assert narrow.forecast_s((1000, 600), 20) is None  # it is emptied faster than filled
