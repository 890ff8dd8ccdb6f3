"""The one shape of every error a person sees: a stable code, the cause, the next step.

Everything that is shown, logged or answered because something went wrong is a `Problem`. The code is stable and may be
matched by programs; the cause says what is the matter here and now; the next step says what to do. None of the three
may hold a secret or personal data.
"""

from __future__ import annotations

from typing import Any


class Problem(Exception):
    """An error with a stable code.

    Args:
        code: lower-case words joined by `_`, never changed once released, for example `config_invalid`.
        cause: one sentence, what is wrong.
        next_step: one sentence, what the reader can do; empty where nothing can be done.
        log: path of the log that tells more, when there is one.
    """

    def __init__(self, code: str, cause: str, next_step: str = "", *, log: str = "") -> None:
        super().__init__(f"{code}: {cause}")
        self.code = code
        self.cause = cause
        self.next_step = next_step
        self.log = log

    def as_json(self) -> dict[str, Any]:
        """The problem as an API or `--json` answer."""
        body = {"code": self.code, "cause": self.cause, "next_step": self.next_step}
        return body | ({"log": self.log} if self.log else {})
