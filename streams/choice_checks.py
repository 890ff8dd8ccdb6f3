"""Whether a connection's choices fit the system and the canonical model; each with what to choose instead. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from connectors.contract import Manifest
from schemas.entity_types import COMMON_COLUMNS
from schemas.fields import Aggregate, Json
from schemas.model import Model
from schemas.problems import Problem
from streams import merging
from streams.rules import filters, policies
from streams.rules.filters import Condition
from streams.rules.mass_changes import FLOORS
from streams.rules.sides import Policy

CONCURRENCY_MOST = 256
CONDITIONS_MOST = 50
MOST = 10**9
DAY_S = 86_400
YEAR_S = 31_536_000


def check_filters(
    manifest: Manifest, model: Model, given: Mapping[str, Sequence[Mapping[str, Json]]]
) -> dict[str, list[Condition]]:
    """Conditions by root entity type, their values typed; types without conditions are left out.

    Raises:
        Problem: `type_not_taken`, `filter_invalid`.
    """
    checked = {}
    for root, conditions in given.items():
        _aggregate(manifest, root)
        if len(conditions) > CONDITIONS_MOST:
            raise Problem("filter_invalid", f"{root} has more than {CONDITIONS_MOST} conditions", "Write fewer.")
        entity = model.types.get(root)
        columns = {**COMMON_COLUMNS, **({field.name: field.sql_type for field in entity.fields} if entity else {})}
        if conditions:
            checked[root] = filters.check(conditions, columns)
    return checked


def check_fields(
    manifest: Manifest, given: Mapping[str, Mapping[str, Sequence[str]]]
) -> dict[str, dict[str, list[str]]]:
    """Which fields and parts are sent, by root entity type; types of which all are sent are left out.

    Raises:
        Problem: `type_not_taken`, `fields_invalid`.
    """
    checked = {}
    for root, choice in given.items():
        aggregate = _aggregate(manifest, root)
        if not choice:
            continue
        [(kind, names), *more] = choice.items()
        if more or kind not in ("include", "exclude") or not names:
            raise Problem("fields_invalid", f"{root} needs fields to include or fields to exclude", "Name one or more.")
        known = [field.canonical for field in aggregate.fields] + [part.entity_type for part in aggregate.parts]
        if strange := sorted(set(names) - set(known)):
            raise Problem(
                "fields_invalid",
                f"{manifest.title} has no {', '.join(strange)} in {root}",
                f"It has {', '.join(known)}.",
            )
        checked[root] = {kind: list(dict.fromkeys(names))}
    return checked


def check_policies(manifest: Manifest, given: Mapping[str, Mapping[str, Json]]) -> dict[str, dict[str, Json]]:
    """Who wins conflicts, by root entity type; types of which nothing is said are left out.

    Raises:
        Problem: `type_not_taken`, `policy_invalid`, `resolver_unknown`, `resolver_broken`.
    """
    checked = {}
    for root, choice in given.items():
        aggregate = _aggregate(manifest, root)
        if strange := sorted(choice.keys() - policies.KINDS):
            raise _policy(f"{root}: there is no {strange[0]!r}", f"Choose of {', '.join(sorted(policies.KINDS))}.")
        if choice.get("ties", "ours") not in policies.SIDES:
            raise _policy(f"{root}: {choice['ties']!r} wins no ties", "Choose ours or theirs.")
        if "policy" in choice:
            _check_policy(root, choice["policy"])
        if "resolver" in choice:
            merging.find(choice["resolver"])
        fields = choice.get("fields", {})
        known = [field.canonical for field in aggregate.fields] + [part.entity_type for part in aggregate.parts]
        if strange := sorted(fields.keys() - set(known)):
            raise _policy(f"{manifest.title} has no {', '.join(strange)} in {root}", f"It has {', '.join(known)}.")
        for name, written in fields.items():
            if resolver := _check_policy(f"{root}.{name}", written):
                merging.find(resolver)
        if choice:
            checked[root] = dict(choice)
    return checked


def _check_policy(place: str, written: Json) -> str:
    try:
        return policies.split(written)[1]
    except (ValueError, AttributeError):
        known = ", ".join([*Policy, "merge:RESOLVER"])
        raise _policy(f"{place}: there is no policy {written!r}", f"Choose of {known}.") from None


def check_archive(
    manifest: Manifest, delete_policy: str, on_leave: str, types: Collection[str], filtered: Collection[str]
) -> None:
    """Raise Problem (`archive_unsupported`) where records are to be archived that the system cannot archive."""
    able = {aggregate.root for aggregate in manifest.aggregates if aggregate.archive}
    if delete_policy == "archive" and not able & set(types):
        raise Problem(
            "archive_unsupported",
            f"{manifest.title} cannot archive any of {', '.join(types)}",
            "Choose `ignore` or `delete` for deletes.",
        )
    if on_leave == "archive" and (unable := sorted(set(filtered) - able)):
        raise Problem(
            "archive_unsupported",
            f"{manifest.title} cannot archive {', '.join(unable)}",
            "Choose `keep` or `delete` for what leaves a filter.",
        )


def check_intervals(manifest: Manifest, given: Mapping[str, float]) -> dict[str, float]:
    """Seconds between polls by external type; types that go by the connection's own interval are left out.

    Raises:
        Problem: `type_not_taken`, `limit_invalid`.
    """
    known = [aggregate.external_type for aggregate in manifest.aggregates]
    for kind, seconds in given.items():
        if kind not in known:
            raise Problem("type_not_taken", f"{manifest.title} has no {kind}", f"It has {', '.join(known)}.")
        if seconds and not 1 <= seconds <= YEAR_S:
            raise _limit(f"{seconds:g} seconds between polls of {kind}", f"Choose 1 to {YEAR_S}.")
    return {kind: float(seconds) for kind, seconds in given.items() if seconds}


def check_full_reads(every_s: float | None) -> None:
    """Raise Problem (`limit_invalid`) for seconds between full readings that mean nothing; 0 is never."""
    if every_s and not 1 <= every_s <= YEAR_S:
        raise _limit(f"{every_s:g} seconds between full readings", f"Choose 1 to {YEAR_S}, or 0 for none.")


def check_limits(concurrency: int | None, guard: Mapping[str, int | None], budget: Mapping[str, float]) -> None:
    """Raise Problem (`limit_invalid`) for numbers that no lane can work with."""
    if concurrency is not None and not 1 <= concurrency <= CONCURRENCY_MOST:
        raise _limit(f"{concurrency} calls at once", f"Choose 1 to {CONCURRENCY_MOST}.")
    for kind, bound in guard.items():
        if kind not in FLOORS or (bound is not None and not 0 <= bound <= MOST):
            raise _limit(f"the guard {kind}={bound}", "Write deletes=N,updates=N,their_deletes=N; off for no bound.")
    if budget and not (0 < budget.get("calls", 0) <= MOST and 0 < budget.get("per_s", 0) <= DAY_S):
        raise _limit("a budget needs calls, and seconds up to a day", "Write it like 100/20s.")


def check_deadline(within_s: float | None) -> None:
    """Raise Problem (`limit_invalid`) for a time in which nobody could answer, or never need to."""
    if within_s is not None and not 1 <= within_s <= YEAR_S:
        raise _limit("what is asked of a person is due within a second to a year", "Write it like 3d.")


def _aggregate(manifest: Manifest, root: str) -> Aggregate:
    found = manifest.for_root(root)
    if found is None:
        roots = ", ".join(aggregate.root for aggregate in manifest.aggregates)
        raise Problem("type_not_taken", f"{manifest.title} does not take {root} as a record", f"It takes: {roots}.")
    return found


def _policy(cause: str, next_step: str) -> Problem:
    return Problem("policy_invalid", cause, next_step)


def _limit(cause: str, next_step: str) -> Problem:
    return Problem("limit_invalid", cause, next_step)
