"""What every test may use: a clean environment, and for integration tests one running stack per session."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.stack.embedded import Stack

KEPT = {"SYNCLINE_TEST_HOME", "SYNCLINE_CACHE", "SYNCLINE_JAVA", "SYNCLINE_MAVEN_URL"}
"""Where things come from; every other variable of ours would make a test read somebody's real stack."""


def pytest_configure(config: pytest.Config) -> None:
    """Name our marker, and forget the environment before anything reads it."""
    config.addinivalue_line("markers", "integration: needs the embedded stack (downloads it once, starts it once)")
    for name in [name for name in os.environ if name.startswith("SYNCLINE_") and name not in KEPT]:
        del os.environ[name]


@pytest.fixture(scope="session")
def make_home() -> Iterator[Callable[[], Path]]:
    """Makes empty homes that work for a plain user and for root, whose Postgres runs under another account.

    Pytest's own `tmp_path` does not: its parents are closed to other accounts. They are removed at the end.
    """
    made: list[Path] = []

    def make() -> Path:
        home = Path(tempfile.mkdtemp(prefix="syncline-test-"))
        home.chmod(0o711)
        made.append(home)
        return home

    yield make
    for home in made:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(make_home: Callable[[], Path]) -> Iterator[Stack]:
    """The running stack: Postgres, Kafka, the registry and Connect, with empty databases; `stack.info()` tells how.

    SYNCLINE_TEST_HOME names a home to use. When a stack runs there already it is used as it is and left running; when
    none runs, one is started there, stopped at the end and kept. Without it, a new home is made and removed.
    """
    named = os.environ.get("SYNCLINE_TEST_HOME")
    one = Stack(Path(named) if named else make_home())
    if one.running():
        yield one
    else:
        with one:
            yield one
