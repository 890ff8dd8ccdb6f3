"""Exactly one subscription of ours, or none, whatever they list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.contract import Subscription
from streams.rules import subscriptions as rules
from streams.rules.subscriptions import Held, Steps, Wanted

URL, OLD, OTHER = "https://us/hooks/a", "https://us/hooks/old", "https://them/hooks/b"
TYPES = frozenset({"people"})
WANTED = Wanted(URL, TYPES, "webhook_secret/2")
HELD = Held("s1", "webhook_secret/2")
GOOD = Subscription("s1", URL, TYPES)
NONE = Held(None, None)


@pytest.mark.parametrize(
    ("wanted", "held", "listed", "steps"),
    [
        (WANTED, NONE, [], Steps(True, ())),
        (WANTED, HELD, [GOOD], Steps(False, ())),
        (WANTED, HELD, [Subscription("s1", URL)], Steps(False, ())),  # about all types
        (WANTED, HELD, [], Steps(True, ())),  # they removed it
        (WANTED, HELD, [Subscription("s1", URL, TYPES, active=False)], Steps(True, ("s1",))),
        (WANTED, HELD, [Subscription("s1", URL, frozenset({"campuses"}))], Steps(True, ("s1",))),
        (WANTED, HELD, [Subscription("s1", OLD, TYPES)], Steps(True, ("s1",))),  # the public URL has changed
        (WANTED, Held("s1", "webhook_secret/1"), [GOOD], Steps(True, ("s1",))),  # the secret was rotated
        (WANTED, NONE, [Subscription("s9", URL, TYPES)], Steps(True, ("s9",))),  # we died before we knew its id
        (WANTED, HELD, [GOOD, Subscription("s9", URL, TYPES)], Steps(False, ("s9",))),
        (WANTED, HELD, [GOOD, Subscription("x", OTHER, TYPES, active=False)], Steps(False, ())),
        (None, HELD, [GOOD, Subscription("x", OTHER)], Steps(False, ("s1",))),
        (None, NONE, [Subscription("s9", URL), Subscription("x", OTHER)], Steps(False, ("s9",))),
        (None, NONE, [], Steps(False, ())),
    ],
)
def test_what_is_to_be_done(wanted, held, listed, steps):
    assert rules.steps(wanted, held, listed, {URL}) == steps


LISTED = st.lists(
    st.builds(
        Subscription,
        id=st.sampled_from(["s1", "s2", "s3", "s4"]),
        url=st.sampled_from([URL, OLD, OTHER]),
        types=st.sampled_from([TYPES, frozenset(), frozenset({"campuses"})]),
        active=st.booleans(),
    ),
    max_size=4,
    unique_by=lambda each: each.id,
)


@given(
    st.sampled_from([WANTED, None]),
    st.builds(Held, st.sampled_from([None, "s1", "s2"]), st.sampled_from(["webhook_secret/1", "webhook_secret/2"])),
    LISTED,
)
def test_after_the_steps_there_is_one_or_none_and_nobody_elses_is_touched(wanted, held, listed):
    todo = rules.steps(wanted, held, listed, {URL})
    others = {each.id for each in listed if each.url != URL and each.id != held.external_id}
    assert not others & set(todo.remove)
    after = [each for each in listed if each.id not in todo.remove]
    if todo.create:
        after.append(Subscription("new", URL, TYPES))
        held = Held("new", WANTED.secret_name)
    ours = [each for each in after if each.id not in others]
    assert len(ours) == (wanted is not None)
    assert rules.steps(wanted, held, after, {URL}) == Steps(False, ())


def test_failures_are_looked_at_again_ever_later_up_to_an_hour():
    pauses = [rules.pause_s(failures, 300.0, 0.5) for failures in (0, 1, 2, 3, 50)]
    assert pauses == [300.0, 30.0, 60.0, 120.0, 3600.0]
    assert rules.pause_s(0, 300.0, 0) < 300.0 < rules.pause_s(0, 300.0, 1)
