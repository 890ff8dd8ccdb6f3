"""What must survive: SQL in `.sql` files beside this module, and the few functions that run it.

A file holds named statements; a name stands on a line of its own between dashes, `-- claim --`, and everything up to
the next name belongs to it.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_NAME = re.compile(r"^-- ([a-z_]+) --$", re.MULTILINE)


@cache
def queries(file: str) -> dict[str, str]:
    """The named statements of `streams/store/<file>.sql`."""
    text = resources.files(__package__).joinpath(f"{file}.sql").read_text(encoding="utf-8")
    _, *named = _NAME.split(text)
    return {name: body.strip().rstrip(";") for name, body in zip(named[::2], named[1::2], strict=True)}
