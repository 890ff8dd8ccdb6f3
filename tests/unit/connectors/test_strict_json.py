"""JSON that every reader reads alike."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import strict_json
from connectors.errors import Rejected

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.covers("F127", "C17")
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"a": 1, "a": 2}', "json_key_twice"),
        (b'{"a": {"b": 1, "b": 1}}', "json_key_twice"),
        (b'{"\\u0061": 1, "a": 2}', "json_key_twice"),
        (b"[" * 10_000, "json_too_deep"),
        (b"[" * 101 + b"]" * 101, "json_too_deep"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "json_too_deep"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "json_number_unbounded"),
        (b"18446744073709551616", "json_number_unbounded"),
        (b"-9223372036854775809", "json_number_unbounded"),
        (b'{"a": 1e' + b"9" * 500 + b"}", "json_number_unbounded"),
        (b"1e400", "json_number_unbounded"),
        (b'{"a": NaN}', "json_broken"),
        (b'{"a": Infinity}', "json_broken"),
        (b'{"a": 1', "json_broken"),
        (b'{"a": "\xff"}', "json_not_utf8"),
        ('{"a": 1}'.encode("utf-16"), "json_not_utf8"),
        (b'\xef\xbb\xbf{"a": 1}', "json_broken"),
        (b"", "json_broken"),
        (b"\x1f\x8b\x08", "json_not_utf8"),
    ],
)
def test_what_could_be_read_in_two_ways_or_never_ends_is_refused(content, code):
    with pytest.raises(Rejected) as refused:
        strict_json.check(content)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100 + b"]" * 100,
        b'["' + b"[" * 1000 + b'"]',
        b'{"a":"\\"' + b"{" * 1000 + b'"}',
        b"[" + b"[],{}," * 1000 + b"1]",
        b"[18446744073709551615, -9223372036854775808, 1e300]",
    ],
)
def test_brackets_in_texts_and_beside_each_other_are_no_depth(content):
    strict_json.check(content)


def nesting(value) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(nesting, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.booleans())
def test_plain_json_passes_and_its_depth_is_what_a_parser_finds(value, ascii_only):
    content = json.dumps(value, ensure_ascii=ascii_only).encode()
    strict_json.check(content)
    assert strict_json.depth(content) == nesting(value)


@given(st.binary(max_size=300) | st.text(alphabet='[]{}"\\:,1.e- x').map(str.encode))
def test_nothing_but_a_refusal_ever_comes_of_it(content):
    try:
        strict_json.check(content)
    except Rejected:
        return
    json.loads(content)
