"""Webhook subscriptions of the adapters whose manifest says that their system makes them."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from connectors.contract import Subscriber
from connectors.errors import Rejected
from tests.contract.conftest import Bench, Receiver

SECRET = "whsec_c2VjcmV0IG9mIHRoZSBzdWJzY3JpcHRpb25z"


@pytest.fixture
def subscriber(bench: Bench) -> Subscriber:
    if not bench.manifest.subscribes:
        pytest.skip("their API makes no subscriptions")
    return cast(Subscriber, bench.client)


async def test_a_subscription_is_made_listed_heard_and_ended(
    bench: Bench, subscriber: Subscriber, receiver: Receiver
) -> None:
    kind = bench.person.external_type
    assert await subscriber.subscriptions() == []
    made = await subscriber.subscribe(receiver.url, SECRET, {kind})
    assert (made.url, made.types, made.active) == (receiver.url, {kind}, True)
    assert await subscriber.subscriptions() == [made]
    other = next(a.external_type for a in bench.manifest.aggregates if a.external_type != kind)
    await bench.control("PUT", f"records/{other}/unheard", {})
    await bench.control("PUT", f"records/{kind}/abc", {})
    (got,) = await receiver.wait(1)
    assert [record.external_id for record in bench.adapter.parse_webhook(got.body)] == ["abc"]
    for _ in range(2):
        await subscriber.unsubscribe(made.id)
    assert await subscriber.subscriptions() == []
    await bench.control("PUT", f"records/{kind}/later", {})
    assert (await bench.control("GET", "counts"))["webhooks"]["waiting"] == 0
    assert len(receiver.got) == 1


async def test_one_that_is_not_answered_is_deactivated(
    bench: Bench, subscriber: Subscriber, receiver: Receiver
) -> None:
    await bench.control("POST", "settings", {"patience": 2})
    made = await subscriber.subscribe(receiver.url, SECRET, ())
    receiver.statuses = [503, 503]
    await bench.control("PUT", f"records/{bench.person.external_type}/abc", {})
    await receiver.wait(2)
    async with asyncio.timeout(5):
        while (await subscriber.subscriptions())[0].active:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await bench.control("PUT", f"records/{bench.person.external_type}/abc", {})
    assert (await subscriber.subscriptions())[0].id == made.id
    assert len(receiver.got) == 2


async def test_what_cannot_be_subscribed_is_refused(bench: Bench, subscriber: Subscriber) -> None:
    for url, types in (("ftp://example.org", []), ("https://example.org", ["no such type"])):
        with pytest.raises(Rejected):
            await subscriber.subscribe(url, SECRET, types)
    assert await subscriber.subscriptions() == []
