"""Random histories over two systems and our own tables, in small; `make accept-inbound` runs a hundred thousand."""

from __future__ import annotations

import pytest

from tests.acceptance import histories


@pytest.mark.covers("R11", "R12", "F058", "F059", "F061", "C2")
def test_every_history_comes_to_rest_with_all_sides_equal_and_every_loser_in_the_log():
    found, examples = histories.chunk(20261121, 300)
    wrong = {name: found[name] for name in ("diverged", "unlogged", "resurrected", "not_quiet", "order_dependent")}
    assert wrong == dict.fromkeys(wrong, 0), examples
    assert found["conflicts"] > 100
