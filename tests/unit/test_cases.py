"""The cases that must not fail are named in the tests that prove them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MARK = re.compile(r"covers\(([^)]*)\)")
CASES = [f"C{number}" for number in range(1, 19)]


@pytest.mark.parametrize("case", CASES)
def test_every_case_of_the_inbound_road_has_a_test(case):
    marked = {
        name
        for path in TESTS.rglob("test_*.py")
        for names in MARK.findall(path.read_text(encoding="utf-8"))
        for name in re.findall(r'"(\w+)"', names)
    }
    assert case in marked
