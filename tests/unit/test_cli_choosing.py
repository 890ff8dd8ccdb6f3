"""Options as people write them, and what they mean."""

from __future__ import annotations

import pytest
import typer

from schemas.problems import Problem
from streams.cli import choosing


def test_conditions_are_gathered_by_type() -> None:
    written = ["person:status=active", "person:birth_date<2010-01-01T12:00:00Z", "campus:none"]
    assert choosing.filters(written) == {
        "person": [
            {"field": "status", "op": "eq", "value": "active"},
            {"field": "birth_date", "op": "lt", "value": "2010-01-01T12:00:00Z"},
        ],
        "campus": [],
    }
    assert choosing.filters(None) is None
    with pytest.raises(Problem):
        choosing.filters(["person:status like a"])


def test_fields_are_gathered_by_type() -> None:
    assert choosing.fields(["person:first_name, email", "person:last_name"], ["campus:city", "household:all"]) == {
        "person": {"include": ["first_name", "email", "last_name"]},
        "campus": {"exclude": ["city"]},
        "household": {},
    }
    assert choosing.fields(None, None) is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("100/20s", {"calls": 100, "per_s": 20}),
        ("1000/min", {"calls": 1000, "per_s": 60}),
        ("5000/h", {"calls": 5000, "per_s": 3600}),
        ("10/0.5s", {"calls": 10, "per_s": 0.5}),
        ("learned", {}),
        (None, None),
    ],
)
def test_budgets(written: str | None, meant: dict[str, float] | None) -> None:
    assert choosing.budget(written) == meant


@pytest.mark.parametrize("written", ["", "100", "100/20", "-1/s", "100/20 s", "x/s", "100/d"])
def test_what_is_no_budget(written: str) -> None:
    with pytest.raises(typer.BadParameter):
        choosing.budget(written)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("deletes=50,updates=off", {"deletes": 50, "updates": None}),
        ("deletes=0", {"deletes": 0}),
        ("default", {}),
        (None, None),
    ],
)
def test_guards(written: str | None, meant: dict[str, int | None] | None) -> None:
    assert choosing.guard(written) == meant


def test_gates() -> None:
    assert choosing.gates(["person=live", "campus=out"]) == {"person": "live", "campus": ""}


def test_conflict_policies_are_gathered_by_type() -> None:
    written = ["person:manual", "person:gender=merge:longest", "person:ties=ours", "campus:merge:concat"]
    assert choosing.conflicts([*written, "household:default"]) == {
        "person": {"policy": "manual", "fields": {"gender": "merge:longest"}, "ties": "ours"},
        "campus": {"policy": "merge", "resolver": "concat"},
        "household": {},
    }
    assert choosing.conflicts(None) is None
