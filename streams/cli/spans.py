"""Times as people write them: `2h`, `30min`, `7d`, or a date."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

_SPAN = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|min|h|d)")
_SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}


def span(written: str | None, option: str) -> timedelta | None:
    """A length of time."""
    if written is None:
        return None
    match = _SPAN.fullmatch(written.strip())
    if match is None:
        raise typer.BadParameter("write a time such as 30min, 2h or 7d", param_hint=option)
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])


def moment(written: str | None, option: str, now: datetime) -> datetime | None:
    """A time of ISO 8601, UTC where it does not say, or so long before now."""
    if written is None:
        return None
    if _SPAN.fullmatch(written.strip()):
        back = span(written, option)
        return now - back if back else now
    try:
        read = datetime.fromisoformat(written)
    except ValueError:
        raise typer.BadParameter(
            "write 2026-03-01, 2026-03-01T12:00Z, or 7d for a week ago", param_hint=option
        ) from None
    return read if read.tzinfo else read.replace(tzinfo=UTC)
