"""Is this webhook really theirs: signatures over the raw body, and the same the other way for the emulators.

Place in the flow: the gateway calls `verify()` with the bytes as they came, before anything parses them; an emulator
calls `sign()`. Pure: the time is an argument. Which scheme a system uses is a name in its manifest:

    standard-webhooks   `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,<base64>`; secrets `whsec_…`
    hmac-sha256-hex     HMAC-SHA256 of the body, hexadecimal, in one header; a `sha256=` prefix is accepted
    hmac-sha256-base64  the same in base64
    token-header        the secret itself in one header
    none                nothing to verify: its webhooks are hints only
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from datetime import datetime

from schemas.problems import Problem

STANDARD = "standard-webhooks"
HMAC_HEX = "hmac-sha256-hex"
HMAC_BASE64 = "hmac-sha256-base64"
TOKEN = "token-header"  # noqa: S105 - a scheme
NONE = "none"
SCHEMES = (STANDARD, HMAC_HEX, HMAC_BASE64, TOKEN, NONE)

TOLERANCE_S = 300
SIGNATURE_HEADER = "x-signature"
"""The header of the HMAC and token schemes where a manifest names none."""

Headers = Iterable[tuple[str, str]]


def verify(
    scheme: str,
    headers: Headers,
    body: bytes,
    secrets: Sequence[str],
    now: datetime,
    *,
    header: str = SIGNATURE_HEADER,
    id_header: str = "",
) -> str | None:
    """Check a webhook and give its delivery id, or None when it has none.

    Args:
        headers: (name, value) pairs as received, repeated ones included.
        body: the raw bytes.
        secrets: all live ones, so that a rotation has an overlap.
        header: the header of the signature; the Standard Webhooks scheme has its own.
        id_header: the header of the delivery id, if they send one; the same.

    Raises Problem: `webhook_refused` for a signature that is missing, repeated, old or wrong, the same text for all;
    `webhook_scheme_unknown`.
    """
    given = _single(headers)
    if scheme == STANDARD:
        return _verify_standard(given, body, secrets, now)
    if scheme == NONE:
        return _once(given, id_header) if id_header else None
    if scheme not in SCHEMES:
        raise Problem("webhook_scheme_unknown", f"there is no webhook signature scheme {scheme}")
    signature = _once(given, header)
    if signature and scheme == HMAC_HEX:
        signature = signature.removeprefix("sha256=").lower()
    if not signature or not _any_equal(signature, (_signature(scheme, s, body) for s in secrets)):
        raise _refused()
    return _once(given, id_header) if id_header else None


def sign(
    scheme: str, body: bytes, secret: str, delivery_id: str, now: datetime, *, header: str = SIGNATURE_HEADER
) -> dict[str, str]:
    """The headers with which a system sends this body; what `verify` accepts."""
    if scheme == NONE:
        return {}
    if scheme != STANDARD:
        return {header: _signature(scheme, secret, body)}
    timestamp = str(int(now.timestamp()))
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + _standard(secret, delivery_id, timestamp, body),
    }


def _verify_standard(given: dict[str, list[str]], body: bytes, secrets: Sequence[str], now: datetime) -> str:
    delivery_id, timestamp = _once(given, "webhook-id"), _once(given, "webhook-timestamp")
    signatures = _once(given, "webhook-signature")
    if not delivery_id or not signatures or not timestamp or not (timestamp.isascii() and timestamp.isdecimal()):
        raise _refused()
    if len(timestamp) > 12 or abs(now.timestamp() - int(timestamp)) > TOLERANCE_S:
        raise _refused()
    expected = [_standard(secret, delivery_id, timestamp, body) for secret in secrets]
    # The header holds several during the sender's rotation: `v1,AAA v1,BBB v1a,CCC`.
    offered = [s.removeprefix("v1,") for s in signatures.split(" ") if s.startswith("v1,")]
    if not max((_any_equal(signature, expected) for signature in offered), default=False):
        raise _refused()
    return delivery_id


def _standard(secret: str, delivery_id: str, timestamp: str, body: bytes) -> str:
    signed = delivery_id.encode() + b"." + timestamp.encode() + b"." + body
    return base64.b64encode(hmac.digest(_standard_key(secret), signed, hashlib.sha256)).decode()


def _standard_key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise Problem(
            "webhook_secret_invalid", "a Standard Webhooks secret is whsec_ and base64", "Enter the secret again."
        ) from None


def _signature(scheme: str, secret: str, body: bytes) -> str:
    if scheme == TOKEN:
        return secret
    digest = hmac.digest(secret.encode(), body, hashlib.sha256)
    return digest.hex() if scheme == HMAC_HEX else base64.b64encode(digest).decode()


def _any_equal(signature: str, expected: Iterable[str]) -> bool:
    """Compare in constant time, with all of them, so that the time does not tell which secret is live."""
    offered = signature.encode(errors="replace")
    # Not `any`, which would stop at the first match.
    return max((hmac.compare_digest(offered, one.encode()) for one in expected), default=False)


def _single(headers: Headers) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for name, value in headers:
        given.setdefault(name.lower(), []).append(value)
    return given


def _once(given: dict[str, list[str]], name: str) -> str | None:
    """A header's value, None when missing; a repeated one is refused, since proxies disagree which one counts."""
    values = given.get(name.lower(), [])
    if len(values) > 1:
        raise _refused()
    return values[0] if values else None


def _refused() -> Problem:
    return Problem("webhook_refused", "the webhook's signature does not verify")
