"""Half an hour without the system, in small; `make accept-outbound` has the full size."""

from __future__ import annotations

import pytest

from streams.settings import Settings
from tests.acceptance.outage import outage

pytestmark = pytest.mark.integration


@pytest.mark.covers("F137")
async def test_an_outage_costs_few_calls_and_no_record(database: Settings) -> None:
    told = await outage(database, 1000, latency_s=0)

    assert told["not_done"] == 0
    assert told["doubled"] == 0
    assert 0 < told["calls_while_away"] < 300  # one probe every ten seconds, and what was on its way
