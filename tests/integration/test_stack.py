"""The embedded stack, really started: what it offers, what it survives, what it leaves behind (nothing)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from schemas.problems import Problem
from streams.settings import Settings, load
from streams.stack import components, state
from streams.stack.embedded import Stack
from streams.stack.processes import Record

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SCHEMA = json.dumps({"type": "record", "name": "Kept", "fields": [{"name": "id", "type": "string"}]})
SUPERVISOR = """
import sys
from pathlib import Path
from streams.stack import downloads, launch, running, state
home = Path(sys.argv[1])
install = launch.ready_installation(home, downloads.Silent())
act = running.detached if sys.argv[2] == "detached" else running.foreground
act(state.Home(home), install, sys.argv[3:], report=lambda event: print(event, flush=True), prepare=None)
"""


def start(home: Path, how: str, *names: str) -> subprocess.Popen[bytes]:
    """A process that runs the stack as `syncline up` does, without the preparations of other parts."""
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(home), how, *(names or components.STACK)], stdout=subprocess.DEVNULL
    )


def until(true, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def ready(one: Stack) -> bool:
    with contextlib.suppress(Problem):
        return bool(one.status()["ready"])
    return False


def processes_of(home: Path) -> list[psutil.Process]:
    """Every process that works for the home: by its records, its arguments, its working folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [*process.cmdline(), process.cwd()]
            if process.pid != os.getpid() and any(str(home) in word for word in words):
                found.append(process)
    return found


def registry_id(settings: Settings) -> int:
    answer = httpx.post(
        f"{settings.registry_url}/apis/ccompat/v7/subjects/kept-value/versions", json={"schema": SCHEMA}, timeout=30
    )
    return int(answer.raise_for_status().json()["id"])


@pytest.fixture(scope="module")
def one(make_home):
    """A home of its own that the tests of TestOwnHome hand on."""
    one = Stack(make_home())
    yield one
    one.stop()
    assert processes_of(one.home.path) == []


class TestRunning:
    """One stack for all of these."""

    def test_all_parts_are_ready(self, stack):
        parts = stack.status()["components"]
        assert {name for name, part in parts.items() if part["state"] == "ready"} >= set(components.STACK)
        for name in components.STACK:
            assert parts[name]["pid"] > 0
            assert parts[name]["rss"] > 1 << 20
            assert Path(parts[name]["log"]).exists()

    @pytest.mark.parametrize("role", ["app", "applier", "owner", "admin", "capture"])
    def test_every_role_logs_in_as_itself(self, stack, role):
        with psycopg.connect(stack.info().dsn(role)) as connection:
            assert connection.execute("select current_user").fetchone() == (state.ROLES[role],)
            assert connection.execute("select current_setting('syncline.org_id')").fetchone() == ("org_main",)

    def test_a_wrong_password_is_refused(self, stack):
        dsn = psycopg.conninfo.make_conninfo(stack.info().dsn("app"), password="wrong")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(dsn)

    def test_roles_are_what_their_names_say(self, stack):
        query = "select rolname, rolsuper, rolreplication, rolbypassrls, rolcanlogin from pg_roles"
        with psycopg.connect(stack.info().dsn("admin")) as connection:
            roles = {name: flags for name, *flags in connection.execute(query)}
            owner = connection.execute("select pg_get_userbyid(datdba) from pg_database where datname = 'canon'")
            assert owner.fetchone() == ("syncline_owner",)
        assert roles["syncline_app"] == roles["syncline_owner"] == [False, False, False, True]
        assert roles["syncline_capture"] == [False, True, True, True]
        assert roles["syncline_bulk"] == [False, False, False, False]

    def test_nobody_is_bulk_by_chance_but_may_be(self, stack):
        with psycopg.connect(stack.info().dsn("app")) as connection:
            connection.execute("set role syncline_bulk")
            assert connection.execute("select current_user").fetchone() == ("syncline_bulk",)

    def test_postgres_is_set_for_capture_and_safety(self, stack):
        with psycopg.connect(stack.info().dsn("admin")) as connection:
            shown = {
                name: connection.execute(f"show {name}").fetchone()[0]
                for name in ("wal_level", "fsync", "max_slot_wal_keep_size", "max_connections", "data_checksums")
            }
        assert shown == {
            "wal_level": "logical",
            "fsync": "on",
            "max_slot_wal_keep_size": "1GB",
            "max_connections": "200",
            "data_checksums": "on",
        }

    def test_kafka_does_not_make_topics_by_itself(self, stack):
        admin = AdminClient({"bootstrap.servers": stack.info().kafka_bootstrap})
        admin.list_topics("mistyped", timeout=10)
        assert "mistyped" not in admin.list_topics(timeout=10).topics

    def test_connect_knows_debezium(self, stack):
        plugins = httpx.get(f"{stack.info().connect_url}/connector-plugins", timeout=30).json()
        assert "io.debezium.connector.postgresql.PostgresConnector" in {plugin["class"] for plugin in plugins}

    def test_connect_finds_the_converter_without_a_scan(self, stack):
        plugins = httpx.get(
            f"{stack.info().connect_url}/connector-plugins", params={"connectorsOnly": "false"}, timeout=30
        ).json()
        assert "io.apicurio.registry.utils.converter.AvroConverter" in {plugin["class"] for plugin in plugins}

    def test_nothing_listens_beyond_this_machine(self, stack):
        ours = {part["pid"] for part in stack.status()["components"].values() if part["pid"]}
        listening = [
            found.laddr.ip
            for found in psutil.net_connections("tcp")
            if found.pid in ours and found.status == psutil.CONN_LISTEN
        ]
        assert listening
        assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


class TestOwnHome:
    """A home of its own, started and ended in every way, in this order: each test goes on from the last one's state."""

    def test_it_starts_as_a_daemon(self, one):
        assert start(one.home.path, "detached").wait(120) == 0
        assert ready(one)
        settings = one.info()
        with psycopg.connect(settings.dsn("owner"), autocommit=True) as connection:
            connection.execute("create table kept (id int)")
            connection.execute("insert into kept values (1)")
        assert registry_id(settings) > 0

    def test_a_crashed_part_is_started_again(self, one):
        before = one.status()["components"]["registry"]["pid"]
        os.kill(before, signal.SIGKILL)
        until(lambda: one.status()["components"]["registry"]["restarts"] == 1)
        until(lambda: one.status()["components"]["registry"]["state"] == "ready")
        assert one.status()["components"]["registry"]["pid"] != before

    def test_killed_parts_come_back_with_what_they_held(self, one):
        for name in ("postgres", "kafka"):
            one.kill(name)
            assert one.status()["components"][name]["state"] == "stopped"
        for name in ("postgres", "kafka"):
            one.start_component(name)
        with psycopg.connect(one.info().dsn("owner")) as connection:
            assert connection.execute("select count(*) from kept").fetchone() == (1,)

    def test_a_dead_supervisor_leaves_nothing_behind(self, one):
        supervisor = one.status()["supervisor"]["pid"]
        assert len(processes_of(one.home.path)) > 4
        os.kill(supervisor, signal.SIGKILL)
        until(lambda: not processes_of(one.home.path), 10)

    def test_the_next_start_goes_on_from_there(self, one):
        settings, identity = one.info(), None
        assert start(one.home.path, "detached").wait(120) == 0
        assert one.info() == settings  # ports and passwords are the same
        with psycopg.connect(settings.dsn("owner")) as connection:
            assert connection.execute("select count(*) from kept").fetchone() == (1,)
        identity = registry_id(settings)
        assert identity == registry_id(settings)
        topics = AdminClient({"bootstrap.servers": settings.kafka_bootstrap}).list_topics(timeout=10).topics
        assert "syncline.connect.configs" in topics

    def test_stop_ends_everything_in_order(self, one):
        one.stop()
        assert processes_of(one.home.path) == []
        assert not list(one.home.run.glob("*.pid"))
        assert not one.running()

    def test_a_taken_port_is_named(self, one):
        port = state.load(one.home).ports["kafka"]
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            with pytest.raises(Problem) as caught:
                one.start(["kafka"])
        assert caught.value.code == "port_taken"
        assert f"kafka needs port {port}" in caught.value.cause
        assert f"pid {os.getpid()}" in caught.value.cause
        assert processes_of(one.home.path) == []

    def test_a_leftover_without_a_supervisor_is_ended(self, one):
        one.start(["postgres"])
        one.stop()
        stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
        try:
            Record.of(stranger.pid).write(one.home.run / "connect.pid")
            one.start(["postgres"])
            stranger.wait(5)
        finally:
            stranger.kill()
            one.stop()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_ends_a_supervisor_in_the_foreground(self, one, number):
        running = start(one.home.path, "foreground", "postgres")
        until(lambda: ready(one))
        assert load(one.home.path).postgres_app_dsn
        running.send_signal(number)
        assert running.wait(30) == 0
        assert processes_of(one.home.path) == []

    def test_a_terminals_ctrl_c_reaches_the_supervisor_alone(self, one):
        running = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(one.home.path), "foreground", "postgres"],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(lambda: ready(one))
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(30) == 0
        assert "received fast shutdown request" in one.home.log("postgres").read_text()

    def test_a_wipe_removes_the_state_and_keeps_the_cache(self, one):
        one.wipe()
        assert not one.home.path.exists()
        with pytest.raises(Problem) as caught:
            one.status()
        assert caught.value.code == "not_running"


def test_a_failure_names_part_cause_and_log(make_home):
    one = Stack(make_home())
    one.start(["postgres"])
    one.stop()
    (one.home.data("postgres") / "PG_VERSION").write_text("12\n")
    with pytest.raises(Problem) as caught:
        one.start(["postgres"])
    assert caught.value.code == "component_failed"
    assert "postgres ended with exit code 1" in caught.value.cause
    assert "incompatible" in caught.value.cause
    assert caught.value.log == str(one.home.log("postgres"))
