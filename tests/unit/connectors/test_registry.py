"""Type name to adapter: folders, aliases, entry points, and what is broken."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest

from connectors import registry
from connectors.systems import mock_sync_server
from schemas.problems import Problem


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    for cached in (registry._folders, registry._third_parties, registry._load):
        cached.cache_clear()
    yield
    for cached in (registry._folders, registry._third_parties, registry._load):
        cached.cache_clear()


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """An installed package with an adapter `outside`, alias `outside-adapter`."""
    manifest = replace(mock_sync_server.MANIFEST, name="outside", aliases=("outside-adapter",))
    adapter = types.SimpleNamespace(manifest=manifest, open=print)
    module = types.ModuleType("outside_package")
    module.ADAPTER = adapter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "outside_package", module)
    points = [EntryPoint("outside", "outside_package:ADAPTER", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else [])
    return adapter


def test_a_folder_is_found_by_its_name() -> None:
    assert registry.find("mock-sync-server") is mock_sync_server.ADAPTER
    assert registry.module("mock-sync-server") == "connectors.systems.mock_sync_server"
    assert "mock-sync-server" in registry.names()


@pytest.mark.covers("F023")
@pytest.mark.parametrize("name", ["X", "", "..", "mock_sync_server", "os"])
def test_an_unknown_type_is_told_in_the_documented_words(name: str) -> None:
    with pytest.raises(Problem) as caught:
        registry.find(name)
    assert caught.value.code == "adapter_unknown"
    assert caught.value.cause == f"No adapter available for type: {name}"
    assert "mock-sync-server" in caught.value.next_step


@pytest.mark.covers("F028")
def test_third_parties_add_adapters(third_party: types.SimpleNamespace) -> None:
    assert registry.find("outside") is third_party
    assert registry.find("outside-adapter") is third_party
    assert registry.module("outside-adapter") == "outside_package"
    assert registry.names() == tuple(sorted({*registry.names(), "outside"}))


def test_a_broken_adapter_is_named(third_party: types.SimpleNamespace) -> None:
    third_party.manifest = replace(third_party.manifest, name="other")
    with pytest.raises(Problem, match=r"adapter_broken.*calls it other"):
        registry.find("outside")
    third_party.manifest = None
    with pytest.raises(Problem, match=r"adapter_broken.*no ADAPTER"):
        registry.find("outside")


def test_an_adapter_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("gone", "no_such_package:ADAPTER", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group else [])
    with pytest.raises(Problem, match="adapter_broken"):
        registry.find("gone")
