"""Dead events once more: published again as they were, with the source `redrive`.

They keep their id, so one that was applied meanwhile has no second effect. Asked by a person, through `streams.queues`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from schemas import events
from schemas.codec import Codec
from schemas.problems import Problem
from schemas.registry import Registry
from streams.inbound import publish
from streams.inbound.publish import Publisher
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class Redriver:
    """Publishes dead events."""

    publisher: Publisher
    codec: Codec

    async def __call__(self, org_id: str, records: Sequence[bytes]) -> None:
        """Publish records of `inbound.events` again and wait until they are durable.

        Raises:
            Problem: `not_redrivable` for one that nobody can read or that is another organisation's;
                `kafka_unavailable`, `registry_unreachable`.
        """
        await self.codec.learn(records)
        await self.publisher.publish([self._event(org_id, record) for record in records])

    def _event(self, org_id: str, record: bytes) -> events.InboundEvent:
        try:
            event = events.decode(self.codec, record)
        except Problem as problem:
            raise Problem(
                "not_redrivable", f"the event still cannot be read: {problem.cause}", "Look at it with --payload."
            ) from problem
        if event.org_id != org_id:
            raise Problem("not_redrivable", "the event is of another organisation", "Act for that one, with --org.")
        return replace(event, source="redrive")


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Redriver]:
    """A redriver of its own, for a command.

    Raises:
        Problem: `not_configured`.
    """
    if not settings.kafka_bootstrap or not settings.registry_url:
        raise Problem(
            "not_configured", "no Kafka broker or no registry is configured", "Start the stack with `syncline up`."
        )
    schemas = Registry(settings.registry_url)
    try:
        async with publish.opened(settings.kafka_bootstrap, schemas) as publisher:
            yield Redriver(publisher, Codec(schemas))
    finally:
        await schemas.aclose()
