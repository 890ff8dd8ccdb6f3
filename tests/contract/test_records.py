"""What every adapter must do with records: create, repeat, update, delete, batch, read back."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest

from connectors import emulators, registry
from connectors.contract import CreateTier, Delivered, Failed, Op
from connectors.errors import Rejected
from schemas.fields import Json
from tests.contract.conftest import Bench, open_bench


def holds(theirs: Json, ours: Json) -> bool:
    """Whether their record holds all of ours; they may hold more."""
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and all(key in theirs and holds(theirs[key], ours[key]) for key in ours)
    if isinstance(ours, list):
        return isinstance(theirs, list) and len(theirs) == len(ours) and all(map(holds, theirs, ours))
    return bool(theirs == ours)


def delivered(outcome: object) -> Delivered:
    assert isinstance(outcome, Delivered), outcome
    return outcome


async def test_manifest_is_consistent(bench: Bench) -> None:
    aggregates = bench.manifest.aggregates
    assert len({a.external_type for a in aggregates}) == len({a.root for a in aggregates}) == len(aggregates)
    entity_types = {a.root for a in aggregates} | {p.entity_type for a in aggregates for p in a.parts}
    for aggregate in aggregates:
        for fields in (aggregate.fields, *(part.fields for part in aggregate.parts)):
            assert len({f.canonical for f in fields}) == len({f.external for f in fields}) == len(fields)
            assert all(f.references in entity_types for f in fields if f.references)
    assert bench.manifest.batch_limit >= 1


@pytest.mark.covers("F032", "C8")
async def test_create_lands_as_sent_and_reads_back(bench: Bench) -> None:
    for aggregate in bench.manifest.aggregates:
        write = bench.write(aggregate)
        (outcome,) = await bench.send(write)
        found = await bench.records(aggregate.external_type)
        assert list(found) == [delivered(outcome).external_id]
        record = found[delivered(outcome).external_id]
        assert record.op is Op.UPDATE
        assert record.complete
        assert holds(record.payload, write.payload)
        assert sum((await bench.creates(aggregate.external_type)).values()) == 1


async def test_the_answer_and_the_poll_tell_the_same_version(bench: Bench) -> None:
    (outcome,) = await bench.send(bench.write(bench.person))
    record = (await bench.records(bench.person.external_type))[delivered(outcome).external_id]
    if delivered(outcome).external_version is not None:
        assert record.external_version == delivered(outcome).external_version
    if delivered(outcome).external_updated_at is not None:
        assert record.occurred_at == delivered(outcome).external_updated_at


@pytest.mark.covers("C6")
async def test_the_same_bytes_again_create_nothing(bench: Bench) -> None:
    if bench.manifest.create_tier not in (CreateTier.KEYED, CreateTier.CLIENT_ID):
        pytest.skip("this system cannot tell a repeat")
    body = bench.client.build(bench.write(bench.person))
    first, second = [(await bench.client.send([body]))[0] for _ in range(2)]
    assert delivered(first).external_id == delivered(second).external_id
    assert list((await bench.creates(bench.person.external_type)).values()) == [1]


def test_building_is_pure() -> None:
    for name in registry.names():
        adapter = registry.find(name)
        assert adapter.manifest.name == name


async def test_the_same_write_gives_the_same_bytes(bench: Bench) -> None:
    write = bench.write(bench.person)
    assert bench.client.build(write) == bench.client.build(write)


@pytest.mark.covers("C1")
async def test_updates_in_order_end_at_the_last(bench: Bench) -> None:
    aggregate = bench.person
    (created,) = await bench.send(bench.write(aggregate))
    external_id = delivered(created).external_id
    writes = [bench.write(aggregate, Op.UPDATE, external_id) for _ in range(3)]
    for write in writes:
        (outcome,) = await bench.send(write)
        assert delivered(outcome).external_id == external_id
    record = (await bench.records(aggregate.external_type))[external_id]
    assert holds(record.payload, writes[-1].payload)
    assert list((await bench.creates(aggregate.external_type)).values()) == [1]


@pytest.mark.covers("C10")
async def test_delete_needs_no_data_and_is_seen_or_gone(bench: Bench) -> None:
    for aggregate in bench.manifest.aggregates:
        (created,) = await bench.send(bench.write(aggregate))
        external_id = delivered(created).external_id
        gone = bench.write(aggregate, Op.DELETE, external_id)
        gone = type(gone)(**{name: getattr(gone, name) for name in gone.__slots__} | {"payload": {}})
        (outcome,) = await bench.send(gone)
        assert delivered(outcome).external_id == external_id
        state = await bench.control("GET", "state")
        assert external_id not in state["records"][aggregate.external_type]
        left = (await bench.records(aggregate.external_type)).get(external_id)
        assert left is None or left.op is Op.DELETE


async def test_a_full_batch_gives_one_outcome_each_in_order(bench: Bench) -> None:
    writes = [bench.write(bench.person) for _ in range(bench.manifest.batch_limit)]
    outcomes = await bench.send(*writes)
    found = await bench.records(bench.person.external_type)
    assert len(outcomes) == len(writes) == len(found)
    for write, outcome in zip(writes, outcomes, strict=True):
        assert holds(found[delivered(outcome).external_id].payload, write.payload)


async def test_no_bodies_no_call(bench: Bench) -> None:
    assert list(await bench.client.send([])) == []
    assert (await bench.control("GET", "counts"))["calls"] == 0


@pytest.mark.covers("C7", "C11", "C17")
async def test_one_refused_record_stops_no_other(bench: Bench) -> None:
    if "reject" not in bench.running.emulator.system.own_faults:
        pytest.skip("this emulator cannot refuse a chosen record")
    await bench.faults({"kind": "reject", "last_name": "Refused"})
    names = ["A", "Refused", "B", "C", "Refused", "D", "E"]
    outcomes = await bench.send(*(bench.write(bench.person, last_name=name) for name in names))
    for name, outcome in zip(names, outcomes, strict=True):
        if name == "Refused":
            assert isinstance(outcome, Failed)
            assert isinstance(outcome.error, Rejected)
        else:
            delivered(outcome)
    assert set((await bench.creates(bench.person.external_type)).values()) == {1}


@pytest.mark.covers("C13", "T8")
async def test_a_poll_holds_all_that_changed_since(bench: Bench) -> None:
    first = await bench.send(*(bench.write(bench.person) for _ in range(3)))
    (page,) = await bench.read(bench.person.external_type)
    assert page.through == max(record.occurred_at for record in page.records)
    second = await bench.send(*(bench.write(bench.person) for _ in range(3)))
    found = await bench.records(bench.person.external_type, page.through)
    assert {delivered(o).external_id for o in second} <= set(found)
    overlapping = await bench.records(bench.person.external_type, page.through - timedelta(days=1))
    assert {delivered(o).external_id for o in (*first, *second)} <= set(overlapping)


async def test_a_poll_of_nothing_goes_nowhere(bench: Bench) -> None:
    for page in await bench.read(bench.person.external_type):
        assert page.records == []
        assert page.through is None


@pytest.mark.covers("C3")
async def test_equal_timestamps_are_all_read(bench: Bench) -> None:
    if "equal-timestamps" not in bench.running.emulator.system.own_faults:
        pytest.skip("this emulator cannot stamp alike")
    await bench.send(bench.write(bench.person))
    before = (await bench.read(bench.person.external_type))[-1].through
    assert before is not None
    await bench.send(bench.write(bench.person))
    await bench.faults({"kind": "equal-timestamps"})
    await bench.send(*(bench.write(bench.person) for _ in range(15)))
    found = await bench.records(bench.person.external_type, before)
    alike = [record.occurred_at for record in found.values() if record.occurred_at > before]
    assert len(alike) == 16
    assert len(set(alike)) == 1


@pytest.mark.covers("C15")
async def test_one_id_in_two_types_is_two_records(bench: Bench) -> None:
    types = [a.external_type for a in bench.manifest.aggregates]
    for kind in types:
        await bench.control("PUT", f"records/{kind}/same-id", {})
    for kind in types:
        (record,) = (await bench.records(kind)).values()
        assert record.external_type == kind
    await bench.control("DELETE", f"records/{types[0]}/same-id")
    for kind in types[1:]:
        assert (await bench.records(kind))["same-id"].op is Op.UPDATE


@pytest.mark.parametrize("name", registry.names())
async def test_seeded_records_are_readable(name: str) -> None:
    async with emulators.serve(name, seed_records=30) as running, contextlib.AsyncExitStack() as stack:
        bench = await open_bench(name, running, stack)
        for aggregate in bench.manifest.aggregates:
            pages = await bench.read(aggregate.external_type)
            assert all(not page.unreadable for page in pages)
        assert len(await bench.records(bench.person.external_type)) >= 30
        assert await bench.creates(bench.person.external_type) == {}
