"""A home: what it remembers, who may read it, what a wipe leaves alone."""

from __future__ import annotations

import base64
import json
import stat
import uuid

import pytest

from schemas.problems import Problem
from streams import settings
from streams.stack import capacity, logs, processes, state


@pytest.fixture
def home(tmp_path):
    return state.Home(tmp_path / "home")


def test_the_settings_read_what_the_stack_writes(home):
    embedded = state.load_or_create(home)
    loaded = settings.load(home.path)
    assert loaded.kafka_bootstrap == f"127.0.0.1:{embedded.ports['kafka']}"
    assert loaded.gateway_port == embedded.ports["gateway"]
    for name, role in state.ROLES.items():
        assert f"//{role}:{embedded.passwords[role]}@127.0.0.1:{embedded.ports['postgres']}/" in loaded.dsn(name)
    assert loaded.key_file == home.key
    fields = set(json.loads(home.description.read_text()))
    assert fields - {"embedded"} <= set(settings.Settings.model_fields)


def test_secrets_are_readable_by_their_owner_only(home):
    state.load_or_create(home)
    for path in (home.description, home.key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.run.stat().st_mode) == 0o700
    assert len(base64.b64decode(home.key.read_text())) == 32


def test_ports_passwords_and_key_stay(home):
    first, key = state.load_or_create(home), home.key.read_text()
    assert state.load_or_create(home) == first
    assert home.key.read_text() == key


def test_a_damaged_description_is_named(home):
    home.create()
    home.description.write_text("{}")
    with pytest.raises(Problem) as caught:
        state.load_or_create(home)
    assert caught.value.code == "home_damaged"


def test_a_wipe_takes_only_what_is_the_stacks(home):
    state.load_or_create(home)
    (home.path / "mine.txt").write_text("keep")
    home.remove()
    assert [path.name for path in home.path.iterdir()] == ["mine.txt"]


def test_a_closed_folder_is_named_before_postgres_fails_on_it(tmp_path):
    closed = tmp_path / "closed"
    (closed / "home").mkdir(parents=True)
    tmp_path.chmod(0o755)
    closed.chmod(0o700)
    with pytest.raises(Problem) as caught:
        state.check_reachable(closed / "home", (65_534, 65_534), "its data in")
    assert caught.value.code == "unreachable"
    state.check_reachable(closed / "home", None, "its data in")


@pytest.mark.parametrize(("available", "code"), [(0, "memory_low"), (8 << 30, "disk_low")])
def test_too_small_a_machine_is_told_so(tmp_path, monkeypatch, available, code):
    monkeypatch.setattr(capacity.psutil, "virtual_memory", lambda: type("M", (), {"available": available}))
    monkeypatch.setattr(capacity.shutil, "disk_usage", lambda _: type("D", (), {"free": 1 << 20}))
    with pytest.raises(Problem) as caught:
        capacity.check(tmp_path / "not" / "there", tmp_path, cached=True)
    assert caught.value.code == code


def test_the_last_words_are_those_of_trouble(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("INFO started\nFATAL:  could not bind\n\tat org.example.Main\nINFO bye\n")
    assert processes.last_words(log, 0) == "FATAL:  could not bind"
    assert processes.last_words(log, log.stat().st_size) == ""
    log.write_text("one\ntwo\n")
    assert processes.last_words(log, 0) == "two"


def test_tail_reads_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "BLOCK_BYTES", 7)
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {number}\n" for number in range(50)))
    assert logs.tail(log, 3) == (["line 47", "line 48", "line 49"], log.stat().st_size)
    assert logs.tail(log, 0)[0] == []


def test_a_stale_lock_of_postgres_is_removed_and_a_held_one_kept(tmp_path):
    run, data = tmp_path / "run", tmp_path / "postgres"
    run.mkdir()
    data.mkdir()
    lock = data / "postmaster.pid"
    lock.write_text("1\n/somewhere\n")  # process 1 lives, and is no Postgres
    processes.end_leftovers(run, data)
    assert not lock.exists()


def test_a_record_of_another_process_with_the_same_id_is_not_ours(tmp_path):
    import os

    mine = processes.Record.of(os.getpid())
    assert mine.process() is not None
    assert processes.Record(mine.pid, mine.started - 100).process() is None
    (tmp_path / "x.pid").write_text("nonsense")
    assert processes.Record.read(tmp_path / "x.pid") is None


def test_a_cluster_id_never_looks_like_an_option(monkeypatch):
    made = iter([uuid.UUID(bytes=b"\xfb" * 16), uuid.UUID(bytes=b"\x01" * 16)])
    monkeypatch.setattr(state.uuid, "uuid4", lambda: next(made))
    assert state.new_cluster_id() == "AQEBAQEBAQEBAQEBAQEBAQ"


def test_what_a_killed_java_left_is_removed(home):
    home.create()
    home.empty_temporary()
    (home.temporary / "libsnappy.so").write_text("")
    home.empty_temporary()
    assert list(home.temporary.iterdir()) == []
