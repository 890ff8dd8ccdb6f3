"""The demo's people, from the Febrl 1 file to rows for one SQL statement."""

from __future__ import annotations

import csv
from datetime import date
from importlib import resources

LOAD = """with febrl as (
  select * from json_to_recordset(%(people)s::json) as f(rec_id text, first_name text, last_name text, birth_date date,
    national_id text, street text, city text, state text, postal_code text)),
people as (
  insert into canon.person (first_name, last_name, birth_date, national_id, custom)
  select first_name, last_name, birth_date, national_id,
    jsonb_build_object('febrl', jsonb_build_object('rec_id', rec_id)) from febrl
  returning id, custom)
insert into canon.address (person_id, street, city, state, postal_code, is_primary)
select people.id, street, city, state, postal_code, true
from people join febrl on febrl.rec_id = people.custom #>> '{febrl,rec_id}'"""


def rows() -> list[dict[str, str | None]]:
    """The 1,000 people; empty text is None, a date that is none is None."""
    text = resources.files(__package__).joinpath("people-febrl1.csv").read_text(encoding="utf-8")
    return [
        _row({key: value.strip() or None for key, value in line.items()}) for line in csv.DictReader(text.splitlines())
    ]


def _row(line: dict[str, str | None]) -> dict[str, str | None]:
    street = " ".join(filter(None, (line["street_number"], line["address_1"], line["address_2"])))
    return {
        "rec_id": line["rec_id"],
        "first_name": line["given_name"],
        "last_name": line["surname"],
        "birth_date": _date(line["date_of_birth"]),
        "national_id": line["soc_sec_id"],
        "street": street or None,
        "city": line["suburb"],
        "state": line["state"],
        "postal_code": line["postcode"],
    }


def _date(text: str | None) -> str | None:
    try:
        return date.fromisoformat(text or "").isoformat()
    except ValueError:
        return None
