"""docker-compose.yml is the text made from the description, and holds no secret."""

from __future__ import annotations

from pathlib import Path

import yaml

from streams.stack import components, compose, versions

COMMITTED = Path(__file__).parents[3] / "docker-compose.yml"


def test_the_committed_file_is_the_generated_text():
    made = compose.text()
    assert COMMITTED.read_text() == made, "run: python -m streams.stack.compose > docker-compose.yml"


def test_it_is_the_document():
    assert yaml.safe_load(compose.text()) == compose.document()


def test_every_part_is_there_and_waits_for_what_it_needs():
    services = compose.document()["services"]
    for name, part in components.describe(compose.site()).items():
        assert set(services[name].get("depends_on", {})) == set(part.depends_on)
    assert set(services["prepare"]["depends_on"]) == set(components.STACK)
    assert {"prometheus", "grafana", "worker", "gateway"} <= set(services)


def test_ports_are_published_on_this_machine_only():
    published = [port for service in compose.document()["services"].values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_versions_come_from_one_place():
    text = compose.text()
    assert f"postgres:{versions.POSTGRES}" in text
    assert f"grafana/grafana:{versions.GRAFANA}" in text


def test_all_variables_it_reads_are_made():
    names = {line.split("=", maxsplit=1)[0] for line in compose.environment().splitlines()}
    read = {part.split(":", maxsplit=1)[0] for part in compose.text().split("${")[1:]}
    assert read <= names
    assert names - read == {"SYNCLINE_KEY"}  # read as a secret


def test_secrets_differ_each_time():
    assert compose.environment() != compose.environment()
