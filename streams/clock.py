"""The real clock, random numbers and entropy: the only place that reads them. Everything else gets them handed in."""

from __future__ import annotations

import random
import secrets
from datetime import UTC, datetime


def now() -> datetime:
    """The time, aware, UTC."""
    return datetime.now(UTC)


def spread() -> float:
    """A random number from 0 to 1, for jitter."""
    return random.random()  # noqa: S311  jitter is no secret


def token() -> str:
    """A new secret of 256 random bits, fit for a URL or a header."""
    return secrets.token_urlsafe(32)
