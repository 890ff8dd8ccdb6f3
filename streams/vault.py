"""Credentials at rest: envelope encryption, and the rows of `sync.credential` that hold them.

Each value has a data key of its own; the data key is wrapped by the key-encryption key, which is in a file and never
in the database. Both layers are AES-256-GCM and bound to their place (organisation, system, connection, name, key id),
so a ciphertext copied to another row does not open. `seal` and `unseal` are pure but for the chance they are given.
The rows are in `streams.store.credentials`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from schemas.problems import Problem
from streams.settings import Settings

Random = Callable[[int], bytes]

KEY_BYTES = 32
NONCE_BYTES = 12
OLD_NONCE_BYTES = 16
"""DataCollect's length; accepted when opening, never written."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key-encryption key; `id` tells keys apart and says nothing about the key."""

    id: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a credential belongs; part of what the ciphertext authenticates."""

    org_id: str
    system: str
    connection: str
    name: str

    def named(self, name: str) -> Place:
        """The place of another credential of the same connection."""
        return replace(self, name=name)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A credential as it is stored: nonce + ciphertext + tag, twice."""

    key_id: str
    wrapped_key: bytes = field(repr=False)
    sealed: bytes = field(repr=False)


def key_path(settings: Settings) -> Path:
    """Where the key-encryption key is: `key_file`, or HOME/key."""
    return settings.key_file or settings.home / "key"


def load_key(settings: Settings) -> Key:
    """Read the key-encryption key.

    Raises:
        Problem: `key_missing` when there is no file, `key_wrong` when it holds no 32 bytes in base64.
    """
    path = key_path(settings)
    try:
        text = path.read_bytes()
    except OSError as failure:
        raise Problem(
            "key_missing",
            f"the key file {path} cannot be read ({failure.strerror})",
            "Start the stack with `syncline up`, or name a file with 32 random bytes in base64 in SYNCLINE_KEY_FILE.",
        ) from failure
    return parse_key(text, str(path))


def parse_key(text: bytes, where: str) -> Key:
    """A key from its file's content; raises Problem `key_wrong`."""
    try:
        secret = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != KEY_BYTES:
        raise Problem(
            "key_wrong", f"{where} does not hold {KEY_BYTES} bytes in base64", "Restore the key file from your backup."
        )
    return Key(hashlib.sha256(b"syncline key id\0" + secret).hexdigest()[:16], secret)


def seal(key: Key, place: Place, value: SecretStr, random: Random = secrets.token_bytes) -> Sealed:
    """Encrypt one credential for its place."""
    data_key = random(KEY_BYTES)
    wrapped = _encrypt(key.secret, data_key, _bound("key", place, key.id), random(NONCE_BYTES))
    content = value.get_secret_value().encode()
    return Sealed(key.id, wrapped, _encrypt(data_key, content, _bound("value", place, key.id), random(NONCE_BYTES)))


def unseal(key: Key, place: Place, stored: Sealed) -> SecretStr:
    """Decrypt one credential.

    Raises:
        Problem: `key_wrong` when it was sealed under another key, `credential_tampered` when the stored bytes are not
            what was sealed for this place.
    """
    if stored.key_id != key.id:
        raise Problem(
            "key_wrong",
            f"the credential {_named(place)} was sealed under the key {stored.key_id}, the key file holds {key.id}",
            "Restore the key file it was sealed with, or set the credential again with `syncline connect`.",
        )
    try:
        data_key = _decrypt(key.secret, stored.wrapped_key, _bound("key", place, key.id))
        return SecretStr(_decrypt(data_key, stored.sealed, _bound("value", place, key.id)).decode())
    except (InvalidTag, ValueError):
        # The cause is dropped on purpose: nothing of what failed to open may reach a log.
        raise Problem(
            "credential_tampered",
            f"the stored bytes of the credential {_named(place)} are not what was sealed for it",
            "Find out who changed sync.credential, then set the credential again with `syncline connect`.",
        ) from None


def _encrypt(key: bytes, content: bytes, bound: bytes, nonce: bytes) -> bytes:
    return nonce + AESGCM(key).encrypt(nonce, content, bound)


def _decrypt(key: bytes, stored: bytes, bound: bytes) -> bytes:
    """The nonce's length is not stored; the tag tells which of the two it was."""
    cipher = AESGCM(key)
    try:
        return cipher.decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], bound)
    except InvalidTag:
        return cipher.decrypt(stored[:OLD_NONCE_BYTES], stored[OLD_NONCE_BYTES:], bound)


def _bound(layer: Literal["key", "value"], place: Place, key_id: str) -> bytes:
    """A JSON array: no name can be moved across a border by what it contains."""
    return orjson.dumps([layer, place.org_id, place.system, place.connection, place.name, key_id])


def _named(place: Place) -> str:
    return f"{place.org_id}/{place.connection}/{place.name}"
