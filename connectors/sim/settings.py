"""Settings of a connection to a sim."""

from __future__ import annotations

from pydantic import Field

from connectors.config import Settings


class SimSettings(Settings):
    """Settings of one connection."""

    batch_size: int = Field(default=1, ge=1, le=100)
    """Most writes in one call; with one, each is a request of its own."""
    conditional: bool = False
    """Updates name the version they were made from."""
