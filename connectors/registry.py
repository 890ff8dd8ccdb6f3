"""Type name -> adapter: the only place that knows where adapters live.

Place in the flow: the composition root, `connect` and the emulators ask `find()`. Folders under `connectors/systems`
are found by name and imported only when somebody asks for them; third parties add theirs through entry points:

    [project.entry-points."syncline.adapters"]
    my-system = "my_package.my_system:ADAPTER"

Every other name of a system is an alias in its manifest.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from connectors.contract import Adapter, Manifest
from schemas.problems import Problem

GROUP = "syncline.adapters"
SYSTEMS = "connectors.systems"
"""Imported by name only: systems may import what imports this module."""


def find(name: str) -> Adapter:
    """The adapter of a type name or alias.

    Raises Problem: `adapter_unknown` when there is none; `adapter_broken` when one of that name cannot be used.
    """
    adapter = _load(name)
    if adapter is None:
        # Only a name that is no folder costs the import of all of them.
        adapter = next((a for a in map(_load, names()) if a is not None and name in a.manifest.aliases), None)
    if adapter is None:
        known = ", ".join(names())
        raise Problem("adapter_unknown", f"No adapter available for type: {name}", f"Installed types: {known}.")
    return adapter


def names() -> tuple[str, ...]:
    """The type names of all installed adapters, sorted, without importing one."""
    return tuple(sorted({*_folders(), *_third_parties()}))


def module(name: str) -> str:
    """The dotted path of an adapter's package, where its emulator and samples are. Raises as `find` does."""
    name = find(name).manifest.name
    if name in _folders():
        return _folders()[name]
    return _third_parties()[name].module


@functools.cache
def _folders() -> dict[str, str]:
    found = pkgutil.iter_modules(importlib.import_module(SYSTEMS).__path__)
    return {m.name.replace("_", "-"): f"{SYSTEMS}.{m.name}" for m in found if m.ispkg}


@functools.cache
def _third_parties() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


@functools.cache
def _load(name: str) -> Adapter | None:
    if name in _folders():
        loaded: Any = getattr(importlib.import_module(_folders()[name]), "ADAPTER", None)
    elif name in _third_parties():
        try:
            loaded = _third_parties()[name].load()
        except (ImportError, AttributeError) as failure:
            raise _broken(name, f"it cannot be imported ({failure})") from failure
    else:
        return None
    manifest = getattr(loaded, "manifest", None)
    if not isinstance(manifest, Manifest) or not callable(getattr(loaded, "open", None)):
        raise _broken(name, "it has no ADAPTER with a manifest")
    if manifest.name != name:
        raise _broken(name, f"its manifest calls it {manifest.name}")
    return cast(Adapter, loaded)


def _broken(name: str, reason: str) -> Problem:
    return Problem("adapter_broken", f"The adapter {name} cannot be used: {reason}", "Repair or remove its package.")
