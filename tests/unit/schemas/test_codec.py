import httpx
import orjson
import pytest

from schemas import codec, registry
from schemas.codec import Codec
from schemas.problems import Problem
from schemas.registry import Registry

OPTIONAL_TEXT = ["null", "string"]
ROW = {
    "type": "record",
    "name": "Value",
    "fields": [{"name": "id", "type": "string"}, {"name": "origin", "type": OPTIONAL_TEXT, "default": None}],
}
SOURCE = {
    "type": "record",
    "name": "Source",
    "namespace": "io.debezium",
    "fields": [{"name": "version", "type": "string"}, {"name": "ts_ms", "type": "long"},
               {"name": "ts_us", "type": ["null", "long"], "default": None}],
}  # fmt: skip
ENVELOPE = {
    "type": "record",
    "name": "Envelope",
    "namespace": "cdc.canon.person",
    "fields": [
        {"name": "before", "type": ["null", ROW], "default": None},
        {"name": "after", "type": ["null", "Value"], "default": None},
        {"name": "source", "type": SOURCE},
        {"name": "op", "type": "string"},
    ],
}
RECORD = {
    "before": None,
    "after": {"id": "person_1", "origin": "local"},
    "source": {"version": "3", "ts_ms": 5, "ts_us": 5_001},
    "op": "u",
}


class Fixed:
    """A registry that knows what it is given, and counts."""

    def __init__(self, schemas: dict[int, dict]) -> None:
        self.schemas, self.asked, self.down = schemas, [], False

    async def schema(self, schema_id: int) -> dict:
        self.asked.append(schema_id)
        if self.down:
            raise Problem("registry_unreachable", "down")
        if schema_id not in self.schemas:
            raise Problem("schema_unknown", "no")
        return self.schemas[schema_id]


def written(schema: dict, value: dict, number: int = 7) -> bytes:
    return codec.encode(number, codec.parse_schema(orjson.loads(orjson.dumps(schema))), value)


async def test_an_envelope_gives_its_rows_and_the_rest_on_demand() -> None:
    reader, data = Codec(Fixed({7: ENVELOPE})), written(ENVELOPE, RECORD)
    await reader.learn([data])
    envelope = reader.envelope(data)
    assert (envelope.before, envelope.after) == (None, RECORD["after"])
    assert envelope.rest() == {"source": RECORD["source"], "op": "u"}
    assert reader.decode(data) == RECORD


async def test_each_schema_is_fetched_once() -> None:
    known = Fixed({7: ENVELOPE, 8: ROW})
    reader = Codec(known)
    data, other = written(ENVELOPE, RECORD), written(ROW, {"id": "x", "origin": None}, 8)
    await reader.learn([data, other, data, None, b"", b"garbage"])
    await reader.learn([data])
    assert known.asked == [7, 8]


async def test_a_registry_that_is_down_is_asked_again() -> None:
    known = Fixed({7: ENVELOPE})
    known.down = True
    reader, data = Codec(known), written(ENVELOPE, RECORD)
    with pytest.raises(Problem, match="registry_unreachable"):
        await reader.learn([data])
    known.down = False
    await reader.learn([data])
    assert reader.decode(data) == RECORD


@pytest.mark.covers("F080")
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (None, "not_avro"),
        (b"", "not_avro"),
        (b"{}", "not_avro"),
        (b"\x01\x00\x00\x00\x07rest", "not_avro"),
        (b"\x00\x00\x00\x00\x63rest", "schema_unknown"),
        (b"\x00\x00\x00\x00\x07\xff\xff", "avro_unreadable"),
        (b"\x00\x00\x00\x00\x07", "avro_unreadable"),
    ],
)
async def test_unreadable_records_say_why(data: bytes | None, code: str) -> None:
    reader = Codec(Fixed({7: ENVELOPE}))
    await reader.learn([data])
    for read in (reader.decode, reader.envelope):
        with pytest.raises(Problem) as raised:
            read(data)
        assert raised.value.code == code


async def test_what_is_no_envelope_is_told() -> None:
    reader, data = Codec(Fixed({8: ROW})), written(ROW, {"id": "x", "origin": None}, 8)
    await reader.learn([data])
    with pytest.raises(Problem, match="not_an_envelope"):
        reader.envelope(data)


def answering(*answers: httpx.Response | Exception) -> tuple[Registry, list[httpx.Request]]:
    left, asked = list(answers), []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        given = left.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    return Registry("http://registry", transport=httpx.MockTransport(answer)), asked


async def test_a_schema_is_fetched_by_id() -> None:
    client, asked = answering(httpx.Response(200, json={"schema": orjson.dumps(ROW).decode()}))
    assert await client.schema(8) == ROW
    assert asked[0].url.path == "/apis/ccompat/v7/schemas/ids/8"
    await client.aclose()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (httpx.Response(404, json={"error_code": registry.UNKNOWN_SCHEMA, "message": "x"}), "schema_unknown"),
        (httpx.Response(404, text="not here yet"), "registry_unreachable"),
        (httpx.Response(503, text="starting"), "registry_unreachable"),
        (httpx.ConnectError("refused"), "registry_unreachable"),
        (httpx.ReadTimeout("slow"), "registry_unreachable"),
    ],
)
async def test_not_knowing_is_told_apart_from_not_answering(answer: httpx.Response | Exception, code: str) -> None:
    client, _ = answering(answer)
    with pytest.raises(Problem) as raised:
        await client.schema(8)
    assert raised.value.code == code
    await client.aclose()


async def test_registering_keeps_the_subject_compatible() -> None:
    client, asked = answering(
        httpx.Response(404, json={"error_code": 40408}),
        httpx.Response(200, json={"compatibility": "BACKWARD_TRANSITIVE"}),
        httpx.Response(200, json={"id": 12}),
    )
    assert await client.register("inbound.events-value", ROW) == 12
    assert [(r.method, r.url.path.removeprefix(registry.API)) for r in asked] == [
        ("GET", "/config/inbound.events-value"),
        ("PUT", "/config/inbound.events-value"),
        ("POST", "/subjects/inbound.events-value/versions"),
    ]
    assert orjson.loads(asked[1].content) == {"compatibility": "BACKWARD_TRANSITIVE"}
    await client.aclose()


async def test_an_incompatible_schema_is_refused_for_good() -> None:
    client, _ = answering(
        httpx.Response(200, json={"compatibilityLevel": "BACKWARD_TRANSITIVE"}),
        httpx.Response(409, json={"error_code": 409}),
    )
    with pytest.raises(Problem, match="schema_incompatible"):
        await client.register("s", ROW)
    await client.aclose()
