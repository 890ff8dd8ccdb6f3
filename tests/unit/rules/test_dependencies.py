"""Whether a write may go before what it points at."""

from __future__ import annotations

import pytest

from connectors.contract import CreateTier, Manifest
from schemas.fields import Aggregate, Field, Part
from schemas.problems import Problem
from streams.rules.dependencies import Missing, Parent, missing, order, verdict


def aggregate(root: str, *fields: Field, parts: tuple[Part, ...] = ()) -> Aggregate:
    return Aggregate(f"{root}s", root, fields, parts)


def manifest(*aggregates: Aggregate) -> Manifest:
    return Manifest("x", "X", aggregates, CreateTier.KEYED)


CASE = aggregate(
    "case",
    Field("person_id", "person", references="person", on_missing="wait"),
    Field("worker_id", "worker", references="worker", on_missing="leave"),
    parts=(Part("note", "case_id", "notes", (Field("author_id", "author", references="person"),)),),
)


def test_what_a_document_points_at_and_they_lack() -> None:
    document = {"person_id": "person_1", "worker_id": None, "note/note_1": {"author_id": "person_2"}}

    assert missing(CASE, document, linked=["person_9"]) == [
        Missing("person_id", "person", "person_1", "wait"),
        Missing("author_id", "person", "person_2", "later"),
    ]
    assert missing(CASE, document, linked=["person_1", "person_2"]) == []


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({}, "plan"),
        ({"pushes_unlinked": False}, "never"),
        ({"in_scope": False}, "never"),
        ({"exists": False}, "never"),
        ({"state": "DONE", "reason": "filtered_out"}, "never"),
        *(({"state": state}, "wait") for state in ("PENDING", "HELD", "WAITING", "SENDING", "RETRY", "PARKED", "DEAD")),
    ],
)
@pytest.mark.covers("T10")
def test_whether_waiting_for_a_parent_makes_sense(over: dict[str, object], expected: str) -> None:
    given = {"in_scope": True, "exists": True, "pushes_unlinked": True, "state": None, "reason": None} | over

    assert verdict(Parent(**given)) == expected  # type: ignore[arg-type]


def test_types_come_after_what_they_must_wait_for() -> None:
    person = aggregate("person", Field("household_id", "household", references="household"))

    assert order(manifest(CASE, person)) == ("person", "case")


def test_a_required_cycle_is_an_error_with_a_way_out() -> None:
    person = aggregate("person", Field("case_id", "case", references="case", on_missing="wait"))

    with pytest.raises(Problem, match="must wait for one another") as told:
        order(manifest(CASE, person))
    assert told.value.code == "dependency_cycle"


def test_every_shipped_manifest_can_be_ordered() -> None:
    from connectors import registry

    for name in registry.names():
        found = registry.find(name).manifest
        assert sorted(order(found)) == sorted(a.root for a in found.aggregates)
