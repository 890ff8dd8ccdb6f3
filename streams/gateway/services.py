"""What the routes of the REST API work with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Request
from psycopg_pool import AsyncConnectionPool

from connectors.contract import Manifest
from schemas.model import Model
from streams.connections import Service
from streams.inbound.publish import Publisher
from streams.redrives import Republish
from streams.settings import Settings

BULKS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes work with, in `app.state.api`.

    Args:
        pool: of the role `app`, in autocommit.
        republish: publishes dead events of theirs again; None where there is no Kafka.
        publisher: of events that programs bring; the same.
        bulks: how many bodies of events may be in hand at the same time.
    """

    settings: Settings
    pool: AsyncConnectionPool[Any]
    service: Service
    model: Model
    manifest: Callable[[str], Manifest]
    now: Callable[[], datetime]
    republish: Republish | None = None
    publisher: Publisher | None = None
    bulks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(BULKS_AT_ONCE))


def services(request: Request) -> Services:
    """The services of the app."""
    found: Services = request.app.state.api
    return found


Given = Annotated[Services, Depends(services)]
