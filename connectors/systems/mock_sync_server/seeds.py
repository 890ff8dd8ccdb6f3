"""Records the mock sync server's emulator starts with: a small congregation, with the names that break software."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator

from connectors.systems.mock_sync_server.fields import CAMPUS, HOUSEHOLD, INDIVIDUAL
from connectors.systems.mock_sync_server.submissions import ENTITY_NAME, full_name
from schemas.fields import Json

_FIRST = ("Ann", "Bo", "José", "Zoë", "Siân", "李", "Nguyễn", "Chinonso", "Null", "Ólafur", "Mary-Jane", "Aïcha")
_LAST = ("O'Brien", "van der Berg", "Müller", "D'Souza", "Ng", "Ünal", "Smith", "王", "Łukasz", "Nwosu", "Null", "Í")
_CITIES = (("Lagos", "NG"), ("Phnom Penh", "KH"), ("Malmö", "SE"), ("São Paulo", "BR"))
_PER_HOUSEHOLD = 4
_PER_CAMPUS = 1000

Seed = tuple[str, str, dict[str, Json]]
"""External type, id, data."""


def records(count: int, dice: random.Random) -> Iterator[Seed]:
    """`count` individuals, after the households and campuses they belong to."""
    campuses = [_id(dice) for _ in range(-(-count // _PER_CAMPUS))]
    for i, campus in enumerate(campuses):
        city, country = _CITIES[i % len(_CITIES)]
        name = f"{city} {i + 1}"
        yield CAMPUS, campus, {ENTITY_NAME: CAMPUS, "name": name, "code": f"C{i + 1}", "city": city, "country": country}
    household = campus = ""
    for i in range(count):
        last_name = dice.choice(_LAST)
        if i % _PER_HOUSEHOLD == 0:
            household, campus = _id(dice), campuses[i // _PER_CAMPUS]
            yield HOUSEHOLD, household, {ENTITY_NAME: HOUSEHOLD, "name": last_name, "campusId": campus}
        yield INDIVIDUAL, _id(dice), _individual(i, last_name, household, campus, dice)


def _individual(i: int, last_name: str, household: str, campus: str, dice: random.Random) -> dict[str, Json]:
    city, country = dice.choice(_CITIES)
    data: dict[str, Json] = {
        ENTITY_NAME: INDIVIDUAL,
        "firstName": dice.choice(_FIRST),
        "middleName": None,
        "lastName": last_name,
        "birthDate": f"{dice.randint(1940, 2024)}-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}",
        "gender": dice.choice(("female", "male", None)),
        "householdId": household,
        "campusId": campus,
        "membershipStatus": dice.choice(("member", "visitor")),
        "nationalId": f"N{i:08}",
        "addresses": [
            {
                "id": _id(dice),
                "street": f"{dice.randint(1, 99)} Main Street",
                "city": city,
                "state": None,
                "postalCode": f"{dice.randint(10000, 99999)}",
                "country": country,
                "label": "home",
                "isPrimary": True,
            }
        ],
        "phoneNumbers": [{"id": _id(dice), "number": f"+4670{i:07}", "label": "mobile", "isPrimary": True}],
        "emails": [{"id": _id(dice), "address": f"person{i}@example.org", "label": "home", "isPrimary": True}],
    }
    return data | {"name": full_name(data)}


def _id(dice: random.Random) -> str:
    return str(uuid.UUID(int=dice.getrandbits(128), version=4))
