"""`syncline doctor`: every part that must be reachable, every invariant that keeps changes from being lost, and what to
do about each that is not as it must be.

It asks the parts themselves and believes no other part about them: Connect reports RUNNING while its slot is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from schemas.problems import Problem
from streams import clock
from streams.doctor import broker, connector, database, local
from streams.doctor.findings import Check, from_problem
from streams.settings import Settings
from streams.store.migrate import model_of

__all__ = ["Check", "check"]


async def check(settings: Settings, *, now: Callable[[], datetime] = clock.now) -> list[Check]:
    """Look at everything; never raises because of what it finds. Takes about a second, a few when parts do not answer.

    Returns:
        Findings in the order of the flow: Postgres, capture, Kafka, Connect, registry, our processes. The whole is red
        when one is.
    """
    try:
        entities = model_of(settings)
    except Problem as problem:
        return [from_problem("model", problem)]
    sections = await asyncio.gather(
        asyncio.to_thread(database.check, settings, entities, now()),
        asyncio.to_thread(broker.check, settings, entities),
        connector.check_connect(settings, entities),
        connector.check_registry(settings, entities),
        local.check(settings),
    )
    return [finding for section in sections for finding in section]
