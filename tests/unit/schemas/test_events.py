import dataclasses
from datetime import UTC, datetime

import pytest
from fastavro import parse_schema

from schemas import codec, events
from schemas.codec import Codec
from schemas.events import InboundEvent
from streams.store import publication

EVENT = InboundEvent(
    event_id=bytes(range(16)),
    org_id="org_main",
    connection="pco-main",
    system="pco",
    external_type="Person",
    external_id="12",
    op="upsert",
    occurred_at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    received_at=datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
    source="webhook",
    complete=False,
    payload=b'{"name": "\xc3\xa9"}',
    delivery_id="d-1",
)


class Known:
    async def schema(self, _: int) -> dict:
        return events.schema("inbound_event")


async def test_an_event_comes_back_as_it_went() -> None:
    reader, data = Codec(Known()), events.encode(EVENT, 3)
    await reader.learn([data])
    assert events.decode(reader, data) == EVENT
    assert EVENT.key == b"pco-main/Person/12"


async def test_fields_of_a_newer_version_are_left_out() -> None:
    newer = events.schema("inbound_event")
    newer = newer | {"fields": [*newer["fields"], {"name": "shard", "type": "string", "default": ""}]}

    class Newer:
        async def schema(self, _: int) -> dict:
            return newer

    fields = {name: getattr(EVENT, name) for name in events._NAMES}
    data = codec.encode(4, parse_schema(newer), fields | {"shard": "a"})
    reader = Codec(Newer())
    await reader.learn([data])
    assert events.decode(reader, data) == EVENT


@pytest.mark.parametrize("wrong", [{"op": "rename"}, {"event_id": b"short"}, {"payload": None}])
def test_what_does_not_fit_the_schema_is_not_written(wrong: dict) -> None:
    with pytest.raises((ValueError, TypeError)):
        events.encode(dataclasses.replace(EVENT, **wrong), 3)


def test_an_outcome_has_what_is_captured_of_a_delivery_and_nothing_else() -> None:
    fields = [field["name"] for field in events.schema("delivery_outcome")["fields"]]
    assert fields == list(publication.PIPELINE_COLUMNS["delivery"])
    assert not {"before", "delta", "cause"} & set(fields), "personal data stays in the database"
