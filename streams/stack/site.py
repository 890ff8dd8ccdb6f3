"""Where a stack runs (this machine or a set of containers), and how Java is called there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

HEAP_MIB: Final = {"kafka": 512, "registry": 384, "connect": 384}


@dataclass(frozen=True, slots=True)
class Site:
    """Where the parts run. All paths and addresses are as the parts themselves see them."""

    java: str
    java_version: int
    jars: str
    postgres_bin: str
    home: str
    """Parent of `config/` and of each component's data folder."""
    bind: str
    hosts: Mapping[str, str]
    ports: Mapping[str, int]
    passwords: Mapping[str, str]
    cluster_id: str
    temporary: str = ""
    """Folder for what Java unpacks; empty: the system's, which users of one machine share and fight over."""
    sockets: str = ""
    """Folder of Postgres' local socket; empty: none, everybody proves a password over TCP."""
    archives: str = ""
    """Folder of class archives that make Java start faster; empty: none are used or made."""
    archived: frozenset[str] = frozenset()
    """Components whose archive is there."""

    def address(self, component: str, port: str = "") -> str:
        """`host:port` of a component for its neighbours."""
        return f"{self.hosts[component]}:{self.ports[port or component]}"

    def data(self, component: str) -> str:
        """Where a component keeps what must survive."""
        return f"{self.home}/{component}"

    def config(self, name: str) -> str:
        """A configuration file."""
        return f"{self.home}/config/{name}"


@dataclass(frozen=True, slots=True)
class Archive:
    """How to make a component's class archive from the list of classes that its first run leaves."""

    classes: str
    file: str
    argv: tuple[str, ...]
    """Without the file to write, which is a draft first."""


@dataclass(frozen=True, slots=True)
class Java:
    """A Java command up to its main class."""

    site: Site
    name: str
    """Component; empty for a short-lived tool."""
    classpath: tuple[str, ...]
    log4j: str

    def argv(self) -> tuple[str, ...]:
        """The command a component runs with."""
        flags = self._flags()
        if self.name in self.site.archived:
            flags.append(f"-XX:SharedArchiveFile={self._archive}")
        elif self.site.archives and self.name:
            flags.append(f"-XX:DumpLoadedClassList={self._classes}")
        return (*flags, *self.classpath)

    def archive(self) -> Archive | None:
        """How to make the archive; None where it is there or not wanted."""
        if not self.site.archives or self.name in self.site.archived:
            return None
        argv = (*self._flags(), "-Xshare:dump", f"-XX:SharedClassListFile={self._classes}", "-Xlog:disable")
        return Archive(self._classes, self._archive, (*argv, *self.classpath))

    @property
    def _archive(self) -> str:
        return f"{self.site.archives}/{self.name}.jsa"

    @property
    def _classes(self) -> str:
        return f"{self.site.home}/run/{self.name}.classes"

    def _flags(self) -> list[str]:
        heap = HEAP_MIB.get(self.name, 256)
        flags = [self.site.java, f"-Xmx{heap}m", f"-Xms{min(heap, 128)}m"]
        # The C1 compiler alone: half the start-up time on two cores, and enough for one machine's load.
        flags += ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData"]
        flags += ["-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"]
        if self.site.java_version >= 24:
            # Silences warnings about native libraries that the parts load on purpose (compression, memory mapping).
            flags += ["--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"]
        if self.site.temporary:
            flags += [f"-Djava.io.tmpdir={self.site.temporary}"]
        if self.log4j:
            flags += [f"-Dlog4j2.configurationFile={self.log4j}"]
        return flags
