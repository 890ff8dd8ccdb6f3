"""Which settings are secrets, told from their names and values.

Place in the flow: `connectors.config` parts a configuration's extra fields with this, before they are stored or shown.
A doubt counts as a secret: a hidden setting costs a question, a shown password an incident. Pure.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_WORDS = frozenset(
    {"apikey", "auth", "authorization", "bearer", "connectionstring", "cookie", "credential", "credentials", "dsn"}
    | {"passcode", "passphrase", "passwd", "password", "passwords", "pin", "privatekey", "pwd", "secret", "secrets"}
    | {"session", "signature", "token", "tokens"}
)
_SECRET_PAIRS = frozenset(
    {(first, "key") for first in ("access", "api", "auth", "encryption", "master", "private", "secret", "shared")}
    | {("signing", "key"), ("connection", "string"), ("pass", "word"), ("pass", "phrase")}
)
_ABOUT_A_SECRET = frozenset({"endpoint", "expiry", "header", "lifetime", "timeout", "ttl", "type", "uri", "url"})
"""Last words of names that tell something about a secret and are none: `tokenUrl`."""
_PASSWORD_IN_TEXT = re.compile(
    r"(?:^|[;,&?\s])(?:password|passwd|pwd|secret|token|api[_-]?key)\s*[=:]\s*\S", re.IGNORECASE
)


def is_secret(name: str, value: str = "") -> bool:
    """Whether a setting must be kept like a password, by its name or by a password inside its value."""
    words = [word.lower() for word in _WORD.findall(name)]
    if words and words[-1] not in _ABOUT_A_SECRET:
        if _SECRET_WORDS.intersection(words) or "".join(words) in _SECRET_WORDS:
            return True
        if any(pair in _SECRET_PAIRS for pair in itertools.pairwise(words)):
            return True
    return _holds_password(value)


def secret_names(names: Iterable[str]) -> frozenset[str]:
    """Those of the names that are secrets by name."""
    return frozenset(name for name in names if is_secret(name))


def _holds_password(value: str) -> bool:
    if "://" in value:
        try:
            if urlsplit(value).password:
                return True
        except ValueError:
            return True
    return bool(_PASSWORD_IN_TEXT.search(value))
