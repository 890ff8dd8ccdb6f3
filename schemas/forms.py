"""Forms: how a system writes a value that it does not write as we hold it.

A closed set of pure functions, so that a field map stays data that is checked before anything flows. What we hold is
the same whatever the system: None where there is nothing, ids as text, dates and times in ISO 8601, times in UTC with
their zone. A form reads theirs as that and writes that as theirs; reading what it wrote gives what we hold, or as much
of it as they can hold: a fraction of a second is left out.

==================  ============================================  ===========================================
`false_as_null`     `false`                                       None; not for booleans
`utc_datetime`      `2026-11-20 08:15:00`, in UTC, to the second  `2026-11-20T08:15:00+00:00`
`date_only`         `2026-11-20`, also as the midnight it begins  `2026-11-20`
`id_name`           `[7, "Main campus"]`, written as `7`          `7` as text, mostly the id of a reference
==================  ============================================  ===========================================

`false_as_null` stands before another form: `("false_as_null", "id_name")`. Null is None in each of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, time
from typing import Any, Literal, NamedTuple, get_args

from schemas.problems import Problem

Json = Any
Form = Literal["false_as_null", "utc_datetime", "date_only", "id_name"]

_NULL: Form = "false_as_null"
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*", re.ASCII)
_NUMBER = re.compile(r"0|[1-9]\d{0,17}", re.ASCII)
"""An id that is the same as text and as a number of JSON."""


def check(field: str, forms: Sequence[str]) -> None:
    """Refuse what is no form, and forms that exclude each other.

    Raises:
        Problem: `form_unknown`, `forms_contradict`.
    """
    known = get_args(Form)
    if unknown := [form for form in forms if form not in known]:
        raise Problem(
            "form_unknown", f"the field {field} has the unknown form `{unknown[0]}`", f"Known: {', '.join(known)}."
        )
    if _NULL in forms[1:] or len(forms) > 1 + (_NULL in forms):
        raise Problem(
            "forms_contradict",
            f"the field {field} has the forms {', '.join(forms)}",
            f"Give it one form, after `{_NULL}` where they write null so.",
        )


def read(forms: Sequence[Form], told: Json) -> Json:
    """Their value as we hold it. Raises ValueError when it is in another form."""
    for form in forms:
        if told is not None:
            told = _FORMS[form].read(told)
    return told


def write(forms: Sequence[Form], ours: Json) -> Json:
    """Our value as they write it. Raises ValueError when the form cannot hold it."""
    for form in reversed(forms):
        if ours is not None or form == _NULL:
            ours = _FORMS[form].write(ours)
    return ours


def instant(told: Json, form: Literal["", "utc_datetime"] = "") -> datetime:
    """When something happened to a record of theirs, in UTC; what an adapter reads `occurred_at` with.

    Without a form a time must tell its zone: a guess would let the wrong edit win, by hours.

    Raises:
        Problem: `time_unreadable`.
    """
    try:
        return _instant(told, zoneless=bool(form))
    except ValueError:
        raise Problem(
            "time_unreadable", "the record's time is not in ISO 8601 or has no zone", "Mend the adapter."
        ) from None


def _instant(value: Json, *, zoneless: bool) -> datetime:
    at = datetime.fromisoformat(_text(value, _TIME))
    if at.tzinfo is None:
        if not zoneless:
            raise ValueError("a time without a zone")
        at = at.replace(tzinfo=UTC)
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time before or after all years") from None


def _text(value: Json, shape: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not shape.fullmatch(value):
        raise ValueError("a value in another form")
    return value


def _read_time(told: Json) -> str:
    return _instant(told, zoneless=True).isoformat(timespec="seconds")


def _write_time(ours: Json) -> str:
    return _instant(ours, zoneless=False).replace(tzinfo=None).isoformat(" ", "seconds")


def _date(value: Json) -> str:
    """Any other time of a day than midnight is refused: which date it is depends on where one is."""
    if isinstance(value, str) and len(value) > len("2026-11-20"):
        at = datetime.fromisoformat(_text(value, _TIME))
        if at.time() != time.min:
            raise ValueError("a time of the day")
        return at.date().isoformat()
    return datetime.fromisoformat(_text(value, _DATE)).date().isoformat()


def _read_id(told: Json) -> str:
    if isinstance(told, list):
        named = len(told) == 2 and (isinstance(told[1], str | None) or told[1] is False)  # a name may be empty
        told = told[0] if named else None
    if isinstance(told, bool) or not isinstance(told, int | str) or told == "":
        raise ValueError("no id")
    return str(told)


def _write_id(ours: Json) -> Json:
    found = _read_id(ours)
    return int(found) if _NUMBER.fullmatch(found) else found


class _Ways(NamedTuple):
    read: Callable[[Json], Json]
    write: Callable[[Json], Json]


_FORMS: Mapping[Form, _Ways] = {
    "false_as_null": _Ways(lambda told: None if told is False else told, lambda ours: False if ours is None else ours),
    "utc_datetime": _Ways(_read_time, _write_time),
    "date_only": _Ways(_date, _date),
    "id_name": _Ways(_read_id, _write_id),
}
