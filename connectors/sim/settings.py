"""Settings of a connection to a sim."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from connectors.config import Settings


class SimSettings(Settings):
    """Settings of one connection."""

    batch_size: int = Field(default=1, ge=1, le=100)
    """Most writes in one call; with one, each is a request of its own."""
    paging: Literal["cursor", "offset"] = "cursor"
    """How lists are walked: by a cursor that holds time and id, or by an offset, whose pages move."""
    page_size: int = Field(default=500, ge=1, le=500)
    """Records in one page of a list."""
    conditional: bool = False
    """Updates name the version they were made from."""
