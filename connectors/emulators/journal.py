"""What happened at an emulator: every call and every count, within bounded memory."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

KEPT_CALLS = 200_000
KEPT_KEYS = 2_000_000
"""Most keys over all kept calls: a call with a batch has many."""
KEPT_BODY_BYTES = 64 << 20
"""Most bytes of bodies over all kept calls; older calls lose theirs first."""
BODY_CAP_BYTES = 16 << 10
"""Most bytes kept of one body."""


@dataclass(slots=True)
class CallRecord:
    """One call as it was; `status` 0 is a connection closed without an answer, `body` None one let go."""

    n: int
    at: float
    method: str
    path: str
    status: int
    type: str | None
    keys: Sequence[str]
    body: bytes | None

    def as_json(self) -> dict[str, Any]:
        """The call in the control API."""
        body = None if self.body is None else self.body.decode(errors="replace")
        return {
            "n": self.n,
            "at": self.at,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "type": self.type,
            "keys": list(self.keys),
            "body": body,
        }


class Journal:
    """The log of calls and the counts."""

    def __init__(self, kept_calls: int = KEPT_CALLS) -> None:
        self._kept_calls = kept_calls
        self.reset()

    def reset(self) -> None:
        """Forget everything and number calls from 1."""
        self._calls: deque[CallRecord] = deque()
        self._n = self._keys = 0
        self._bodies: deque[CallRecord] = deque()
        self._body_bytes = 0
        self._by_status: Counter[str] = Counter()
        self._creates: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._others: Counter[str] = Counter()

    def log(
        self, at: float, method: str, path: str, status: int, kind: str | None, keys: Sequence[str], body: bytes
    ) -> None:
        """Note one call; `at` is when it arrived, in unix seconds."""
        self._n += 1
        self._by_status[str(status)] += 1
        call = CallRecord(self._n, at, method, path, status, kind, keys, body[:BODY_CAP_BYTES])
        self._calls.append(call)
        self._keys += len(keys)
        if call.body:
            self._bodies.append(call)
            self._body_bytes += len(call.body)
        while len(self._calls) > self._kept_calls or (self._keys > KEPT_KEYS and len(self._calls) > 1):
            gone = self._calls.popleft()
            self._keys -= len(gone.keys)
            if self._bodies and self._bodies[0] is gone:
                self._drop_oldest_body()
        while self._body_bytes > KEPT_BODY_BYTES:
            self._drop_oldest_body()

    def created(self, kind: str, natural_key: str) -> None:
        """Note that a record was created through the API."""
        self._creates[kind][natural_key] += 1

    def count(self, name: str, by: int = 1) -> None:
        """Add to one of the system's own counts."""
        self._others[name] += by

    def calls(self, after: int, limit: int | None = None) -> list[dict[str, Any]]:
        """The kept calls with a number above `after`, oldest first."""
        first = self._calls[0].n if self._calls else self._n + 1
        start = max(0, after + 1 - first)
        stop = None if limit is None else start + limit
        return [call.as_json() for call in islice(self._calls, start, stop)]

    def counts(self) -> dict[str, Any]:
        """All counts, without those of webhooks."""
        return {
            **self._others,
            "calls": self._n,
            "by_status": dict(self._by_status),
            "creates": {kind: dict(keys) for kind, keys in self._creates.items()},
        }

    def _drop_oldest_body(self) -> None:
        oldest = self._bodies.popleft()
        self._body_bytes -= len(oldest.body or b"")
        oldest.body = None
