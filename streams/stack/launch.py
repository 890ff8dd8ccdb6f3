"""From a home to what runs there: installation, state and description put together, before anything is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from streams import settings
from streams.stack import (
    capacity,
    components,
    downloads,
    installation,
    jarlock,
    managed,
    ports,
    processes,
    site,
    state,
)
from streams.stack.options import StackOptions


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything a supervisor needs to know."""

    home: state.Home
    embedded: state.Embedded
    parts: Mapping[str, components.Component]
    surroundings: managed.Surroundings

    @classmethod
    def prepare(cls, home_path: Path, install: installation.Installation) -> Self:
        """Read or create the home's state and describe its components. Needs the home's lock.

        Raises:
            Problem: see `state`.
        """
        home = state.Home(home_path)
        embedded = state.load_or_create(home)
        processes.end_leftovers(home.run, home.data("postgres"))
        home.empty_temporary()
        account = state.postgres_account(home)
        state.check_reachable(home.path, account, "its data in")
        state.check_reachable(install.postgres_bin, account, "its programs in")
        parts = components.describe(_site(home, embedded, install)) | components.processes(str(home.path))
        admin = f"postgresql://{state.ROLES['admin']}:{embedded.passwords[state.ROLES['admin']]}"
        around = managed.Surroundings(
            home=home,
            port_numbers=embedded.ports,
            account=account,
            admin_dsn=f"{admin}@{ports.LOOPBACK}:{embedded.ports['postgres']}/postgres",
        )
        return cls(home, embedded, parts, around)

    def settings(self) -> settings.Settings:
        """How programs reach this stack."""
        return settings.load(self.home.path)


def ready_installation(home: Path, progress: downloads.Progress) -> installation.Installation:
    """Check the machine's capacity before a home's first start, then bring the programs.

    Raises:
        Problem: `memory_low`, `disk_low`, and those of `installation.install`.
    """
    cache = settings.default_cache()
    cached = (cache / f"stack-{jarlock.fingerprint(jarlock.read())}").is_dir()
    if not state.Home(home).description.exists() or not cached:
        capacity.check(home, cache, cached=cached)
    old = os.umask(0o022)  # the cache is shared by homes, and by root with the account of Postgres
    try:
        return installation.install(cache, StackOptions(), progress)
    finally:
        os.umask(old)


def _site(home: state.Home, embedded: state.Embedded, install: installation.Installation) -> site.Site:
    names = (*components.STACK, *components.PROCESSES)
    archived = frozenset(path.stem for path in install.archives.glob("*.jsa"))
    return site.Site(
        java=str(install.java),
        java_version=install.java_version,
        jars=str(install.jars),
        postgres_bin=str(install.postgres_bin),
        home=str(home.path),
        bind=ports.LOOPBACK,
        hosts=dict.fromkeys(names, ports.LOOPBACK),
        ports=embedded.ports,
        passwords=embedded.passwords,
        cluster_id=embedded.cluster_id,
        temporary=str(home.temporary),
        archives=str(install.archives),
        archived=archived,
    )
