"""Credentials open in their place, under their key, and nowhere else."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from schemas.problems import Problem
from streams import settings, vault

CANARY = "canary-0f1e2d3c"
KEY = vault.parse_key(base64.b64encode(bytes(range(32))), "test")
OTHER_KEY = vault.parse_key(base64.b64encode(bytes(32)), "test")
PLACE = vault.Place("org_a", "openfn-adapter", "clinic", "apiKey")


@pytest.mark.covers("F085", "F083")
@given(st.text(), st.text(), st.text())
def test_what_was_sealed_opens(value: str, org: str, name: str) -> None:
    place = vault.Place(org, "pco", "clinic", name)
    assert vault.unseal(KEY, place, vault.seal(KEY, place, SecretStr(value))).get_secret_value() == value


def test_two_seals_of_one_value_share_nothing() -> None:
    first, second = (vault.seal(KEY, PLACE, SecretStr("x" * 40)) for _ in range(2))
    assert first.sealed != second.sealed
    assert first.wrapped_key != second.wrapped_key


@pytest.mark.covers("F085")
@pytest.mark.parametrize("field", ["org_id", "system", "connection", "name"])
def test_ciphertext_of_another_row_does_not_open(field: str) -> None:
    stored = vault.seal(KEY, PLACE, SecretStr(CANARY))
    with pytest.raises(Problem) as caught:
        vault.unseal(KEY, dataclasses.replace(PLACE, **{field: "other"}), stored)
    assert caught.value.code == "credential_tampered"


@pytest.mark.parametrize("half", ["wrapped_key", "sealed"])
@given(st.data())
def test_any_changed_byte_is_noticed(half: str, data: st.DataObject) -> None:
    stored = vault.seal(KEY, PLACE, SecretStr(CANARY))
    content = bytearray(getattr(stored, half))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Problem) as caught:
        vault.unseal(KEY, PLACE, dataclasses.replace(stored, **{half: bytes(content)}))
    assert caught.value.code == "credential_tampered"


@given(st.binary(max_size=70), st.binary(max_size=70))
def test_nonsense_is_a_problem_and_no_crash(wrapped: bytes, sealed: bytes) -> None:
    with pytest.raises(Problem) as caught:
        vault.unseal(KEY, PLACE, vault.Sealed(KEY.id, wrapped, sealed))
    assert caught.value.code == "credential_tampered"


def test_another_key_is_named() -> None:
    with pytest.raises(Problem) as caught:
        vault.unseal(OTHER_KEY, PLACE, vault.seal(KEY, PLACE, SecretStr(CANARY)))
    assert caught.value.code == "key_wrong"
    assert KEY.id in caught.value.cause


@pytest.mark.covers("T5", "F083")
def test_nonces_of_sixteen_bytes_open_too() -> None:
    data_key, long_nonce = bytes(32), bytes(range(16))

    def old(key: bytes, content: bytes, layer: str) -> bytes:
        bound = vault._bound(layer, PLACE, KEY.id)
        return long_nonce + AESGCM(key).encrypt(long_nonce, content, bound)

    stored = vault.Sealed(KEY.id, old(KEY.secret, data_key, "key"), old(data_key, CANARY.encode(), "value"))
    assert vault.unseal(KEY, PLACE, stored).get_secret_value() == CANARY


@pytest.mark.covers("C21")
def test_nothing_secret_is_shown() -> None:
    stored = vault.seal(KEY, PLACE, SecretStr(CANARY))
    shown = f"{KEY!r} {KEY} {stored!r} {stored} {vault.unseal(KEY, PLACE, stored)!r}"
    assert CANARY not in shown
    assert repr(KEY.secret) not in shown
    assert CANARY.encode() not in stored.sealed + stored.wrapped_key


def test_the_key_file_is_read_from_home(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(base64.b64encode(KEY.secret) + b"\n")
    assert vault.load_key(settings.load(tmp_path)) == KEY


def test_missing_and_wrong_key_files(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        vault.load_key(settings.load(tmp_path))
    assert caught.value.code == "key_missing"
    (tmp_path / "key").write_text("c2hvcnQ=\n")
    with pytest.raises(Problem) as caught:
        vault.load_key(settings.load(tmp_path))
    assert caught.value.code == "key_wrong"
    assert "c2hvcnQ" not in str(caught.value)
