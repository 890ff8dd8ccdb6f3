"""The one description of what the stack is made of: programs, arguments, configuration, ports, readiness, order.

`describe(site)` gives the four programs of the stack for a site: the folders, addresses and secrets of either this
machine (`embedded`) or a set of containers (`compose`). Nothing here starts anything.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from schemas.problems import Problem
from streams.stack import configuration, state, versions
from streams.stack.site import Archive, Java, Site

Kind = Literal["postgres", "jvm", "process"]
STACK: Final = ("postgres", "kafka", "registry", "connect")
PROCESSES: Final = ("worker", "gateway")

SET_UP: Final = ".set-up"
INITDB: Final = ("--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8", "--data-checksums")


@dataclass(frozen=True, slots=True)
class Setup:
    """A command that prepares a component's data folder, run once."""

    argv: tuple[str, ...]
    folder: str
    """Emptied before: what an interrupted attempt left must not be built on."""
    done: str
    """Written after success; when it exists the command is not run again."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Files that exist only while the command runs: path → text."""


@dataclass(frozen=True, slots=True)
class Probe:
    """How to see that a component can be used. `http` wants status 200, `kafka` a broker in the metadata."""

    kind: Literal["postgres", "kafka", "http", "alive"]
    path: str = "/"
    port: str = ""
    """Name of the port, the component's own when empty."""
    seconds: float = 90
    """Longer than this is a failure to start."""


@dataclass(frozen=True, slots=True)
class Component:
    """One program of the stack."""

    name: str
    kind: Kind
    version: str
    argv: tuple[str, ...]
    ports: tuple[str, ...]
    probe: Probe
    depends_on: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    """Configuration files: path → text, written before every start."""
    setup: tuple[Setup, ...] = ()
    archive: Archive | None = None
    stop_seconds: float = 20
    """After this long it is killed."""
    restarts: int = 5
    """Crashes within ten minutes after which it is given up."""


def describe(site: Site) -> dict[str, Component]:
    """The programs of the stack, in an order in which each comes after what it depends on."""
    parts = (_postgres(site), _kafka(site), _registry(site), _connect(site))
    return {part.name: part for part in parts}


def processes(home: str) -> dict[str, Component]:
    """Syncline's own processes beside the stack: one worker, one gateway."""

    def ours(name: str, ports: tuple[str, ...], probe: Probe) -> Component:
        return Component(
            name=name,
            kind="process",
            version="",
            argv=(sys.executable, "-m", "streams", name),
            environment={"SYNCLINE_HOME": home, "PYTHONUNBUFFERED": "1"},
            ports=ports,
            probe=probe,
            depends_on=STACK,
        )

    worker = ours("worker", (), Probe("alive", seconds=10))
    gateway = ours("gateway", ("gateway",), Probe("http", path="/healthz"))
    return {part.name: part for part in (worker, gateway)}


def ordered(parts: Mapping[str, Component]) -> list[list[str]]:
    """Groups that may start together, in order.

    Raises:
        Problem: `components_circular`; a mistake in the description.
    """
    groups: list[list[str]] = []
    placed: set[str] = set()
    while len(placed) < len(parts):
        group = [
            name
            for name, part in parts.items()
            if name not in placed and all(need in placed or need not in parts for need in part.depends_on)
        ]
        if not group:
            raise Problem("components_circular", f"these depend on each other: {', '.join(parts.keys() - placed)}")
        groups.append(group)
        placed.update(group)
    return groups


def _postgres(site: Site) -> Component:
    data = site.data("postgres")
    return Component(
        name="postgres",
        kind="postgres",
        version=versions.POSTGRES,
        argv=(f"{site.postgres_bin}/postgres", "-D", data, *configuration.postgres_arguments(site)),
        environment={"TZ": "UTC", "LC_ALL": "C"},
        ports=("postgres",),
        probe=Probe("postgres"),
        setup=(
            Setup(
                argv=(
                    f"{site.postgres_bin}/initdb",
                    *("-D", data, "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={data}.pw", *INITDB),
                ),
                folder=data,
                done=f"{data}/{SET_UP}",
                secrets={f"{data}.pw": site.passwords[state.ROLES["admin"]]},
            ),
        ),
    )


def _kafka(site: Site) -> Component:
    data, config = site.data("kafka"), site.config("kafka.properties")
    log = site.config("log4j2.properties")
    java = Java(site, "kafka", ("-cp", f"{site.jars}/kafka/*"), log)
    return Component(
        name="kafka",
        kind="jvm",
        version=versions.KAFKA,
        argv=(*java.argv(), "kafka.Kafka", config),
        archive=java.archive(),
        ports=("kafka", "kafka_controller"),
        probe=Probe("kafka"),
        files={config: configuration.kafka(site), log: configuration.log4j()},
        setup=(
            Setup(
                argv=(
                    *Java(site, "", java.classpath, log).argv(),
                    "kafka.tools.StorageTool",
                    *("format", "--standalone", f"--cluster-id={site.cluster_id}", "--config", config),
                ),
                folder=data,
                done=f"{data}/{SET_UP}",
            ),
        ),
    )


def _registry(site: Site) -> Component:
    java = Java(site, "registry", ("-jar", f"{site.jars}/registry/quarkus-run.jar"), "")
    return Component(
        name="registry",
        kind="jvm",
        version=versions.REGISTRY,
        argv=java.argv(),
        archive=java.archive(),
        environment=configuration.registry(site),
        ports=("registry", "registry_management"),
        probe=Probe("http", path="/apis/ccompat/v7/subjects"),
        depends_on=("postgres",),
    )


def _connect(site: Site) -> Component:
    config, log = site.config("connect.properties"), site.config("log4j2.properties")
    java = Java(site, "connect", ("-cp", f"{site.jars}/kafka/*"), log)
    return Component(
        name="connect",
        kind="jvm",
        version=f"{versions.KAFKA} with Debezium {versions.DEBEZIUM}",
        argv=(*java.argv(), "org.apache.kafka.connect.cli.ConnectDistributed", config),
        archive=java.archive(),
        ports=("connect",),
        # Not "/": it answers before the worker has joined its group, and 404 for a moment before that.
        probe=Probe("http", path="/connectors"),
        depends_on=("postgres", "kafka", "registry"),
        files={
            config: configuration.connect(site),
            log: configuration.log4j(),
            f"{site.home}/{state.CONNECT_SECRETS}": configuration.connect_secrets(site),
        },
    )
