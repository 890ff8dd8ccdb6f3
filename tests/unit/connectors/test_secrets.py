"""Which names and values count as secrets."""

from __future__ import annotations

import pytest

from connectors.secrets import is_secret, secret_names

SECRET = [
    "apiKey",
    "api_key",
    "API_KEY",
    "apikey",
    "X-Api-Key",
    "password",
    "userPassword",
    "PASSWORD",
    "db_password",
    "token",
    "accessToken",
    "callbackToken",
    "refresh_token",
    "secret",
    "clientSecret",
    "webhookSecret",
    "privateKey",
    "accessKey",
    "signingKey",
    "connectionString",
    "dsn",
    "credentials",
    "authorization",
    "passphrase",
    "pwd",
    "cookie",
    "bearer",
    "basicAuth",
]
PLAIN = [
    "username",
    "database",
    "syncInterval",
    "batchSize",
    "timeout",
    "workflowId",
    "url",
    "tokenUrl",
    "tokenTimeout",
    "apiKeyHeader",
    "monkey",
    "keyField",
    "publicKey",
    "registrarGroup",
    "opensppAdapterOptions",
    "retryAttempts",
    "delayBetweenBatches",
    "keyboard",
    "passenger",
]


@pytest.mark.covers("F008", "C21")
@pytest.mark.parametrize("name", SECRET)
def test_secret_names(name: str) -> None:
    assert is_secret(name, "x")


@pytest.mark.covers("F009")
@pytest.mark.parametrize("name", PLAIN)
def test_plain_names(name: str) -> None:
    assert not is_secret(name, "x")


@pytest.mark.covers("F015")
@pytest.mark.parametrize(
    "value",
    [
        "postgres://user:pass@host/db",
        "Server=db;Password=pass;Database=x",
        "host=db password=pass",
        "https://x.org/hook?token=abc",
        "AccountName=x;api_key=abc",
    ],
)
def test_passwords_inside_values(value: str) -> None:
    assert is_secret("database", value)


@pytest.mark.parametrize("value", ["", "postgres://user@host/db", "production_db", "https://x.org/?page=1", "a://[b"])
def test_values_without_passwords(value: str) -> None:
    assert is_secret("database", value) == (value == "a://[b")


def test_names_of_many() -> None:
    assert secret_names(["apiKey", "url"]) == {"apiKey"}
