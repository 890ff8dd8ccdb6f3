"""The publisher by itself: what it asks the registry for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from schemas.problems import Problem
from streams.inbound import publish

SENDER = publish.Sender("org", "parish", "sim-keyed")


@dataclass
class Crowded:
    """A registry that refuses whoever asks while another one is being answered."""

    asked: int = 0
    down: bool = False
    busy: bool = False

    async def register(self, _subject, _schema):
        if self.busy or self.down:
            raise Problem("registry_unreachable", "HTTP 409")
        self.busy, self.asked = True, self.asked + 1
        await asyncio.sleep(0)
        self.busy = False
        return 7


class Written:
    """A message that Kafka has."""

    def partition(self):
        return 0

    def offset(self):
        return 1


class Obedient:
    """A producer whose messages are durable at once."""

    def produce(self, *_, on_delivery):
        on_delivery(None, Written())


def fact(number: int):
    at = datetime(2026, 3, 1, tzinfo=UTC)
    return publish.unreadable(b"x", SENDER, received_at=at, delivery_id=str(number), content_type="")


async def test_many_first_webhooks_at_once_register_the_schema_once():
    registry = Crowded()
    publisher = publish.Publisher(Obedient, registry)
    places = await asyncio.gather(*(publisher.publish([fact(n)]) for n in range(16)))
    assert places == [[publish.Place(0, 1)]] * 16
    assert registry.asked == 1


async def test_a_registry_that_was_down_is_asked_again():
    registry = Crowded(down=True)
    publisher = publish.Publisher(Obedient, registry)
    with pytest.raises(Problem, match="registry_unreachable"):
        await publisher.publish([fact(1)])
    registry.down = False
    assert await publisher.publish([fact(1)])
