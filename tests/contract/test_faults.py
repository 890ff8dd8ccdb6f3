"""Every fault of the wire, at every adapter: the error class that names the right recovery, and the recovery itself."""

from __future__ import annotations

import contextlib

import pytest

from connectors import emulators, registry
from connectors.contract import CreateTier, Delivered, Failed
from connectors.errors import Ambiguous, ConnectorError, NotApplied, Rejected, Suspicious, Unauthorized
from tests.contract.conftest import Bench, open_bench

SURE = [("429", NotApplied), ("html", Suspicious), ("expire-token", Unauthorized)]
PERHAPS = [("5xx-before", Ambiguous), ("5xx-after", Ambiguous), ("drop-after", Ambiguous), ("truncate", Ambiguous)]


@pytest.mark.covers("F086")
@pytest.mark.parametrize(("kind", "error"), SURE + PERHAPS)
async def test_a_push_under_fault_fails_as_it_should_and_recovers(
    bench: Bench, kind: str, error: type[ConnectorError]
) -> None:
    bodies = [bench.client.build(bench.write(bench.person)) for _ in range(3)]
    await bench.faults({"kind": kind, "next": 1})
    outcomes = await bench.client.send(bodies)
    assert len(outcomes) == len(bodies)
    first = outcomes[0]
    assert isinstance(first, Failed)
    assert type(first.error) is error
    assert all(isinstance(o, Failed) and type(o.error) in (error, NotApplied) for o in outcomes)
    if error is not Ambiguous:
        assert await bench.creates(bench.person.external_type) == {}
    if bench.manifest.create_tier not in (CreateTier.KEYED, CreateTier.CLIENT_ID):
        return
    again = await bench.client.send(bodies)
    assert all(isinstance(outcome, Delivered) for outcome in again)
    assert list((await bench.creates(bench.person.external_type)).values()) == [1, 1, 1]


@pytest.mark.parametrize("kind", ["5xx-after", "drop-after"])
async def test_what_fails_after_the_work_is_done(bench: Bench, kind: str) -> None:
    await bench.faults({"kind": kind, "next": 1})
    await bench.send(bench.write(bench.person))
    assert list((await bench.creates(bench.person.external_type)).values()) == [1]


async def test_the_wish_to_wait_is_told(bench: Bench) -> None:
    await bench.faults({"kind": "429", "next": 1, "retry_after": 7})
    (outcome,) = await bench.send(bench.write(bench.person))
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, NotApplied)
    assert outcome.error.retry_after == 7


@pytest.mark.parametrize(("kind", "error"), [*SURE, ("5xx-before", Ambiguous), ("truncate", Ambiguous)])
async def test_a_poll_under_fault_raises_and_gives_no_page(
    bench: Bench, kind: str, error: type[ConnectorError]
) -> None:
    await bench.send(bench.write(bench.person))
    await bench.faults({"kind": kind, "next": 1})
    with pytest.raises(error):
        await bench.read(bench.person.external_type)
    assert len(await bench.records(bench.person.external_type)) == 1


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.covers("F011")
async def test_a_slow_answer_is_perhaps_applied(name: str) -> None:
    async with emulators.serve(name) as running, contextlib.AsyncExitStack() as stack:
        bench = await open_bench(name, running, stack, timeout="300")
        await bench.faults({"kind": "slow", "next": 1, "delay_ms": 600})
        (outcome,) = await bench.send(bench.write(bench.person))
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, Ambiguous)


@pytest.mark.parametrize("name", registry.names())
async def test_nobody_there_is_surely_not_applied(name: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with emulators.serve(name) as running:
            bench = await open_bench(name, running, stack)
        (outcome,) = await bench.send(bench.write(bench.person))
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, NotApplied)


async def test_a_stale_read_is_made_good_by_the_overlap(bench: Bench) -> None:
    (outcome,) = await bench.send(bench.write(bench.person))
    assert isinstance(outcome, Delivered)
    await bench.faults({"kind": "stale-read", "next": 1})
    assert await bench.records(bench.person.external_type) == {}
    assert outcome.external_id in await bench.records(bench.person.external_type)


@pytest.mark.covers("C21")
async def test_errors_tell_nothing_of_record_or_address(bench: Bench) -> None:
    for kind in ("429", "5xx-before", "html", "expire-token", "drop-after", "truncate"):
        await bench.faults({"kind": kind, "next": 1})
        (outcome,) = await bench.send(bench.write(bench.person, last_name="Canary"))
        assert isinstance(outcome, Failed)
        text = f"{outcome.error} {outcome.error.as_json()}"
        assert "Canary" not in text
        assert bench.running.url not in text


async def test_an_unknown_fault_is_refused(bench: Bench) -> None:
    response = await bench.http.post(f"{bench.running.url}/_emulator/faults", json=[{"kind": "earthquake"}])
    assert response.status_code == 400


async def test_an_answer_with_another_shape_is_suspicious(bench: Bench) -> None:
    if "object" not in bench.running.emulator.system.own_faults:
        pytest.skip("this emulator has no other shape")
    await bench.faults({"kind": "object", "next": 1})
    with pytest.raises(Suspicious):
        await bench.read(bench.person.external_type)


@pytest.mark.covers("C4")
async def test_items_that_are_no_record_stop_nothing(bench: Bench) -> None:
    if "no-id" not in bench.running.emulator.system.own_faults:
        pytest.skip("this emulator sends only records")
    await bench.send(*(bench.write(bench.person) for _ in range(3)))
    first_type = bench.manifest.aggregates[0].external_type
    await bench.faults({"kind": "no-id", "next": 2})
    (page,) = await bench.read(bench.person.external_type)
    (other,) = await bench.read(first_type)
    assert len(page.records) == 2
    assert [problem.code for _, problem in (*page.unreadable, *other.unreadable)] == ["item_without_id"]


async def test_an_item_without_time_happened_when_they_answered(bench: Bench) -> None:
    if "no-timestamp" not in bench.running.emulator.system.own_faults:
        pytest.skip("this emulator always tells the time")
    await bench.send(*(bench.write(bench.person) for _ in range(2)))
    await bench.faults({"kind": "no-timestamp", "next": 1})
    (page,) = await bench.read(bench.person.external_type)
    assert [record.external_version is None for record in page.records] == [True, False]
    assert page.through == page.records[1].occurred_at


def test_rejected_is_final() -> None:
    assert not issubclass(Rejected, NotApplied | Ambiguous)
