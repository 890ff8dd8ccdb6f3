"""From what is known to the sentence: a table."""
# ruff: noqa: E501 - one case, one line

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.rules.explanations import DeadLetter, Decision, Delivery, Entity, Facts, Intent, Link, Wait, explain

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ENTITY = Entity("person", "person_1", 3, "local", NOW)
FACTS = Facts("clinic", "pco", "active", None, 1, "live", takes_type=True)
LINK = Link("person", "77")


def intent(state, **given):
    return Intent(state, "change", 1, given.pop("attempt", 1), given.pop("not_before", None), **given)


def delivery(outcome="delivered", **given):
    return Delivery("update", outcome, 200, None, 1, NOW, NOW, NOW, NOW, NOW, NOW, **given)


IN_AN_HOUR = NOW + timedelta(hours=3)

TABLE = [
    ("disconnected", {"state": "disconnected"}, {}, "is disconnected"),
    ("type not taken", {"takes_type": False}, {}, "pco has no records of this type"),
    ("out of scope", {"gate": ""}, {}, "out of scope"),
    ("held", {"gate": "matched", "intent": intent("HELD")}, {}, "held: this type is at the gate 'matched'"),
    ("dead", {"intent": intent("DEAD", error_code="invalid", error_cause="bad date")}, {}, "refused it for good: bad date (invalid)"),
    ("parked", {"intent": intent("PARKED", error_code="ambiguous_create")}, {}, "parked until a person decides (ambiguous_create)"),
    ("parked in doubt", {"intent": intent("PARKED", error_code="outcome_unknown", entity_id="person_1")}, {}, "`syncline push person_1 --connection clinic --link THEIR_ID`"),
    ("what to do about a parked one", {"intent": intent("PARKED", error_code="invalid", entity_id="person_1")}, {}, "(invalid). `syncline parked retry person_1 --connection clinic` sends it"),
    ("unknown", {"intent": intent("UNKNOWN", resolve="search", not_before=IN_AN_HOUR)}, {}, "unclear whether clinic applied the last write; searching for our marker is due in 3 h"),
    ("accepted", {"intent": intent("UNKNOWN", resolve="check")}, {}, "clinic took the last write and has yet to tell what became of it"),
    ("mass change", {"intent": intent("HELD", hold=3, hold_kind="deletes")}, {}, "more deletes than clinic may get in ten minutes. `syncline holds approve 3`"),
    ("waiting for one", {"intent": intent("WAITING"), "waits": [Wait("household_9", "RETRY", "timeout", "no answer")]}, {}, "waits for household_9 (RETRY: no answer), not at clinic yet; see `syncline why household_9`"),
    ("waiting for two", {"intent": intent("WAITING"), "waits": [Wait("household_9"), Wait("campus_2", "PENDING")]}, {}, "household_9 (not planned), campus_2 (PENDING)"),
    ("waiting at a paused one", {"state": "paused", "intent": intent("WAITING"), "waits": [Wait("household_9")]}, {}, "waits for household_9"),
    ("filtered out", {"intent": intent("DONE", error_code="filtered_out")}, {}, "does not fulfil the filter of clinic"),
    ("left, kept", {"link": LINK, "intent": intent("DONE", error_code="left_kept")}, {}, "no longer fulfils the filter of clinic"),
    ("delete ignored", {"link": LINK, "intent": intent("DONE", error_code="delete_ignored")}, {"deleted_at": NOW}, "clinic ignores deletes, so their record stays"),
    ("cannot archive", {"link": LINK, "intent": intent("DONE", error_code="archive_unsupported")}, {"deleted_at": NOW}, "which pco cannot do with this type"),
    ("parent not synced", {"intent": intent("DONE", error_code="parent_not_synced", error_cause="waiting for household_9")}, {}, "does not go to clinic (waiting for household_9)"),
    ("selected, but filtered out", {"option": 3, "intent": intent("DONE", error_code="filtered_out")}, {}, "does not fulfil the filter"),
    ("unlinked and changed since", {"option": 3, "reviews": ["unlinked"], "intent": intent("DONE", error_code="filtered_out")}, {}, "`syncline push person_1 --connection clinic`"),
    ("dropped by a person", {"intent": intent("DONE", error_code="dropped_by_person")}, {}, "it is sent when it changes again"),
    ("mass change dropped", {"link": LINK, "intent": intent("DONE", error_code="mass_change_dropped")}, {}, "dropped this mass change"),
    ("no difference", {"link": LINK, "intent": intent("DONE", error_code="no_difference")}, {}, "In step"),
    ("sending", {"intent": intent("SENDING", attempt=2)}, {}, "right now (try 2)"),
    ("retry", {"intent": intent("RETRY", attempt=3, not_before=IN_AN_HOUR, error_code="timeout")}, {}, "failed (timeout); try 4 is due in 3 h, at 2026-03-01 15:00:00Z"),
    ("retry is due", {"intent": intent("RETRY", not_before=NOW)}, {}, "try 2 is due now"),
    ("waiting", {"intent": intent("WAITING", error_cause="household_9", error_code="parent")}, {}, "waits for a record it refers to"),
    ("pending", {"intent": intent("PENDING")}, {}, "waits for its turn at clinic (change); that is due now"),
    ("paused", {"state": "paused", "state_reason": "401", "intent": intent("PENDING")}, {}, "paused (401)"),
    ("paused but refused", {"state": "paused", "intent": intent("DEAD")}, {}, "refused it for good"),
    ("option 3", {"option": 3}, {}, "option 3: only linked records"),
    ("option 3, link gone", {"option": 3, "link": replace(LINK, deleted_at=NOW)}, {}, "option 3: only linked"),
    ("option 3, linked", {"option": 3, "link": LINK}, {}, "nothing has been planned since"),
    ("came from there", {"link": LINK}, {"origin": "clinic"}, "came from clinic, so there is nothing to send back"),
    ("bulk", {}, {"origin": "bulk"}, "made in bulk"),
    ("done", {"link": LINK, "intent": intent("DONE"), "deliveries": [delivery()]}, {}, "has the current state since 2026-03-01 12:00:00Z (update, try 1)"),
    ("nothing to send", {"link": LINK, "intent": intent("DONE")}, {}, "nothing had to be sent"),
    ("never changed", {}, {}, "`syncline push --all` sends it"),
    ("deleted before", {}, {"deleted_at": NOW}, "deleted here before anything was planned"),
    ("conflict", {"link": LINK, "conflicts": ["email", "phone"]}, {}, "changed email, phone, and a person must choose"),
    ("constraint", {"reviews": ["constraint"]}, {}, "it waits: see `syncline reviews list`"),
    ("dead letter", {"dead_letters": [DeadLetter(4, "push", "invalid", "bad date")]}, {}, "Dead letter 4: bad date (invalid)."),
]  # fmt: skip


@pytest.mark.parametrize(("known", "row", "said"), [case[1:] for case in TABLE], ids=[case[0] for case in TABLE])
def test_the_sentence(known, row, said):
    sentence = explain(replace(FACTS, **known), replace(ENTITY, **row), NOW)
    assert said in sentence
    assert sentence.endswith((".", "now."))


def test_a_record_without_a_row_of_ours():
    event = Decision("ignored", "unlinked_option_2", "webhook", NOW, NOW, NOW)
    assert "not matched with a row of ours yet" in explain(FACTS, None, NOW)
    assert "was ignored (unlinked_option_2)" in explain(replace(FACTS, decisions=[event]), None, NOW)


@given(
    state=st.sampled_from(["active", "paused", "disconnected"]),
    option=st.sampled_from([1, 2, 3]),
    gate=st.sampled_from(["", "staging", "matched", "populated", "live"]),
    takes_type=st.booleans(),
    link=st.sampled_from([None, LINK, replace(LINK, deleted_at=NOW)]),
    wish=st.sampled_from([None, "PENDING", "HELD", "WAITING", "SENDING", "RETRY", "UNKNOWN", "DONE", "PARKED", "DEAD"]),
    origin=st.sampled_from(["local", "bulk", "clinic", "other", None]),
)
def test_there_is_always_one(state, option, gate, takes_type, link, wish, origin):
    facts = Facts("clinic", "pco", state, None, option, gate, takes_type, link, intent(wish) if wish else None)
    sentence = explain(facts, replace(ENTITY, origin=origin) if origin else None, NOW)
    assert len(sentence) > 20
    assert "None" not in sentence
