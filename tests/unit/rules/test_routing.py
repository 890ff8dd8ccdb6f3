"""Which connections a change concerns."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.contract import Op
from streams.rules.keys import idempotency_key
from streams.rules.routing import Route, Target, Verdict, route

MIRROR = Target("mirror", 1, "active", "live")


@pytest.mark.parametrize(
    ("origins", "target", "takes", "linked", "expected"),
    [
        ({"local"}, MIRROR, True, False, Route(Verdict.PUSH, "change")),
        ({"local"}, MIRROR, False, False, Route(Verdict.SKIP, "type_not_taken")),
        ({"mirror"}, MIRROR, True, True, Route(Verdict.SKIP, "came_from_there")),
        ({"mirror", "local"}, MIRROR, True, True, Route(Verdict.PUSH, "change")),
        ({"other"}, MIRROR, True, True, Route(Verdict.PUSH, "change")),
        ({"bulk"}, MIRROR, True, True, Route(Verdict.SKIP, "bulk_waits_for_resync")),
        ({"bulk", "mirror"}, MIRROR, True, True, Route(Verdict.SKIP, "came_from_there")),
        ({"local"}, Target("gone", 1, "disconnected", "live"), True, True, Route(Verdict.SKIP, "disconnected")),
        ({"local"}, Target("mirror", 1, "paused", "live"), True, True, Route(Verdict.PUSH, "change")),
        ({"local"}, Target("mirror", 1, "active", ""), True, True, Route(Verdict.SKIP, "type_out_of_scope")),
        ({"local"}, Target("mirror", 1, "active", "matched"), True, True, Route(Verdict.HOLD, "gate_matched")),
        ({"local"}, Target("mirror", 2, "active", "live"), True, False, Route(Verdict.PUSH, "change")),
        ({"local"}, Target("mirror", 3, "active", "live"), True, False, Route(Verdict.REVIEW, "unlinked")),
        ({"local"}, Target("mirror", 3, "active", "live"), True, True, Route(Verdict.PUSH, "change")),
    ],
)
@pytest.mark.covers("F097", "F099", "F101", "F136")
def test_every_connection_gets_an_answer_with_a_reason(
    origins: set[str], target: Target, takes: bool, linked: bool, expected: Route
) -> None:
    assert route(origins, target, takes_type=takes, linked=linked) == expected


words = st.text(min_size=1, max_size=8)
keyed = st.fixed_dictionaries(
    {"org_id": words, "connection": words, "external_type": words, "entity_id": words, "op": st.sampled_from(Op)}
    | {"generation": st.integers(1, 9), "seq": st.integers(1, 9)}
)


@given(keyed, keyed)
def test_keys_are_equal_exactly_for_equal_wishes(one: dict[str, object], other: dict[str, object]) -> None:
    first, second = idempotency_key(**one), idempotency_key(**other)  # type: ignore[arg-type]
    same = {**one, "seq": 0} == {**other, "seq": 0} if one["op"] is Op.CREATE else one == other

    assert uuid.UUID(first).version == 8
    assert (first == second) == same
