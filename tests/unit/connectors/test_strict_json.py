"""JSON that every reader reads alike."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import strict_json
from connectors.errors import Rejected

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"\\u0061": 1, "a": 2}',
        b"[" * 10_000,
        b"[" * 200 + b"]" * 200,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"a": ' + b"9" * 5_000 + b"}",
        b'{"a": 1e' + b"9" * 500 + b"}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1',
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
        b'\xef\xbb\xbf{"a": 1}',
        b"",
        b"\x1f\x8b\x08",
    ],
)
def test_what_could_be_read_in_two_ways_or_never_ends_is_refused(content):
    with pytest.raises(Rejected):
        strict_json.check(content)


@given(JSON)
def test_plain_json_passes(value):
    strict_json.check(json.dumps(value).encode())


@given(st.binary(max_size=300))
def test_nothing_but_a_refusal_ever_comes_of_it(content):
    try:
        strict_json.check(content)
    except Rejected:
        return
    json.loads(content)
