"""What becomes of a write that needs a record which they do not have yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from connectors.contract import Manifest
from schemas.fields import Aggregate, Document, Field
from schemas.problems import Problem


@dataclass(frozen=True, slots=True)
class Missing:
    """An entity that a field points at and that they do not have."""

    field: str
    entity_type: str
    entity_id: str
    on_missing: Literal["wait", "later", "leave"]


@dataclass(frozen=True, slots=True)
class Parent:
    """The entity that is waited for, as it stands at the connection.

    Args:
        in_scope: the connection takes its type and its gate is set.
        exists: we have a living row of it.
        pushes_unlinked: the connection creates what is not linked (option 1 and 2).
        state, reason: of its intent; None when nobody ever wished it there.
    """

    in_scope: bool
    exists: bool
    pushes_unlinked: bool
    state: str | None
    reason: str | None


def missing(aggregate: Aggregate, document: Document, linked: Iterable[str]) -> list[Missing]:
    """The references of a document to entities that are not linked."""
    known = frozenset(linked)
    return [
        Missing(field.canonical, field.references, value, field.on_missing)
        for field, value in _references(aggregate, document)
        if value not in known
    ]


def verdict(parent: Parent) -> Literal["wait", "plan", "never"]:
    """Whether the waiting makes sense: wait, plan the parent and wait, or it will not come as things are."""
    if not parent.in_scope or not parent.exists:
        return "never"
    if parent.state is None:
        return "plan" if parent.pushes_unlinked else "never"
    return "never" if parent.state == "DONE" else "wait"


def order(manifest: Manifest) -> tuple[str, ...]:
    """The root types so that each comes after those it must wait for.

    Raises Problem (`dependency_cycle`) when types wait for one another.
    """
    needs = {
        a.root: {f.references for f in _fields(a) if f.on_missing == "wait" and f.references}
        for a in manifest.aggregates
    }
    done: list[str] = []
    while len(done) < len(needs):
        ready = [
            root for root, wanted in needs.items() if root not in done and not (wanted & needs.keys()) - {root, *done}
        ]
        if not ready:
            stuck = ", ".join(sorted(needs.keys() - set(done)))
            raise Problem(
                "dependency_cycle",
                f"{manifest.title}: {stuck} must wait for one another",
                "Make one of the references `later` in the manifest.",
            )
        done += ready
    return tuple(done)


def _references(aggregate: Aggregate, document: Document) -> Iterator[tuple[Field, str]]:
    for field in aggregate.fields:
        if field.references and document.get(field.canonical) is not None:
            yield field, str(document[field.canonical])
    for part in aggregate.parts:
        pointing = [field for field in part.fields if field.references]
        for key in document if pointing else ():
            value = document[key] if key.startswith(f"{part.entity_type}/") else None
            if isinstance(value, Mapping):
                yield from ((f, str(value[f.canonical])) for f in pointing if value.get(f.canonical) is not None)


def _fields(aggregate: Aggregate) -> Iterator[Field]:
    yield from aggregate.fields
    for part in aggregate.parts:
        yield from part.fields
