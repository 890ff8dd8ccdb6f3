"""Walks a list that is paged by offset and changes while it is walked.

An offset counts what lies before it. Where a record is edited it moves to the end of a list that is sorted by time, and
where one is deleted it goes: everything behind it moves up by one, and the next offset passes over a record that nobody
has read. So each page begins with the last record of the one before, and where that is not found the walk goes back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from connectors.errors import Ambiguous

MOST_BACK = 100
"""Steps back without anything new: the list changes faster than it can be read."""

T = TypeVar("T")


async def walk(
    read: Callable[[int], Awaitable[Sequence[T]]], key: Callable[[T], tuple[str, ...]]
) -> AsyncIterator[Sequence[T]]:
    """All of the list, page by page; what is edited meanwhile comes again, later. While there are always new edits it
    does not end: who reads says when it is enough.

    Args:
        read: an offset -> the items from there on, as many as fit into a page; none behind the end.
        key: what the list is sorted by, ascending and without ties; new and edited items get a greater one.

    Raises:
        Ambiguous: `paging_unstable`.
        ConnectorError: as `read` does.
    """
    offset, widest, back = 0, 1, 0
    last: tuple[str, ...] | None = None
    while True:
        start = max(0, offset - 1)
        page = await read(start)
        if start and (not page or (last is not None and key(page[0]) > last)):
            back += 1
            if back > MOST_BACK:
                raise Ambiguous("paging_unstable", "their list changes faster than it can be read")
            offset = max(0, offset - widest)
            continue
        widest = max(widest, len(page))
        fresh = [item for item in page if last is None or key(item) > last]
        if fresh:
            last, back = key(fresh[-1]), 0
            yield fresh
        elif start + len(page) <= offset:
            return
        offset = start + len(page)
