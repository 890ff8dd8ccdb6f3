"""When a window of changes is swept, and as what (rule R6). Pure.

A window is noted first and swept an interval later at the earliest, so that capture has had its time. Where capture is
there and only slow, the window waits for it, but not for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

PATIENCE = 4
"""Intervals that a window waits for capture or the planner, which are behind, before it is swept all the same."""

Why = Literal["cdc_missed", "swept_behind", "swept_without_capture"]
Step = Why | Literal["note", "wait"]
"""Note the next window; wait with the one in hand; or sweep it, and count what had to be planned under this name."""


@dataclass(frozen=True, slots=True)
class Window:
    """A noted window.

    Args:
        noted_at: when it ended.
        blind: capture did not see all of it.
        arrived: capture has passed its end, and the planner has read all that capture brought up to then.
    """

    noted_at: datetime
    blind: bool
    arrived: bool


def next_step(window: Window | None, *, captured: bool, now: datetime, interval: timedelta) -> Step:
    """What is to do with the window in hand; `captured`: the slot is there and not lost."""
    if window is None:
        return "note"
    if window.blind or not captured:
        return "swept_without_capture"
    age = now - window.noted_at
    if age >= interval and window.arrived:
        return "cdc_missed"
    return "swept_behind" if age >= PATIENCE * interval else "wait"
