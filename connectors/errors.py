"""What can go wrong at an external system, named by the way to recover.

ConnectorError
├── NotApplied      surely not applied, try again: no connection, 408/425/429/503 before any work; `retry_after` seconds
├── Ambiguous       perhaps applied: time-out after sending, 5xx, cut or unreadable answer
├── Stale           a conditional write was refused: they hold a newer version than it was made from
├── Unauthorized    401, 403: no record is at fault, the lane pauses
├── Rejected        this record is refused for good (400, 404, 409, 422) until it changes
└── Suspicious      not this system's voice: redirect, HTML, private address; the lane pauses and a person looks
"""

from __future__ import annotations

from schemas.problems import Problem


class ConnectorError(Problem):
    """A call to an external system failed; the subclass names the recovery, `status` is the HTTP status if any."""

    def __init__(self, code: str, cause: str, next_step: str = "", *, status: int | None = None) -> None:
        super().__init__(code, cause, next_step)
        self.status = status


class NotApplied(ConnectorError):
    """Surely not applied; sending again is safe. `retry_after` is their wish in seconds, if they said one."""

    def __init__(
        self,
        code: str,
        cause: str,
        next_step: str = "",
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, cause, next_step, status=status)
        self.retry_after = retry_after


class Ambiguous(ConnectorError):
    """Perhaps applied; only the same bytes under the same key may be sent again."""


class Stale(ConnectorError):
    """They hold a newer version: nothing was applied; read theirs, decide, and write again if need be."""


class Unauthorized(ConnectorError):
    """Our credential is refused."""


class Rejected(ConnectorError):
    """This record is refused until it changes."""


class Suspicious(ConnectorError):
    """The answer is not one this system gives."""
