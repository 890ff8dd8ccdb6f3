"""The supervisor with small programs in place of the stack: order, crashes, giving up, commands."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from schemas.problems import Problem
from streams.stack import control, managed, supervisor
from streams.stack.components import Component, Probe
from streams.stack.launch import Launch
from streams.stack.state import Embedded, Home

SLEEP = "import time; time.sleep(60)"
NAMES = ("postgres", "kafka", "registry", "connect")


def part(name: str, code: str = SLEEP, **changed) -> Component:
    values = {
        "name": name,
        "kind": "jvm",
        "version": "",
        "argv": (sys.executable, "-S", "-c", code),
        "ports": (),
        "probe": Probe("alive"),
    }
    return Component(**(values | changed))


@pytest.fixture
def running(tmp_path, monkeypatch):
    """Starts a supervisor over the parts; ends it, and makes sure that nothing is left."""
    monkeypatch.setattr(managed, "ALIVE_SECONDS", 0.05)
    monkeypatch.setattr(managed, "BACKOFF_S", (0.01,))
    monkeypatch.setattr(managed.readiness, "postgres", lambda _: True)
    home = Home(tmp_path / "h")
    home.create()
    threads = []

    class Running:
        def __init__(self, parts, prepare=None) -> None:
            self.events, self.raised = [], None
            full = {name: part(name) for name in NAMES} | {one.name: one for one in parts}
            launch = Launch(home, Embedded({}, {}, "", ""), full, managed.Surroundings(home, {}, None, ""))
            started = threading.Event()

            def work() -> None:
                self.one = supervisor.Supervisor(launch, report=self.events.append, prepare=prepare)
                self.one.managed["postgres"].on_ready = None
                started.set()
                try:
                    self.one.run(full)
                except Problem as problem:
                    self.raised = problem

            self.thread = threading.Thread(target=work)
            threads.append(self)
            self.thread.start()
            started.wait()

        def ask(self, operation, **arguments):
            return control.ask(home.run / "control.sock", operation, timeout=5, **arguments)

        def state(self, name):
            return self.ask("status")["components"][name]["state"]

        def pid(self, name):
            return self.ask("status")["components"][name]["pid"]

    yield Running
    for one in threads:
        one.one.end()
        one.thread.join(10)
        assert not one.thread.is_alive()
        assert not list(home.run.glob("*.pid"))


def until(true, seconds=5):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_part_starts_after_what_it_needs_and_stops_before(running):
    one = running([part("connect", depends_on=("registry",)), part("registry", depends_on=("kafka",))])
    one.ask("wait")
    one.ask("down")
    order = [event.component for event in one.events if event.state == "ready"]
    assert order.index("kafka") < order.index("registry") < order.index("connect")
    order = [event.component for event in one.events if event.state == "stopped"]
    assert order.index("connect") < order.index("registry") < order.index("kafka")


def test_a_part_that_does_not_start_ends_all_and_says_why(running, monkeypatch):
    monkeypatch.setattr(managed.readiness, "http_ok", lambda *_: False)
    bad = part("kafka", "import sys; sys.exit('ERROR no room on the disk')", probe=Probe("http"))
    one = running([bad])
    one.thread.join(5)
    assert one.raised.code == "component_failed"
    assert "kafka ended with exit code 1" in one.raised.cause
    assert "ERROR no room on the disk" in one.raised.cause
    assert one.raised.log.endswith("kafka.log")


def test_a_part_that_is_never_ready_is_given_up(running, monkeypatch):
    monkeypatch.setattr(managed.readiness, "http_ok", lambda *_: False)
    one = running([part("connect", probe=Probe("http", seconds=0.2))])
    one.thread.join(5)
    assert "connect is not ready after" in one.raised.cause


def test_a_crashed_part_comes_back(running):
    one = running([])
    one.ask("wait")
    before = one.pid("kafka")
    os.kill(before, 9)
    until(lambda: one.pid("kafka") not in {None, before} and one.state("kafka") == "ready")
    assert one.ask("status")["components"]["kafka"]["restarts"] == 1


def test_a_part_that_crashes_again_and_again_is_given_up_and_the_rest_stays(running):
    flaky = part("kafka", "import time; time.sleep(0.15)", restarts=2)
    one = running([flaky])
    until(lambda: one.state("kafka") == "failed")
    status = one.ask("status")["components"]
    assert status["kafka"]["problem"]["code"] == "component_failed"
    assert status["registry"]["state"] == "ready"


def test_a_killed_part_stays_down_until_it_is_started(running):
    one = running([])
    one.ask("wait")
    one.ask("kill", component="connect")
    assert one.state("connect") == "stopped"
    time.sleep(0.1)
    assert one.pid("connect") is None
    assert one.ask("start", component="connect")["components"]["connect"]["state"] == "ready"


def test_a_kill_with_restart_is_like_a_crash(running):
    one = running([])
    one.ask("wait")
    before = one.pid("connect")
    one.ask("kill", component="connect", restart=True)
    until(lambda: one.pid("connect") not in {None, before} and one.state("connect") == "ready")


def test_starting_a_part_starts_what_it_needs(running):
    one = running([part("connect", depends_on=("kafka",))])
    one.ask("wait")
    one.ask("stop", component="kafka")
    one.ask("stop", component="connect")
    one.ask("start", component="connect")
    assert one.state("kafka") == "ready"


def test_one_that_does_not_end_when_asked_is_killed(running):
    deaf = part("kafka", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)", stop_seconds=0.2)
    one = running([deaf])
    one.ask("wait")
    one.ask("stop", component="kafka")
    assert one.pid("kafka") is None


def test_the_hook_runs_between_the_stack_and_our_processes(running):
    seen = []
    worker = part("worker", kind="process", depends_on=NAMES)
    one = running([worker], prepare=lambda _: seen.append([event.component for event in one.events]))
    one.ask("wait")
    assert "worker" in {event.component for event in one.events if event.state == "ready"}
    states = [(event.component, event.state) for event in one.events]
    assert states.index(("prepare", "ready")) < states.index(("worker", "starting"))
    assert len(seen) == 1


def test_a_hook_that_fails_ends_all(running):
    def prepare(_):
        raise Problem("migration_failed", "no such column")

    one = running([], prepare=prepare)
    one.thread.join(5)
    assert one.raised.code == "migration_failed"


def test_questions_that_make_no_sense(running):
    one = running([])
    one.ask("wait")
    for operation, arguments, code in [
        ("dance", {}, "request_invalid"),
        ("start", {"component": "oracle"}, "component_unknown"),
        ("start", {}, "request_invalid"),
    ]:
        with pytest.raises(Problem) as caught:
            one.ask(operation, **arguments)
        assert caught.value.code == code


def test_nobody_there_is_a_problem_of_its_own(tmp_path):
    with pytest.raises(Problem) as caught:
        control.ask(tmp_path / "run" / "control.sock", "status")
    assert caught.value.code == "not_running"


def test_a_deep_home_has_a_socket_too(tmp_path):
    folder = tmp_path / ("x" * 100) / "run"
    folder.mkdir(parents=True)
    server = control.Server(folder / "control.sock", lambda request: lambda: {"got": request["operation"]})
    thread = threading.Thread(target=lambda: [server.serve(0.1) for _ in range(3)])
    thread.start()
    assert control.ask(folder / "control.sock", "status", timeout=5) == {"got": "status"}
    thread.join()
    server.close()
