"""The jar lock: every file of the JVM parts with its hash, resolved once and committed.

Nothing is resolved at run time, so two machines run the same bytes and a repository cannot slip in another version.
`python -m streams.stack.jarlock` resolves the roots again with jgo after a version in `versions` was changed.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from streams.stack import versions

LOCK_FILE: Final = Path(__file__).with_name("jars.lock.json")
LAYOUT: Final = "2"
"""Changed when `installation` lays the same files out in another way."""
FOLDERS: Final = ("kafka", "connect", "registry")

ROOTS: Final = (
    # Connect runs on the same class path as the broker: they share 80 of 90 jars.
    (
        "kafka",
        f"org.apache.kafka:kafka_2.13:{versions.KAFKA}",
        f"org.apache.kafka:connect-runtime:{versions.KAFKA}",
    ),
    # By itself: jgo takes every root's managed versions, and this one's parent manages an older kafka-clients.
    ("kafka", f"org.apache.logging.log4j:log4j-slf4j-impl:{versions.LOG4J}"),
    (
        "connect",
        f"io.debezium:debezium-connector-postgres:{versions.DEBEZIUM}",
        f"io.apicurio:apicurio-registry-utils-converter:{versions.CONVERTER}",
    ),
)
"""(folder, roots): each set is resolved by itself; of a jar that two sets of a folder bring, the first set's stays."""
REGISTRY_ROOT: Final = ("io.apicurio", "apicurio-registry-app", versions.REGISTRY, "all", "tar.gz")


@dataclass(frozen=True, slots=True, order=True)
class Jar:
    """One locked file and where it is unpacked to."""

    folder: str
    group: str
    artifact: str
    version: str
    classifier: str
    file: str
    sha256: str
    size: int

    @property
    def path(self) -> str:
        """Where a Maven repository keeps the file."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.file}"


def read(path: Path | None = None) -> tuple[Jar, ...]:
    """The committed lock (or another one, in tests)."""
    text = path.read_text() if path else resources.files("streams.stack").joinpath(LOCK_FILE.name).read_text()
    return tuple(Jar(**entry) for entry in json.loads(text)["jars"])


def fingerprint(jars: Iterable[Jar]) -> str:
    """Names the folder a set of jars is assembled in: another lock never mixes with this one's files."""
    digest = hashlib.sha256(LAYOUT.encode())
    for jar in sorted(jars):
        digest.update(f"{jar.folder}/{jar.file}:{jar.sha256}\n".encode())
    return digest.hexdigest()[:12]


def write(jars: Iterable[Jar], path: Path) -> None:
    """Write a lock file, sorted, one jar per line so that a diff shows what a version change brought."""
    lines = ",\n".join(json.dumps(asdict(jar)) for jar in sorted(jars))
    path.write_text(f'{{"jars": [\n{lines}\n]}}\n')


def resolve(repository: Path, remote: str) -> tuple[Jar, ...]:
    """Resolve the roots against `remote`, downloading into `repository` to take the hashes."""
    from jgo.maven import MavenContext  # noqa: PLC0415 - only this function needs the embedded extra

    context = MavenContext(repo_cache=repository, remote_repos={"central": remote}, timeout=60)
    found: dict[str, dict[tuple[str, str], Jar]] = {folder: {} for folder in FOLDERS}
    for folder, *roots in ROOTS:
        inputs, transitive = context.resolver.resolve([context.create_dependency(root) for root in roots])
        for dependency in (*inputs, *transitive):
            jar = _locked(folder, dependency.artifact)
            found[folder].setdefault((jar.group, jar.artifact), jar)
    # A plugin's loader looks in its own folder first, so a second kafka-clients or jackson there would clash with the
    # worker's: what the worker has, the plugin leaves out.
    for shared in found["connect"].keys() & found["kafka"].keys():
        del found["connect"][shared]
    group, artifact, version, classifier, packaging = REGISTRY_ROOT
    archive = context.project(group, artifact).at_version(version).artifact(classifier, packaging)
    found["registry"][group, artifact] = _locked("registry", archive)
    return tuple(sorted(jar for jars in found.values() for jar in jars.values()))


def _locked(folder: str, artifact: object) -> Jar:
    """Hash one resolved artifact of jgo's (untyped library)."""
    path: Path = artifact.resolve()  # type: ignore[attr-defined]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Jar(
        folder=folder,
        group=artifact.groupId,  # type: ignore[attr-defined]
        artifact=artifact.artifactId,  # type: ignore[attr-defined]
        version=artifact.version,  # type: ignore[attr-defined]
        classifier=artifact.classifier,  # type: ignore[attr-defined]
        file=artifact.filename,  # type: ignore[attr-defined]
        sha256=digest,
        size=path.stat().st_size,
    )


def main() -> None:
    """Resolve again and rewrite the committed lock."""
    from streams.stack.options import StackOptions  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="syncline-maven-") as repository:
        jars = resolve(Path(repository), StackOptions().maven_url)
    write(jars, LOCK_FILE)
    print(  # noqa: T201 - a developer's command
        f"{LOCK_FILE.name}: {len(jars)} files, {sum(jar.size for jar in jars) / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
