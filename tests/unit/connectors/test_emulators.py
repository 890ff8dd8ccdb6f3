"""The emulators' parts by themselves, the mock server's own manners, and an emulator as a program."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connectors import emulators
from connectors.emulators import journal as journals
from connectors.emulators.app import Emulator
from connectors.emulators.clock import Clock
from connectors.emulators.faults import Faults, parse_option
from connectors.emulators.journal import Journal
from connectors.emulators.server import create
from connectors.emulators.world import Call, Reply
from schemas.problems import Problem


def faults(*rules: dict[str, Any]) -> Faults:
    made = Faults(("own",), random.Random(1))
    made.set(rules)
    return made


def strikes(made: Faults, times: int, path: str = "/a/b", method: str = "GET") -> list[bool]:
    return [made.draw(("429", "own"), path, method) is not None for _ in range(times)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"kind": "429"}, [True] * 4),
        ({"kind": "own"}, [True] * 4),
        ({"kind": "429", "next": 2}, [True, True, False, False]),
        ({"kind": "429", "next": 0}, [False] * 4),
        ({"kind": "429", "rate": 0}, [False] * 4),
        ({"kind": "429", "rate": 1}, [True] * 4),
        ({"kind": "429", "match": "/a"}, [True] * 4),
        ({"kind": "429", "match": "/b"}, [False] * 4),
        ({"kind": "429", "method": "GET"}, [True] * 4),
        ({"kind": "429", "method": "POST"}, [False] * 4),
        ({"kind": "html"}, [False] * 4),
    ],
)
def test_when_a_fault_strikes(rule: dict[str, Any], expected: list[bool]) -> None:
    assert strikes(faults(rule), 4) == expected


def test_a_rate_is_a_rate_and_two_runs_are_alike() -> None:
    first, second = (strikes(faults({"kind": "429", "rate": 0.2}), 2000) for _ in range(2))
    assert first == second
    assert 300 < sum(first) < 500


def test_rules_strike_in_order_and_carry_options() -> None:
    made = faults({"kind": "429", "next": 1, "retry_after": 7}, {"kind": "429", "next": 1})
    first, second = made.draw(("429",), "/"), made.draw(("429",), "/")
    assert first is not None
    assert second is not None
    assert (first.options, second.options) == ({"retry_after": 7}, {})
    assert made.draw(("429",), "/") is None


@pytest.mark.parametrize(
    "rule", [{}, {"kind": "x"}, {"kind": "429", "rate": 2}, {"kind": "429", "rate": "a"}, {"kind": "429", "next": -1}]
)
def test_a_wrong_rule_changes_nothing(rule: dict[str, Any]) -> None:
    made = faults({"kind": "429"})
    with pytest.raises(Problem, match="fault_invalid"):
        made.set([rule])
    assert strikes(made, 1) == [True]


def test_faults_of_the_command_line() -> None:
    assert parse_option("429:0.1") == {"kind": "429", "rate": 0.1}
    assert parse_option("slow") == {"kind": "slow", "rate": 1.0}
    with pytest.raises(Problem, match="fault_invalid"):
        parse_option("429:often")


def test_stamps_always_rise_by_whole_milliseconds() -> None:
    clock = Clock(lambda: 1_000.123456)
    stamps = [clock.stamp() for _ in range(3)]
    assert [s.microsecond for s in stamps] == [123000, 124000, 125000]
    assert clock.now() == stamps[-1]
    assert clock.stamp(again=True) == stamps[-1]
    clock.set(datetime(2024, 1, 1, tzinfo=UTC))
    assert clock.stamp() == datetime(2024, 1, 1, tzinfo=UTC)
    assert clock.stamp() == datetime(2024, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)
    clock.skew(-10)
    assert clock.now() == datetime.fromtimestamp(990.123, UTC)
    clock.reset()
    assert clock.now() == datetime.fromtimestamp(1000.123, UTC)


def log(journal: Journal, count: int, keys: int = 1, body: bytes = b"x") -> None:
    for _ in range(count):
        journal.log(1.0, "POST", "/", 200, "t", ["k"] * keys, body)


def test_the_log_is_bounded_in_calls_keys_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(kept_calls=10)
    log(journal, 25)
    assert [call["n"] for call in journal.calls(0)] == list(range(16, 26))
    assert [call["n"] for call in journal.calls(20, 2)] == [21, 22]
    assert journal.counts()["calls"] == 25
    monkeypatch.setattr(journals, "KEPT_KEYS", 30)
    log(journal, 1, keys=25)
    assert sum(len(call["keys"]) for call in journal.calls(0)) <= 30
    monkeypatch.setattr(journals, "KEPT_BODY_BYTES", 100)
    log(journal, 5, body=b"y" * 40)
    assert [call["body"] is None for call in journal.calls(0)][-3:] == [True, False, False]
    monkeypatch.setattr(journals, "BODY_CAP_BYTES", 3)
    log(journal, 1, body=b"12345")
    assert journal.calls(0)[-1]["body"] == "123"
    journal.reset()
    assert journal.calls(0) == []


@pytest.fixture
def emulator() -> Emulator:
    return create("mock-sync-server")


def post(emulator: Emulator, content: Any) -> Reply:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return emulator.system.handle(Call("POST", "/mock-sync", {}, {}, body))


def get(emulator: Emulator, since: str = "") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(
        emulator.system.handle(Call("GET", "/mock-sync", {"since": since}, {}, b"")).body
    )
    return items


def submission(
    guid: str = "g1", entity: str = "person_1", kind: str = "create-individual", **data: Any
) -> dict[str, Any]:
    return {
        "guid": guid,
        "entityGuid": entity,
        "type": kind,
        "data": {"entityName": "individual", **data},
        "timestamp": "2025-01-01T00:00:00.000Z",
        "userId": "u",
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "no JSON"),
        ([], "the body must be"),
        ({}, "the body must be"),
        ({"data": {}}, "the body must be"),
        ({"data": [submission(), 7]}, "data[1]: must be an object"),
        ({"data": [submission(guid="")]}, "data[0]: guid"),
        ({"data": [submission(), submission() | {"entityGuid": None}]}, "data[1]: entityGuid"),
        ({"data": [submission() | {"timestamp": 5}]}, "data[0]: timestamp"),
        ({"data": [{k: v for k, v in submission().items() if k != "userId"}]}, "data[0]: userId"),
        ({"data": [submission() | {"data": {}}]}, "data[0]: data"),
        ({"data": [submission() | {"data": []}]}, "data[0]: data"),
    ],
)
def test_a_wrong_submission_is_named_and_nothing_is_stored(emulator: Emulator, content: Any, reason: str) -> None:
    answer = post(emulator, content)
    assert answer.status == 400
    assert reason in json.loads(answer.body)["error"]
    assert get(emulator) == []


def test_a_batch_above_the_limit_is_refused(emulator: Emulator) -> None:
    assert post(emulator, {"data": [submission(f"g{i}") for i in range(101)]}).status == 413
    assert post(emulator, {"data": []}).status == 200
    assert emulator.system.handle(Call("PATCH", "/", {}, {}, b"")).status == 405


@pytest.mark.covers("C6")
def test_a_repeated_guid_changes_nothing_and_is_counted(emulator: Emulator) -> None:
    first = post(emulator, {"data": [submission(x=1)]})
    again = post(emulator, {"data": [submission(x=2), submission("g2", "person_2")]})
    assert json.loads(again.body)["data"][0] == json.loads(first.body)["data"][0]
    assert [item["data"].get("x") for item in get(emulator)] == [1, None]
    counts = emulator.journal.counts()
    assert (counts["duplicate_guids"], counts["submissions"]) == (1, 3)
    assert counts["creates"] == {"individual": {"person_1": 1, "person_2": 1}}


def test_a_second_create_is_counted_and_applied_as_upsert(emulator: Emulator) -> None:
    post(emulator, {"data": [submission("g1", x=1, y=1), submission("g2", x=2)]})
    assert emulator.journal.counts()["creates"] == {"individual": {"person_1": 2}}
    (item,) = get(emulator)
    assert item["data"] == {"entityName": "individual", "x": 2, "y": 1}


def test_since_is_strict_and_pulls_are_in_order_of_time(emulator: Emulator) -> None:
    for i in range(3):
        post(emulator, {"data": [submission(f"g{i}", f"person_{i}")]})
    post(emulator, {"data": [submission("g9", "person_0", "update-individual")]})
    items = get(emulator)
    assert [item["id"] for item in items] == ["person_1", "person_2", "person_0"]
    assert [item["id"] for item in get(emulator, items[0]["timestamp"])] == ["person_2", "person_0"]
    assert get(emulator, items[-1]["timestamp"]) == []
    assert len(get(emulator, "0")) == 3


def test_a_delete_is_pulled_and_a_later_create_starts_anew(emulator: Emulator) -> None:
    post(emulator, {"data": [submission("g1", x=1), submission("g2", kind="delete-entity")]})
    assert [(item["type"], item["data"]) for item in get(emulator)] == [("delete-entity", {"entityName": "individual"})]
    assert emulator.system.records()["individual"] == {}
    assert list(emulator.system.deleted()["individual"]) == ["person_1"]
    post(emulator, {"data": [submission("g3", y=1)]})
    assert get(emulator)[0]["data"] == {"entityName": "individual", "y": 1}


@pytest.mark.covers("C9")
def test_members_and_unknown_submissions(emulator: Emulator) -> None:
    group = {"entityName": "household", "name": "H"}
    batch = [
        submission("g1", "household_1", "create-group") | {"data": group},
        submission("g2", "household_1", "add-member") | {"data": {"members": [{"guid": "a"}, {"guid": "b"}]}},
        submission("g3", "household_1", "remove-member") | {"data": {"memberId": "a"}},
        submission("g4", "thing", "something-else") | {"data": {"a": 1}},
    ]
    assert post(emulator, {"data": batch}).status == 200
    (item,) = get(emulator)
    assert item["data"] == {**group, "memberIds": ["b"]}


def test_a_reset_gives_the_seeded_records_again() -> None:
    emulator = create("mock-sync-server", seed_records=9, rules=[{"kind": "html"}])
    before = [(item["id"], item["data"]) for item in get(emulator)]
    post(emulator, {"data": [submission()]})
    emulator.reset()
    assert [(item["id"], item["data"]) for item in get(emulator)] == before
    assert emulator.faults.draw(("html",), "/") is None


def test_problems_before_the_start() -> None:
    with pytest.raises(Problem, match="adapter_unknown"):
        create("nothing")
    with pytest.raises(Problem, match="fault_invalid"):
        create("mock-sync-server", rules=[{"kind": "x"}])


async def test_latency_is_of_the_api_and_not_of_the_control(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("connectors.emulators.app.asyncio.sleep", sleep)
    emulator = create("mock-sync-server", latency_ms=20)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    for path in ("/mock-sync", "/_emulator/counts"):
        await emulator({"method": "GET", "path": path, "query_string": b"", "headers": []}, receive, send)
    assert slept == [0.02]
    assert json.loads(sent[-1]["body"])["calls"] == 1


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_an_emulator_as_a_program(end: signal.Signals) -> None:
    command = [
        sys.executable,
        "-m",
        "connectors.emulators",
        "mock-sync-server",
        "--seed-records",
        "3",
        "--fault",
        "429:0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        try:
            found = re.search(r"http://127\.0\.0\.1:\d+", program.stdout.readline())
            assert found is not None
            with urllib.request.urlopen(f"{found[0]}/_emulator/state", timeout=30) as answer:
                assert len(json.load(answer)["records"]["individual"]) == 3
            program.send_signal(end)
            assert program.wait(30) in (0, -end)
            assert program.stderr.read() == ""
        finally:
            program.kill()


@pytest.mark.parametrize("arguments", [["nothing"], ["mock-sync-server", "--fault", "x"]])
def test_a_program_that_cannot_start_says_why(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from connectors.emulators.__main__ import main

    assert main(arguments) == 2
    assert ": " in capsys.readouterr().err


async def test_a_port_in_use_is_told() -> None:
    async with emulators.serve("mock-sync-server") as running:
        port = int(running.url.rpartition(":")[2])
        with pytest.raises(Problem, match="port_in_use"):
            emulators.run("mock-sync-server", port=port)


def test_time_moves_while_the_clock_is_free(emulator: Emulator) -> None:
    before = emulator.clock.now()
    assert before - datetime.now(UTC) < timedelta(seconds=1)
