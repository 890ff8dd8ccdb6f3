"""Webhooks, from the emulator's signature to the adapter's record."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import orjson
import pytest

from connectors import webhook
from connectors.contract import Op
from schemas.problems import Problem
from tests.contract.conftest import Bench, Received, Receiver


@pytest.fixture(autouse=True)
async def subscribed(bench: Bench, receiver: Receiver) -> str:
    secret = bench.running.emulator.system.webhook_secret()
    await bench.control("POST", "webhooks", {"url": receiver.url, "secret": secret})
    return secret


def verify(bench: Bench, secret: str, got: Received, body: bytes | None = None) -> str | None:
    now = datetime.fromtimestamp(time.time(), UTC)
    return webhook.verify(bench.manifest.webhook_scheme, got.headers, body or got.body, [secret], now)


@pytest.mark.covers("C18")
async def test_an_edit_over_there_arrives_signed_and_readable(
    bench: Bench, receiver: Receiver, subscribed: str
) -> None:
    kind = bench.person.external_type
    await bench.control("PUT", f"records/{kind}/abc", {})
    (got,) = await receiver.wait(1)
    verify(bench, subscribed, got)
    (record,) = bench.adapter.parse_webhook(got.body)
    assert (record.external_type, record.external_id, record.op) == (kind, "abc", Op.UPDATE)
    polled = (await bench.records(kind))["abc"]
    if record.complete:
        assert (record.payload, record.external_version) == (polled.payload, polled.external_version)


@pytest.mark.covers("C18")
async def test_the_signature_is_over_the_bytes_as_they_came(bench: Bench, receiver: Receiver, subscribed: str) -> None:
    if bench.manifest.webhook_scheme in (webhook.NONE, webhook.TOKEN):
        pytest.skip("this system does not sign bodies")
    await bench.control("PUT", f"records/{bench.person.external_type}/abc", {})
    (got,) = await receiver.wait(1)
    rewritten = orjson.dumps(orjson.loads(got.body), option=orjson.OPT_INDENT_2)
    assert orjson.loads(rewritten) == orjson.loads(got.body)
    with pytest.raises(Problem, match="webhook_refused"):
        verify(bench, subscribed, got, rewritten)


async def test_our_own_write_echoes(bench: Bench, receiver: Receiver, subscribed: str) -> None:
    await bench.send(bench.write(bench.person))
    (got,) = await receiver.wait(1)
    verify(bench, subscribed, got)
    assert len(bench.adapter.parse_webhook(got.body)) == 1


async def test_a_delete_over_there_arrives(bench: Bench, receiver: Receiver, subscribed: str) -> None:
    kind = bench.person.external_type
    await bench.control("PUT", f"records/{kind}/abc", {})
    await bench.control("DELETE", f"records/{kind}/abc")
    got = await receiver.wait(2)
    (record,) = bench.adapter.parse_webhook(got[1].body)
    assert (record.external_id, record.op) == ("abc", Op.DELETE)


async def test_webhooks_of_one_record_keep_their_order(bench: Bench, receiver: Receiver, subscribed: str) -> None:
    kind = bench.person.external_type
    receiver.statuses = [503]
    for _ in range(20):
        await bench.control("PUT", f"records/{kind}/abc", {})
    got = await receiver.wait(21)
    times = [bench.adapter.parse_webhook(one.body)[0].occurred_at for one in got]
    assert times == sorted(times)
    ids = [verify(bench, subscribed, one) for one in got]
    if ids[0] is not None:
        assert ids[0] == ids[1], "a retry keeps its delivery id"
        assert len(set(ids)) == 20


async def test_faults_of_webhooks(bench: Bench, receiver: Receiver, subscribed: str) -> None:
    kind = bench.person.external_type
    await bench.faults({"kind": "webhook-drop", "next": 1})
    await bench.control("PUT", f"records/{kind}/dropped", {})
    await bench.faults({"kind": "webhook-duplicate", "next": 1})
    await bench.control("PUT", f"records/{kind}/twice", {})
    got = await receiver.wait(2)
    assert got[0].body == got[1].body
    assert verify(bench, subscribed, got[0]) == verify(bench, subscribed, got[1])
    await bench.faults({"kind": "webhook-reorder", "next": 1})
    for _ in range(2):
        await bench.control("PUT", f"records/{kind}/swapped", {})
    got = await receiver.wait(4)
    times = [bench.adapter.parse_webhook(one.body)[0].occurred_at for one in got[2:]]
    assert times[0] > times[1]
    async with asyncio.timeout(5):
        while (counts := (await bench.control("GET", "counts"))["webhooks"])["waiting"]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert counts == {"sent": 4, "dropped": 1, "duplicated": 1, "reordered": 1, "failed": 0, "waiting": 0}


async def test_nonsense_is_rejected_and_names_nothing(bench: Bench) -> None:
    for body in (b"", b"{", b"[]", b"null", b'{"secret-canary": 1}', b'{"type": "record.changed"}', b"\xff"):
        with pytest.raises(Problem) as caught:
            assert bench.adapter.parse_webhook(body) == "nothing"
        assert "canary" not in str(caught.value)
