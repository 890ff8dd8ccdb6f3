"""The sims' manifest, but for name and create tier."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from connectors import webhook
from connectors.contract import CreateTier, Manifest
from schemas.fields import Aggregate, Field, MatchRule, Part

CAMPUSES, HOUSEHOLDS, PEOPLE, REFERRALS = "campuses", "households", "people", "referrals"
MARKER = "external_ref"
_OWN = (MARKER, "deleted")

HOUSEHOLD_MEMBER = "household_member"

_EMAIL = Part("email", "person_id", "emails", (Field("address", "address"), Field("label", "label")))
_PHONE = Part("phone_number", "person_id", "phone_numbers", (Field("number", "number"), Field("label", "label")))

_MATCH = (
    MatchRule("address", "email", agree=("first_name", "birth_date", "national_id")),
    MatchRule("national_id", agree=("birth_date",)),
)

MANIFEST = Manifest(
    name="sim",
    title="Sim",
    aggregates=(
        Aggregate(
            CAMPUSES,
            "campus",
            (Field("name", "name"), Field("code", "code")),
            bookkeeping=_OWN,
            exhaustive=True,
        ),
        Aggregate(HOUSEHOLDS, "household", (Field("name", "name"),), bookkeeping=_OWN, exhaustive=True),
        Aggregate(
            PEOPLE,
            "person",
            (
                Field("first_name", "first_name"),
                Field("last_name", "last_name"),
                Field("birth_date", "birth_date"),
                Field("gender", "gender"),
                Field("national_id", "national_id"),
                Field("household_id", "household_id", references="household"),
                Field("campus_id", "campus_id", references="campus", on_missing="wait"),
            ),
            (_EMAIL, _PHONE),
            archive={"status": "inactive"},
            match=_MATCH,
            bookkeeping=_OWN,
            exhaustive=True,
        ),
        Aggregate(
            REFERRALS,
            "referral",
            (
                Field("person_id", "person_id", references="person", on_missing="wait"),
                Field("service", "service"),
                Field("reason", "reason"),
                Field("urgency", "urgency"),
                Field("decision", "decision"),
            ),
            bookkeeping=_OWN,
            exhaustive=True,
        ),
    ),
    polls_in_order=True,
    create_tier=CreateTier.NONE,
    read_lag=timedelta(seconds=3),
    batch_limit=100,
    poll_overlap=timedelta(seconds=5),
    webhook_scheme=webhook.STANDARD,
    subscribes=True,
)


def _with_ids(part: Part) -> Part:
    """A list whose items have ids of theirs, and keep none of ours."""
    return replace(part, id_field="", external_id="id", external_type=part.external, bookkeeping=("updated_at",))


_MEMBER = Part(
    HOUSEHOLD_MEMBER,
    "household_id",
    "members",
    (Field("person_id", "person.id", references="person"), Field("role", "role")),
)

NESTED = replace(
    MANIFEST,
    aggregates=tuple(
        replace(each, parts=tuple(map(_with_ids, (*each.parts, *((_MEMBER,) if each.root == "household" else ())))))
        for each in MANIFEST.aggregates
    ),
    writes_whole_record=True,
)
"""Of the sim whose records hold others: items have ids, households have members, a write replaces the whole record."""
