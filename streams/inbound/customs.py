"""Custom fields on their way through the applier: which events' count, and what becomes of a row's.

They are theirs alone, so there is nothing to decide between them and us; but an event that tells nothing new of the
record tells nothing new of them either. A row written for their sake only keeps its `modified_at`: nothing of ours was
edited, and last write wins must not believe so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from schemas.fields import Json
from streams.inbound.incoming import Incoming, Unit
from streams.rules import custom_fields
from streams.rules.custom_fields import Custom
from streams.rules.mapping import Reading
from streams.rules.sides import Agreed, Decision, Kind, Theirs

if TYPE_CHECKING:
    from streams.inbound.entities import Entity


def count(decision: Decision, theirs: Theirs, agreed: Agreed) -> bool:
    """Whether what an event tells beside the document is news: custom fields, and which item is whose. Of two events of
    one instant that differ in them alone, the later to come is."""
    if theirs.deleted or decision.hidden:
        return False
    if decision.kind is not Kind.DROP:
        return True
    received = theirs.received_at, agreed.received_at
    came_later = received[0] is None or received[1] is None or received[0] > received[1]
    return decision.reason == "duplicate" and came_later


def keep(unit: Unit, entity: Entity, each: Incoming, reading: Reading) -> None:
    """Take over the custom fields of an event that counts. Raises Problem (`custom_fields_too_large`)."""
    if entity.deleted or each.event.op == "delete":
        return
    parts = {part.entity_type: part for part in unit.aggregate.parts}
    told = custom_fields.unmapped(unit.aggregate, each.payload)
    found = {"": custom_fields.after(unit.aggregate, entity.custom.get("", {}), told)}
    for key, item in reading.items.items():
        if entity.document.get(key) is not None:
            found[key] = custom_fields.checked(custom_fields.of_item(parts[key.partition("/")[0]], item))
    for key, custom in found.items():
        if _text(custom) != _text(entity.custom.get(key, {})):
            entity.custom[key] = entity.write_custom[key] = custom
            entity.last = each.event


def of_row(unit: Unit, entity: Entity, key: str) -> dict[str, Json] | None:
    """What is to be written to the row's `custom`; None when it stays as it is."""
    custom = entity.write_custom.get(key)
    return None if custom is None else {unit.connection.name: custom}


def _text(custom: Custom) -> bytes:
    # 1, 1.0 and true are equal to Python, and different things to them.
    return orjson.dumps(custom, option=orjson.OPT_SORT_KEYS)
