"""What a connection chose for the conflicts of one entity type, as the terms of its decisions. Pure.

Kept as JSON in `sync.connection.conflict_policies`, by entity type::

    {"policy": "lww", "fields": {"phone": "remote", "notes": "merge:concat"}, "resolver": "newest", "ties": "ours"}

`fields` are root fields and part types, each with a policy, or `merge:` and its own resolver; what is left out is as
the connection's default policy has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from schemas.fields import Json
from streams.rules.resolvers import DEFAULT, Resolver
from streams.rules.sides import Policy, Side

KINDS = frozenset({"policy", "fields", "resolver", "ties"})
SIDES: tuple[str, ...] = get_args(Side)


def of_type(default: str, chosen: Mapping[str, Json], find: Callable[[str], Resolver]) -> dict[str, Any]:
    """The arguments of `Terms` that say who wins.

    Args:
        default: the connection's policy.
        chosen: what it chose for the type, checked before by `streams.choice_checks`.
        find: resolver name -> function.
    """
    named = {name: split(written) for name, written in chosen.get("fields", {}).items()}
    policy = Policy(chosen.get("policy", default))
    resolvers = {name: find(resolver) for name, (_, resolver) in named.items() if resolver}
    if policy is Policy.MERGE or any(each is Policy.MERGE for each, _ in named.values()):
        resolvers[""] = find(chosen.get("resolver", DEFAULT))
    return {
        "policy": policy,
        "fields": {name: each for name, (each, _) in named.items()},
        "resolvers": resolvers,
        "ties": chosen.get("ties"),
    }


def split(written: str) -> tuple[Policy, str]:
    """`merge:longest` as the policy and its resolver, which is empty where none is named. Raises ValueError."""
    policy, colon, resolver = written.partition(":")
    if colon and (policy != Policy.MERGE or not resolver):
        raise ValueError(written)
    return Policy(policy), resolver
