"""The command line from outside: help, wrong usage, how problems look."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

from schemas.problems import Problem
from streams.cli import app, session, show

PLAIN = [
    (),
    ("demo",), ("doctor",), ("connect",), ("disconnect",), ("push",), ("status",), ("why",), ("worker",), ("gateway",),
    ("migrate",), ("emulate",), ("connections",), ("connections", "list"), ("connections", "show"),
    ("connections", "pause"), ("connections", "resume"), ("connections", "webhook"), ("dead-letters",),
    ("dead-letters", "list"), ("dead-letters", "show"), ("dead-letters", "redrive"), ("dead-letters", "drop"),
    ("connections", "set"), ("resync",), ("intents",), ("lanes",), ("lanes", "pause"), ("lanes", "resume"),
    ("lanes", "budget"), ("parked",), ("parked", "list"), ("parked", "show"), ("parked", "retry"), ("parked", "drop"),
    ("holds",), ("holds", "list"), ("holds", "approve"), ("holds", "drop"), ("connectors",), ("connectors", "apply"),
    ("conflicts",), ("conflicts", "list"), ("conflicts", "show"), ("conflicts", "resolve"), ("conflicts", "log"),
    ("conflicts", "restore"), ("reviews",), ("reviews", "list"), ("reviews", "show"), ("reviews", "retry"),
    ("reviews", "close"), ("reviews", "decide"), ("reviews", "assign"), ("conflicts", "assign"),
]  # fmt: skip
STACK = [("up",), ("down",), ("stack",), ("psql",), ("logs",)]


@pytest.fixture
def syncline(tmp_path, monkeypatch, capfd):
    """Run a command in a home of its own; (exit code, standard output, standard error)."""
    for name in ("SYNCLINE_ORG_ID", "SYNCLINE_POSTGRES_APP_DSN", "SYNCLINE_KAFKA_BOOTSTRAP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SYNCLINE_HOME", str(tmp_path))

    def run(*arguments: str):
        capfd.readouterr()
        code = app.run(list(arguments))
        return code, *capfd.readouterr()

    return run


@pytest.mark.parametrize("command", [*PLAIN, *STACK], ids=" ".join)
def test_every_command_has_help(syncline, command):
    code, out, _ = syncline(*command, "--help")
    assert code == 0
    assert out.startswith(f"Usage: {' '.join(('syncline', *command))}")
    if command in STACK or command == ():
        return
    if command not in [
        ("connections",),
        ("dead-letters",),
        ("connectors",),
        ("parked",),
        ("holds",),
        ("conflicts",),
        ("reviews",),
    ]:
        assert "Examples:" in out
    assert not re.search(r"\w\.\.\.$", out, re.MULTILINE), "a description is cut"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",), ("why",), ("connect",), ("connect", "--type", "mock-sync-server"), ("push", "clinic"),
        ("connect", "--type", "x", "--url", "http://x", "--set", "novalue"),
        ("connect", "--type", "x", "--url", "http://x", "--option", "4"),
        ("connect", "--type", "x", "--url", "http://x", "--secret", "apiKey=in-the-history"),
        ("connect", "file.json", "--type", "x"), ("dead-letters", "show", "one"), ("worker", "--roles", "sleep"),
        ("emulate", "mock-sync-server", "--port", "99999"), ("status", "--yaml"),
        ("push",), ("push", "person_1", "person_2", "--all"), ("push", "clinic", "--all", "--link", "7"),
        ("connections", "set", "clinic"), ("connections", "set", "clinic", "--filter", "status=active"),
        ("connections", "set", "clinic", "--guard", "creates=5"),
        ("connections", "set", "clinic", "--guard", "deletes=-1"),
        ("connections", "set", "clinic", "--budget", "100"), ("connections", "set", "clinic", "--concurrency", "0"),
        ("connections", "set", "clinic", "--gate", "person"), ("connections", "set", "clinic", "--on-leave", "burn"),
        ("connections", "set", "clinic", "--include", "person:a", "--exclude", "person:b"),
        ("lanes", "budget", "clinic", "many"), ("holds", "approve", "first"), ("parked", "retry"),
        ("dead-letters", "redrive"), ("dead-letters", "redrive", "1", "--code", "x"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_exits_with_2(syncline, arguments):
    code, out, err = syncline(*arguments)
    assert code == 2
    assert out == ""
    assert "Error" in err
    assert "Traceback" not in err
    assert "in-the-history" not in err


def test_a_problem_has_code_cause_and_next_step(syncline):
    code, out, err = syncline("why", "person_01h45ytscbebyvny4gc8cr8ma2")
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert lines[0].startswith("✗ not_configured: no database connection")
    assert lines[1].startswith("→ Start the embedded stack with `syncline up`")


def test_a_problem_as_json(syncline):
    code, out, err = syncline("why", "person_1", "--json")
    assert (code, err) == (1, "")
    assert json.loads(out)["error"]["code"] == "not_configured"


def test_status_works_with_nothing_running(syncline, tmp_path):
    code, out, _ = syncline("status", "--json")
    assert code == 0
    told = json.loads(out)
    for key in ("postgres", "kafka", "connect", "registry", "gateway", "workers", "connections", "lag"):
        assert key in told
    assert set(told["unreachable"]) == {"postgres", "kafka"}
    assert syncline("status")[0] == 0


def test_the_log_of_a_problem_is_named(capfd):
    session.current.as_json = False
    show.problem(Problem("kafka_down", "Kafka ended", "Look at its log.", log="/logs/kafka.log"))
    assert capfd.readouterr().err == "✗ kafka_down: Kafka ended\n→ Look at its log.\n  log: /logs/kafka.log\n"


def test_an_unexpected_error_goes_to_a_file(syncline, tmp_path, monkeypatch):
    def broken(_):
        raise ValueError("canary-text")

    monkeypatch.setattr("streams.settings.load", broken)
    code, out, err = syncline("status")
    assert (code, out) == (1, "")
    assert err.startswith("✗ unexpected: ValueError")
    assert "canary-text" not in err
    [log] = tmp_path.glob("syncline-error-*.log")
    assert str(log) in err
    assert "canary-text" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_ctrl_c_exits_with_130(syncline, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("streams.settings.load", interrupted)
    code, _, err = syncline("status")
    assert code == 130
    assert "Traceback" not in err


def test_home_and_organisation_can_be_named(syncline, tmp_path):
    _, out, _ = syncline("--home", str(tmp_path / "other"), "--org", "org_b", "status", "--json")
    told = json.loads(out)
    assert (told["home"], told["org"]) == (str(tmp_path / "other"), "org_b")


def test_version(syncline):
    assert re.fullmatch(r"syncline \d+\.\d+\.\d+\n", syncline("--version")[1])


def test_help_imports_nothing_heavy():
    code = "import sys; from streams.cli import app; app.build(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = {"pydantic", "psycopg", "faust", "httpx", "fastapi", "rich", "structlog", "confluent_kafka", "cryptography"}
    assert not heavy & set(loaded)


def test_help_is_quick():
    def once() -> float:
        begun = time.monotonic()
        subprocess.run([sys.executable, "-m", "streams", "--help"], check=True, capture_output=True)
        return time.monotonic() - begun

    assert min(once() for _ in range(5)) < 0.8  # 0.3 s on an idle machine; tests run on busy ones


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"), ([], "–"), (True, "yes"), (900.0, "900"), ({"a": 1, "b": 2}, "a 1, b 2"), (["x", "y"], "x, y"),
        ("\x1b[31mred\r\n", "\ufffd[31mred\ufffd\ufffd"),
    ],
)  # fmt: skip
def test_cells(value, said):
    assert show.cell(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, "–"), (0, "0.0 s"), (90, "1.5 min"), (7200, "2.0 h"), (1e6, "11.6 d")]
)
def test_spans(seconds, said):
    assert show.span(seconds) == said


def test_tables_are_whole_when_piped(capfd):
    show.table({"a": "A", "b": "B"}, [{"a": "x" * 500, "b": "[red]y"}, {"a": "z", "b": None}])
    assert capfd.readouterr().out.splitlines() == [
        f"{'A':<500}  B",
        f"{'x' * 500}  [red]y",
        f"{'z':<500}  –",
    ]
