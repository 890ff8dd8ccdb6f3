"""Whether systems tell us of changes at once: the webhook subscriptions that we keep at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import psycopg

from streams.doctor.findings import Check, ok, warn
from streams.store import queries

NAME = "webhook subscriptions"
Trouble = tuple[str, str, str | None, datetime]
"""Connection, state, cause, since when."""


def checks(conn: psycopg.Connection[Any]) -> tuple[Callable[[], Check], ...]:
    """What is to be looked at, one finding each."""
    return (lambda: subscription_check(conn.execute(queries("subscriptions")["troubled"].encode()).fetchall()),)


def subscription_check(troubled: Sequence[Trouble]) -> Check:
    """The subscriptions that are not active; changes still come by polls, so nothing is lost, only late."""
    by_state: dict[str, list[str]] = {}
    for connection, state, cause, since in troubled:
        told = f"{connection} ({cause or state} since {since:%Y-%m-%d %H:%M:%S %Z})"
        by_state.setdefault(state, []).append(told if state in ("failing", "leaving") else connection)
    if names := by_state.get("no_public_url"):
        return warn(
            NAME,
            f"{', '.join(names)}: nothing is subscribed, since no public URL is set; polls bring their changes",
            "Set SYNCLINE_PUBLIC_URL to where external systems reach the gateway, and restart the workers.",
        )
    if waiting := by_state.get("failing", []) + by_state.get("leaving", []):
        return warn(
            NAME, f"not in order: {'; '.join(waiting)}; it is tried again", "Look at the system and at its credentials."
        )
    return ok(NAME, "all that are wanted are active")
