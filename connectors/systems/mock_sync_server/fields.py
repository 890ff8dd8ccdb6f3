"""The mock sync server's manifest: which records it holds and where each canonical field is in them.

An external record is the `data` of a FormSubmission, camelCase as DataCollect's forms write it; an individual holds its
addresses, phone numbers and e-mails as lists.
"""

from __future__ import annotations

from datetime import timedelta

from connectors import webhook
from connectors.contract import CreateTier, Manifest
from schemas.fields import Aggregate, Field, MatchRule, Part

CAMPUS, HOUSEHOLD, INDIVIDUAL = "campus", "household", "individual"

_CAMPUS = Aggregate(
    CAMPUS,
    "campus",
    (Field("name", "name"), Field("code", "code"), Field("city", "city"), Field("country", "country")),
)

_HOUSEHOLD = Aggregate(
    HOUSEHOLD,
    "household",
    (Field("name", "name"), Field("campus_id", "campusId", references="campus")),
)

_ADDRESS = Part(
    "address",
    "person_id",
    "addresses",
    (
        Field("street", "street"),
        Field("city", "city"),
        Field("state", "state"),
        Field("postal_code", "postalCode"),
        Field("country", "country"),
        Field("label", "label"),
        Field("is_primary", "isPrimary"),
    ),
)
_PHONE_NUMBER = Part(
    "phone_number",
    "person_id",
    "phoneNumbers",
    (Field("number", "number"), Field("label", "label"), Field("is_primary", "isPrimary")),
)
_EMAIL = Part(
    "email",
    "person_id",
    "emails",
    (Field("address", "address"), Field("label", "label"), Field("is_primary", "isPrimary")),
)

_INDIVIDUAL = Aggregate(
    INDIVIDUAL,
    "person",
    (
        Field("first_name", "firstName"),
        Field("middle_name", "middleName"),
        Field("last_name", "lastName"),
        Field("birth_date", "birthDate"),
        Field("gender", "gender"),
        Field("household_id", "householdId", references="household"),
        Field("campus_id", "campusId", references="campus"),
        Field("membership_status", "membershipStatus"),
        Field("national_id", "nationalId"),
    ),
    (_ADDRESS, _PHONE_NUMBER, _EMAIL),
    match=(
        MatchRule("address", "email", agree=("first_name", "birth_date", "national_id")),
        MatchRule("national_id", agree=("birth_date",)),
    ),
)

MANIFEST = Manifest(
    name="mock-sync-server",
    title="Mock Sync Server",
    aggregates=(_CAMPUS, _HOUSEHOLD, _INDIVIDUAL),
    create_tier=CreateTier.CLIENT_ID,
    batch_limit=100,
    # a record is visible from its timestamp on, so only requests that were under way can come late
    poll_overlap=timedelta(seconds=5),
    webhook_scheme=webhook.STANDARD,
)
