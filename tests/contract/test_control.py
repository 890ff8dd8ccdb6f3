"""The control API of every emulator: the oracle must itself be right."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime, timedelta

import pytest

from connectors import emulators, registry
from tests.contract.conftest import Bench, open_bench


async def test_calls_are_logged_with_arrival_keys_and_body(bench: Bench) -> None:
    write = bench.write(bench.person)
    before = time.time()
    await bench.send(write)
    await bench.read(bench.person.external_type)
    calls = await bench.control("GET", "calls?after=0")
    assert [call["n"] for call in calls] == list(range(1, len(calls) + 1))
    first = calls[0]
    assert before <= first["at"] <= time.time()
    assert first["status"] in (200, 201)
    assert first["type"] == bench.person.external_type
    assert len(first["keys"]) == 1
    assert first["body"]
    assert await bench.control("GET", "calls?after=1") == calls[1:]
    assert await bench.control("GET", "calls?after=0&limit=1") == calls[:1]
    assert await bench.control("GET", "calls?after=99") == []


async def test_a_dropped_call_is_logged_without_status(bench: Bench) -> None:
    await bench.faults({"kind": "drop-after", "next": 1})
    await bench.send(bench.write(bench.person))
    (call,) = await bench.control("GET", "calls?after=0")
    assert call["status"] == 0
    assert (await bench.control("GET", "counts"))["by_status"] == {"0": 1}


async def test_faults_strike_by_path_method_rate_and_number(bench: Bench) -> None:
    kind = bench.person.external_type
    await bench.faults({"kind": "5xx-before", "match": "/elsewhere"}, {"kind": "5xx-before", "rate": 0.0})
    await bench.read(kind)
    await bench.faults({"kind": "5xx-before", "method": "DELETE"})
    await bench.read(kind)
    await bench.faults({"kind": "slow", "delay_ms": 1, "next": 2})
    for _ in range(3):
        await bench.read(kind)


async def test_the_clock_can_be_set_and_always_moves_on(bench: Bench) -> None:
    kind = bench.person.external_type
    await bench.control("POST", "clock", {"now": "2024-02-29T12:00:00Z"})
    for i in range(3):
        await bench.control("PUT", f"records/{kind}/{i}", {})
    times = [record.occurred_at for record in (await bench.records(kind)).values()]
    assert times == sorted(times)
    assert all(t - datetime(2024, 2, 29, 12, tzinfo=UTC) < timedelta(seconds=5) for t in times)
    answer = await bench.control("POST", "clock", {"skew_s": 3600})
    ahead = datetime.fromisoformat(answer["clock"]) - datetime.fromtimestamp(time.time(), UTC)
    assert timedelta(minutes=59) < ahead < timedelta(minutes=61)
    answer = await bench.control("POST", "clock", {})
    assert abs(datetime.fromisoformat(answer["clock"]) - datetime.fromtimestamp(time.time(), UTC)) < timedelta(
        minutes=1
    )


async def test_records_can_be_added_read_and_removed(bench: Bench) -> None:
    kind = bench.person.external_type
    added = await bench.control("PUT", f"records/{kind}", [{}, {}])
    assert len(added) == 2
    ids = list((await bench.control("GET", "state"))["records"][kind])
    assert len(ids) == 2
    await bench.control("GET", f"records/{kind}/{ids[0]}")
    await bench.control("DELETE", f"records/{kind}/{ids[0]}")
    state = await bench.control("GET", "state")
    assert list(state["records"][kind]) == ids[1:]
    for method, path in (("DELETE", f"{kind}/{ids[0]}"), ("GET", f"{kind}/none"), ("PUT", "nonsense/1"), ("GET", "x")):
        response = await bench.http.request(method, f"{bench.running.url}/_emulator/records/{path}", json={})
        assert response.status_code == 404
    assert await bench.creates(kind) == {}, "a user's own records are no creates of the API"


async def test_bad_control_calls_are_400(bench: Bench) -> None:
    for path, body in (
        ("faults", b"{"),
        ("faults", b'[{"kind": 1}]'),
        ("clock", b'{"now": "noon"}'),
        ("clock", b"[1]"),
    ):
        response = await bench.http.post(f"{bench.running.url}/_emulator/{path}", content=body)
        assert response.status_code == 400, path
    assert (await bench.http.get(f"{bench.running.url}/_emulator/nothing")).status_code == 404


async def test_reset_is_as_after_the_start(bench: Bench) -> None:
    kind = bench.person.external_type
    await bench.send(bench.write(bench.person))
    await bench.faults({"kind": "html"})
    await bench.control("POST", "reset", {})
    assert await bench.records(kind) == {}
    counts = await bench.control("GET", "counts")
    assert counts["calls"] == 1
    assert counts["creates"] == {}


@pytest.mark.parametrize("name", registry.names())
async def test_two_runs_are_alike(name: str) -> None:
    states = []
    for _ in range(2):
        async with emulators.serve(name, seed_records=5, seed=7) as running, contextlib.AsyncExitStack() as stack:
            bench = await open_bench(name, running, stack)
            state = await bench.control("GET", "state")
            states.append({kind: list(records) for kind, records in state["records"].items()})
    assert states[0] == states[1]
    assert any(states[0].values())
