"""What is to be done about a connection's webhook subscription at its system. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from connectors.contract import Subscription

FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """The subscription there shall be; `secret_name` names the secret it signs with."""

    url: str
    types: frozenset[str]
    secret_name: str


@dataclass(frozen=True, slots=True)
class Held:
    """The one we made last, as we remember it: their id and the secret we gave. None: there is none."""

    external_id: str | None
    secret_name: str | None


@dataclass(frozen=True, slots=True)
class Steps:
    """Make one if `create`, then remove `remove` (their ids)."""

    create: bool
    remove: tuple[str, ...]


def steps(wanted: Wanted | None, held: Held, listed: Sequence[Subscription], urls: Collection[str]) -> Steps:
    """What brings them to exactly one subscription as `wanted`, or to none of ours when it is None.

    A subscription is ours by the id we remember, or by its URL, whose token nobody else has: one that was made while
    we died before we wrote down its id is found by that.

    Args:
        listed: all they have, others' too.
        urls: our URLs, as far as we know them.
    """
    ours = [each.id for each in listed if each.id == held.external_id or each.url in urls]
    good = {each.id for each in listed if wanted is not None and _fits(wanted, held, each)}
    return Steps(wanted is not None and not good, tuple(each for each in ours if each not in good))


def pause_s(failures: int, every_s: float, spread: float) -> float:
    """Seconds to the next look: `every_s` when all is well, after failures 30 s doubled up to an hour; ± 10 %."""
    base = every_s if failures == 0 else min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE_S)
    return base * (0.9 + 0.2 * spread)


def _fits(wanted: Wanted, held: Held, each: Subscription) -> bool:
    return (
        each.id == held.external_id
        and held.secret_name == wanted.secret_name
        and each.active
        and each.url == wanted.url
        and (not each.types or each.types == wanted.types)
    )
