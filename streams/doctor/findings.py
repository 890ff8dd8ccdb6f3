"""One finding of `syncline doctor`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from schemas.problems import Problem

State = Literal["ok", "warn", "red"]
"""`red` loses, delays or doubles something now or soon; `warn` should be looked at; `ok` is as it must be."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, and what to do about it.

    Args:
        name: what was looked at, for example `replication slot`; stable.
        state: ok, warn or red.
        detail: what was found, one sentence.
        next_step: what to do; empty when ok.
    """

    name: str
    state: State
    detail: str
    next_step: str = ""

    def as_json(self) -> dict[str, str]:
        """As an object for `--json`."""
        return asdict(self)


def ok(name: str, detail: str) -> Check:
    """As it must be."""
    return Check(name, "ok", detail)


def warn(name: str, detail: str, next_step: str) -> Check:
    """Should be looked at."""
    return Check(name, "warn", detail, next_step)


def red(name: str, detail: str, next_step: str) -> Check:
    """Not as it must be."""
    return Check(name, "red", detail, next_step)


def from_problem(name: str, problem: Problem) -> Check:
    """A problem met while looking."""
    return red(name, problem.cause, problem.next_step)


def from_faults(name: str, faults: list[str], fine: str, next_step: str) -> Check:
    """Red with every fault named, or ok."""
    return red(name, "; ".join(faults), next_step) if faults else ok(name, fine)
