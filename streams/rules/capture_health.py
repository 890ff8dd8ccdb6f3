"""How capture is, told from the slot's own state, the connector's, and the pace at which room goes. Pure.

A slot that Postgres has given up is not healed by a restart, while Connect goes on to report RUNNING and retries: so
the slot decides first, whatever Connect says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SLOT_NAME = "syncline"
UNREAD_S = 30.0
"""A slot that nobody reads for longer is no restart any more."""
SOON_S, LATER_S = 600.0, 3600.0
"""Room for less than this is red; for less than that, a warning."""
MUCH = 0.1
HALF = 0.5
"""Shares of the room that the slot may take: below the first, how fast it goes says nothing; above the other, warn."""
MUCH_BYTES = 256 * 2**20
"""The same as `MUCH` where Postgres sets no limit."""
NEW_SLOT = (
    "Run `syncline connectors apply --new-slot`: capture begins anew. "
    "Meanwhile the sweep plans every change that is not captured."
)


@dataclass(frozen=True, slots=True)
class Slot:
    """A row of pg_replication_slots.

    Args:
        active: a connector is reading it.
        wal_status: reserved, extended, unreserved (about to be lost) or lost.
        safe_wal_size: bytes that may still be written before it is in danger; None when unlimited or lost.
        confirmed: LSN up to which the connector has confirmed.
        lag_bytes: WAL written since then.
        limit_bytes: what Postgres keeps for slots; None when unlimited.
        unread_s: for how long nobody has read it; 0 while somebody does.
        reason: why Postgres gave it up; empty while it did not.
    """

    active: bool
    wal_status: str
    safe_wal_size: int | None
    confirmed: str
    lag_bytes: int
    limit_bytes: int | None = None
    unread_s: float = 0.0
    reason: str = ""

    @property
    def lost(self) -> bool:
        """Whether changes that were not captured are gone from it."""
        return self.wal_status == "lost" or bool(self.reason)

    @property
    def safe(self) -> bool:
        """Whether everything not yet captured is still there, and will be."""
        return self.wal_status in ("reserved", "extended") and not self.lost

    @property
    def filled(self) -> float:
        """How much of the room that it may take is taken; from 0 to 1."""
        if self.limit_bytes:
            return self.lag_bytes / self.limit_bytes
        return MUCH if self.lag_bytes > MUCH_BYTES else 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How capture is: `state`, a stable code, and for a person the cause and what to do."""

    state: Literal["ok", "warning", "red"]
    code: str
    cause: str = ""
    next_step: str = ""


FINE = Verdict("ok", "ok")


def lost(slot: Slot | None) -> Verdict:
    """What was not captured before the slot went is not in the WAL any more."""
    told = "does not exist" if slot is None else f"is lost ({slot.reason or slot.wal_status}), confirmed up to "
    told += "" if slot is None else slot.confirmed or "nothing"
    return Verdict("red", "slot_lost", f"the replication slot `{SLOT_NAME}` {told}", NEW_SLOT)


def judge(slot: Slot | None, connector: Verdict, forecast_s: float | None) -> Verdict:
    """The worst that is true.

    Args:
        connector: what Connect says of the connector.
        forecast_s: for how long there is room at the pace of the last minute; None: not in sight.
    """
    if slot is None or slot.lost:
        return lost(slot)
    return max((_room(slot, forecast_s), connector, _reader(slot)), key=lambda told: _RANK[told.state])


_RANK = {"ok": 0, "warning": 1, "red": 2}


def _room(slot: Slot, forecast_s: float | None) -> Verdict:
    behind = f"the replication slot is {slot.lag_bytes / 2**20:.0f} MiB behind"
    step = "Look why the connector is slow or stopped, or give Postgres more room (max_slot_wal_keep_size, disk)."
    if slot.wal_status == "unreserved":
        return Verdict("red", "slot_in_danger", f"{behind} and is lost at the next checkpoint", step)
    near = forecast_s if slot.filled >= MUCH else None
    if near is not None and near < SOON_S:
        return Verdict("red", "slot_in_danger", f"{behind}; at this pace there is room for {near:.0f} s", step)
    if near is not None and near < LATER_S:
        return Verdict("warning", "slot_fills", f"{behind}; at this pace there is room for {near / 60:.0f} min", step)
    if slot.filled >= HALF:
        return Verdict("warning", "slot_half_full", f"{behind}, more than half of what Postgres keeps", step)
    return FINE


def _reader(slot: Slot) -> Verdict:
    if slot.active or slot.unread_s < UNREAD_S:
        return FINE
    cause = f"nobody has read the replication slot for {slot.unread_s:.0f} s"
    return Verdict("red", "slot_unread", cause, "See `syncline doctor`; start Kafka Connect, or resume the connector.")


class Growth:
    """How fast room goes: how long what is left lasts at the pace of the last minute."""

    def __init__(self, over_s: float = 60.0) -> None:
        self._over_s = over_s
        self._seen: deque[tuple[float, tuple[int | None, ...]]] = deque()

    def forecast_s(self, rooms: Sequence[int | None], now: float) -> float | None:
        """Seconds until the first of these rooms, in bytes, is used up; None when that is not in sight.

        Always the same rooms; None for one that has no end. `now` in seconds of any steady clock.
        """
        self._seen.append((now, tuple(rooms)))
        while now - self._seen[0][0] > self._over_s:
            self._seen.popleft()
        then, before = self._seen[0]
        left = [
            room * (now - then) / (had - room)
            for had, room in zip(before, rooms, strict=True)
            if had is not None and room is not None and had > room
        ]
        return min(left) if left and now > then else None
