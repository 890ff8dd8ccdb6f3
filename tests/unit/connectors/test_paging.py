"""Lists that change while they are walked: nothing is passed over, and the walk ends."""

from __future__ import annotations

import itertools

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import emulators, http, paging
from connectors.errors import Ambiguous
from connectors.sim.client import SimClient
from connectors.sim.fields import MANIFEST
from connectors.sim.settings import SimSettings


class Listed:
    """A list sorted by the time of the last edit, paged by offset, with edits before each page."""

    def __init__(self, count: int, size: int, edits: list[list[tuple[str, int]]]) -> None:
        self.clock = itertools.count(1)
        self.times = {n: next(self.clock) for n in range(count)}
        self.size, self.edits = size, iter(edits)

    def items(self):
        return sorted((f"{at:06}", str(n)) for n, at in self.times.items())

    async def read(self, offset):
        for kind, n in next(self.edits, []):
            living = sorted(self.times)
            if kind == "add" or not living:
                self.times[max([*living, 1000]) + 1] = next(self.clock)
            elif kind == "delete":
                del self.times[living[n % len(living)]]
            else:
                self.times[living[n % len(living)]] = next(self.clock)
        return self.items()[offset : offset + self.size]


edits = st.lists(
    st.lists(st.tuples(st.sampled_from(["edit", "edit", "delete", "add"]), st.integers(0, 40)), max_size=6), max_size=30
)


@given(count=st.integers(0, 30), size=st.integers(2, 7), edits=edits)
@pytest.mark.covers("F126", "C3")
async def test_whatever_is_edited_or_deleted_meanwhile_every_record_is_read_as_it_is_last(count, size, edits):
    listed = Listed(count, size, edits)
    read = [item async for page in paging.walk(listed.read, lambda item: item) for item in page]
    assert set(listed.items()) <= set(read)
    assert len(read) == len(set(read)), "no state is brought twice"


async def test_a_list_whose_pages_never_fit_together_is_given_up():
    async def read(offset):
        return [("z",)] if offset else [("a",), ("b",)]

    with pytest.raises(Ambiguous, match="faster"):
        [page async for page in paging.walk(read, lambda item: item)]


@pytest.fixture
async def sim():
    """A sim with 25 people, and a client of it with pages of four."""
    async with emulators.serve("sim-keyed") as theirs, httpx.AsyncClient(base_url=f"{theirs.url}/_emulator") as control:

        async def tell(path, body, method="POST"):
            (await control.request(method, path, json=body)).raise_for_status()

        for n in range(25):
            await tell(f"/records/people/p{n:02}", {"first_name": f"P{n}"}, "PUT")
        async with http.client() as web:

            def client(**settings):
                return SimClient(MANIFEST, SimSettings(url=theirs.url, page_size=4, **settings), web)

            yield client, tell


async def ids(client):
    return [record.external_id async for page in client.pages("people", None) for record in page.records]


@pytest.mark.covers("F126")
@pytest.mark.parametrize("how", ["cursor", "offset"])
async def test_pages_that_move_lose_nothing(sim, how):
    client, tell = sim
    await tell("/settings", {"drift": 5})
    found = await ids(client(paging=how))
    assert {f"p{n:02}" for n in range(25)} == set(found)
    assert len(found) > 25, "what was edited came again"


@pytest.mark.covers("C3")
@pytest.mark.parametrize("how", ["cursor", "offset"])
async def test_records_of_one_instant_are_all_read_across_pages(sim, how):
    client, tell = sim
    await tell("/faults", [{"kind": "equal-timestamps", "next": 30}])
    for n in range(30):
        await tell(f"/records/people/same{n:02}", {"first_name": "Same"}, "PUT")
    found = await ids(client(paging=how))
    assert len(found) == len(set(found)) == 55


async def test_the_first_answers_date_comes_with_every_page_of_a_walk_by_offset(sim):
    client, _ = sim
    dates = [page.date async for page in client(paging="offset").pages("people", None)]
    assert len(set(dates)) == 1
    assert dates[0] is not None
