"""Is this our own write coming back, and may a row say where it came from?

A row that carries `origin = <connection>` is never pushed to that connection. So it may say so only when the connection
surely holds all of it; else the row is `local`, and a push that turns out to change nothing costs one comparison.
"""

from __future__ import annotations

from schemas.fields import Document
from streams.rules.mapping import differences
from streams.rules.sides import Decision, Kind

LOCAL = "local"
OURS = (LOCAL, "bulk")
"""Origins of rows that our own users wrote."""


def unheld(result: Document, base: Document) -> frozenset[str]:
    """The fields and parts of ours that they do not hold.

    Args:
        result: ours, as that system can represent it: every outward-mapped field.
        base: what they hold: their payload over what we knew before. A field that they never mentioned and that is
            empty here is no difference: there is nothing to tell them.
    """
    return frozenset(k for k in differences(result, base) if k in base or result[k] is not None)


def origin(connection: str, missing: frozenset[str], *, intent_open: bool) -> str:
    """The origin a row may carry after an event of `connection`.

    Args:
        missing: what they do not hold of it, see `unheld`.
        intent_open: a push of this entity to that connection is wanted, on its way, or waits for a person.
    """
    return LOCAL if intent_open or missing else connection


def ledger_entry(decision: Decision) -> str:
    """The decision as a word of the ledger (`sync.applied_event.decision`)."""
    match decision.kind:
        case Kind.DROP:
            return "stale"
        case Kind.TAKE:
            return "applied"
        case Kind.MERGE:
            return "merged"
        case Kind.ASK:
            return "parked"
        case Kind.KEEP:
            if decision.reason == "same":
                return "echo"
            return "ignored" if decision.reason in ("delete_ignored", "unknown_there") else "kept"
