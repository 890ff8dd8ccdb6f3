"""What a whole reading of a type brought."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.inbound.enumeration import Brought


@given(pages=st.lists(st.lists(st.text(max_size=5), max_size=8), max_size=5), asked=st.lists(st.text(max_size=5)))
def test_it_knows_what_was_brought_and_nothing_else(pages, asked):
    brought, known = Brought(), set()
    for page in pages:
        brought.add(page)
        known |= set(page)
        assert [each in brought for each in asked] == [each in known for each in asked]
