"""Proof by feature: the marker `covers` and `pytest --covers`.

`@pytest.mark.covers("F113", "C12")` says that a test proves these items of the feature list. `pytest --covers` runs as
ever and then prints, per group, which items have only passing tests, which have a failing one and which have none.
F: features, T: decisions where the sources contradict each other, C: cases that must not fail, H: hazards, R: rules,
G: figures.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Generator

import pytest

GROUPS = {"F": 180, "T": 16, "C": 22}
"""Groups whose every item must be proved, with their last number; the others are printed as far as they are marked."""

_ITEM = re.compile(r"[FTCHRG]\d{1,3}")
_items = pytest.StashKey[dict[str, tuple[str, ...]]]()
_outcomes = pytest.StashKey[dict[str, set[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--covers`."""
    parser.addoption("--covers", action="store_true", help="print which items of the feature list have a passing test")


def pytest_configure(config: pytest.Config) -> None:
    """Start with nothing known."""
    config.stash[_items] = {}
    outcomes: dict[str, set[str]] = defaultdict(set)
    config.stash[_outcomes] = outcomes


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note what each test covers; a word that is no item stops the run."""
    for item in items:
        covered = tuple(name for marker in item.iter_markers("covers") for name in marker.args)
        if wrong := [name for name in covered if not _ITEM.fullmatch(str(name))]:
            raise pytest.UsageError(f"{item.nodeid}: covers{tuple(wrong)!r} are no items; write F001, T5 or C21")
        config.stash[_items][item.nodeid] = covered


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note how each test ended."""
    report = yield
    if report.when == "call" or not report.passed:
        for name in item.config.stash[_items].get(item.nodeid, ()):
            item.config.stash[_outcomes][_number(name)].add(report.outcome)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the groups."""
    if not config.getoption("--covers"):
        return
    outcomes = config.stash[_outcomes]
    terminalreporter.section("items of the feature list")
    for group in "FTCHRG":
        known = {name for name in outcomes if name[0] == group}
        every = known | {_number(f"{group}{n}") for n in range(1, GROUPS.get(group, 0) + 1)}
        if not every:
            continue
        by_state = defaultdict(list)
        for name in sorted(every, key=lambda name: int(name[1:])):
            by_state[_state(outcomes.get(name, set()))].append(name)
        terminalreporter.write_line(f"{group}: {len(by_state['passed'])} of {len(every)} have a passing test")
        for state in ("passed", "failed", "skipped", "without a test"):
            if by_state[state]:
                terminalreporter.write_line(f"  {state}: {' '.join(by_state[state])}")


def _state(outcomes: set[str]) -> str:
    """One failure outweighs all passes; skipped tests prove nothing."""
    return next((state for state in ("failed", "passed", "skipped") if state in outcomes), "without a test")


def _number(name: str) -> str:
    """F001 and F1 are one item; features have three digits."""
    return f"{name[0]}{int(name[1:]):0{3 if name[0] == 'F' else 1}}"
