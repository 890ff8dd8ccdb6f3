"""The description: order, ports, secrets where nobody looks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.problems import Problem
from streams.stack import components, configuration, state
from streams.stack.site import Site


@pytest.fixture
def site() -> Site:
    names = (*components.STACK, *components.PROCESSES)
    return Site(
        java="/java",
        java_version=25,
        jars="/jars",
        postgres_bin="/pg/bin",
        home="/home",
        bind="127.0.0.1",
        hosts=dict.fromkeys(names, "127.0.0.1"),
        ports={name: 21_000 + number for number, name in enumerate(state.PORTS)},
        passwords={role: f"secret-of-{role}" for role in (*state.ROLES.values(), state.REGISTRY_ROLE)},
        cluster_id="cluster",
        archives="/archives",
    )


def test_groups_start_after_what_they_need(site):
    parts = components.describe(site) | components.processes("/home")
    assert components.ordered(parts) == [["postgres", "kafka"], ["registry"], ["connect"], ["worker", "gateway"]]


def test_a_circle_is_found(site):
    parts = components.describe(site)
    parts["postgres"] = replace(parts["postgres"], depends_on=("connect",))
    with pytest.raises(Problem) as caught:
        components.ordered(parts)
    assert caught.value.code == "components_circular"


def test_the_description_is_in_starting_order(site):
    assert tuple(components.describe(site)) == components.STACK


def test_everything_listens_on_loopback_alone(site):
    parts = components.describe(site)
    everything = str([(part.argv, dict(part.environment), dict(part.files)) for part in parts.values()])
    assert "0.0.0.0" not in everything
    assert "listen_addresses=127.0.0.1" in parts["postgres"].argv
    assert parts["registry"].environment["QUARKUS_MANAGEMENT_HOST"] == "127.0.0.1"


def test_no_secret_is_in_an_argument(site):
    parts = components.describe(site) | components.processes("/home")
    for part in parts.values():
        commands = [part.argv, *(setup.argv for setup in part.setup)]
        assert not any("secret-of-" in word for command in commands for word in command)


def test_every_port_belongs_to_one_part(site):
    parts = components.describe(site) | components.processes("/home")
    owned = [port for part in parts.values() for port in part.ports]
    assert sorted(owned) == sorted(state.PORTS)


def test_java_records_its_classes_until_there_is_an_archive(site):
    before = components.describe(site)["kafka"]
    assert "-XX:DumpLoadedClassList=/home/run/kafka.classes" in before.argv
    assert before.archive is not None
    assert before.archive.file == "/archives/kafka.jsa"
    after = components.describe(replace(site, archived=frozenset({"kafka"})))["kafka"]
    assert "-XX:SharedArchiveFile=/archives/kafka.jsa" in after.argv
    assert after.archive is None


def test_an_older_java_gets_no_flag_it_does_not_know(site):
    old = components.describe(replace(site, java_version=17))["kafka"]
    assert not [flag for flag in old.argv if flag.startswith(("--enable-native", "--sun-misc"))]


@pytest.mark.parametrize(
    "line",
    [
        "auto.create.topics.enable=false",
        "group.initial.rebalance.delay.ms=0",
        "offsets.topic.num.partitions=4",
        "transaction.state.log.replication.factor=1",
    ],
)
def test_the_broker(site, line):
    assert line in configuration.kafka(site).splitlines()


@pytest.mark.parametrize(
    "line",
    [
        "exactly.once.source.support=disabled",
        "connector.client.config.override.policy=All",
        "scheduled.rebalance.max.delay.ms=0",
        "config.storage.replication.factor=1",
    ],
)
def test_the_connect_worker(site, line):
    assert line in configuration.connect(site).splitlines()


@pytest.mark.parametrize("setting", ["wal_level=logical", "fsync=on", "max_slot_wal_keep_size=1GB"])
def test_postgres(site, setting):
    assert setting in configuration.postgres_arguments(site)
