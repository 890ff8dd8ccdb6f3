"""How one conflict looks on a terminal: both sides below each other, since values may be long."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from streams.cli import lost, show

if TYPE_CHECKING:
    from streams.conflict_cases import Asked, Case


def tell(case: Case) -> None:
    """Print both sides, field by field."""
    gone = "; it was deleted here meanwhile" if case.deleted else ""
    named = f"{show.cell(case.name)}, " if case.name else ""
    show.say(f"{named}{case.entity_id}: asked by {case.connection} ({case.system}){gone}")
    for asked in case.fields:
        what = "they deleted the record" if asked.field == "deleted_at" else asked.field
        show.say(f"\n{what}  ({asked.rule or 'asked'}, since {show.cell(asked.opened_at)})")
        when_ours = f"{asked.ours_by}, {show.cell(asked.ours_at)}" if asked.ours_at else ""
        when_theirs = f"{case.connection}, {show.cell(asked.theirs_at)}" if asked.theirs_at else case.connection
        lines = [
            ("base", _shown(asked, asked.base), ""),
            ("ours", _shown(asked, asked.ours, ours=True), when_ours),
            ("theirs", _shown(asked, asked.theirs), when_theirs),
        ]
        for side, value, when in lines:
            show.say(f"  {side:<6}  {value}" + (f"   [{when}]" if when else ""))


def _shown(asked: Asked, value: Any, *, ours: bool = False) -> str:
    if asked.field == "deleted_at":
        gone = f"deleted {show.cell(datetime.fromisoformat(value))}" if value else show.NOTHING
        return "kept" if ours and not value else gone
    return lost.shown(asked.field, value)


def tell_how(case: Case, *, named: bool) -> None:
    """Print the command that decides; `named`: with the connection, since others ask as well."""
    where = f" --connection {case.connection}" if named else ""
    show.say(f"\nDecide with\n  syncline conflicts resolve {case.entity_id}{where} --seen {case.seen} --take theirs")
    show.say("or --take ours; for single fields --ours FIELD, --theirs FIELD, --set FIELD=VALUE.")
