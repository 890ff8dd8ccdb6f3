"""Resolver name -> function: the built-in ones, and those that other packages bring.

    [project.entry-points."syncline.resolvers"]
    my-rule = "my_package.rules:resolve"

A resolver is a pure function of the two values and their times (`streams.rules.resolvers.Resolver`).
"""

from __future__ import annotations

import functools
from importlib.metadata import entry_points

from schemas.problems import Problem
from streams.rules.resolvers import BUILT_IN, Resolver

GROUP = "syncline.resolvers"


def names() -> tuple[str, ...]:
    """The names of all resolvers, sorted."""
    return tuple(sorted({*BUILT_IN, *(each.name for each in entry_points(group=GROUP))}))


@functools.cache
def find(name: str) -> Resolver:
    """The resolver of a name.

    Raises:
        Problem: `resolver_unknown`; `resolver_broken` when the one of that name cannot be imported or called.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    found = next(iter(entry_points(group=GROUP, name=name)), None)
    if found is None:
        raise Problem("resolver_unknown", f"there is no resolver {name!r}", f"There are: {', '.join(names())}.")
    try:
        loaded = found.load()
    except Exception as error:
        raise Problem("resolver_broken", f"{found.value}: {error}", "Mend or reinstall the package.") from error
    if not callable(loaded):
        raise Problem("resolver_broken", f"{found.value} is no function", "Let the entry point name a function.")
    resolver: Resolver = loaded
    return resolver
