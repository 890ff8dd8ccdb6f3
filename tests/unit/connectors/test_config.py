"""The externalSync configuration: all of S0's examples, DataCollect's own variants, and every mistake named."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from pydantic import Field, SecretStr

from connectors import config, registry
from connectors.systems.mock_sync_server.settings import MockSyncSettings
from schemas.problems import Problem

TRIGGER = "https://api.openfn.org/workflow/trigger"


def extra(**fields: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in fields.items()]


SAMPLE = {
    "externalSync": {
        "type": "openfn-adapter",
        "url": f"{TRIGGER}/abc123",
        "extraFields": extra(
            apiKey="sk_prod_1234567890abcdef", workflowId="wf_1234567890", batchSize="50", timeout="30000"
        ),
    }
}
EXAMPLES: list[tuple[dict[str, Any], str, str, dict[str, str], dict[str, str]]] = [
    (
        SAMPLE,
        "openfn-adapter",
        "none",
        {"workflowId": "wf_1234567890", "batchSize": "50", "timeout": "30000"},
        {"apiKey": "sk_prod_1234567890abcdef"},
    ),
    (
        {
            "type": "mock-sync-server",
            "url": "http://localhost:3000/mock-sync",
            "extraFields": extra(batchSize="25", retryAttempts="3"),
        },
        "mock-sync-server",
        "none",
        {"batchSize": "25", "retryAttempts": "3"},
        {},
    ),
    (
        {
            "type": "openfn-adapter",
            "auth": "api-key",
            "url": f"{TRIGGER}/def456",
            "extraFields": extra(apiKey="sk", workflowId="wf", batchSize="50", timeout="60000"),
        },
        "openfn-adapter",
        "api-key",
        {"workflowId": "wf", "batchSize": "50", "timeout": "60000"},
        {"apiKey": "sk"},
    ),
    (
        {
            "type": "custom-adapter",
            "auth": "basic",
            "url": "https://your-system.com/api/sync",
            "extraFields": extra(
                username="sync_user", password="secure_password", database="production_db", syncInterval="300000"
            ),
        },
        "custom-adapter",
        "basic",
        {"username": "sync_user", "database": "production_db", "syncInterval": "300000"},
        {"password": "secure_password"},
    ),
    (
        {"type": "mock-sync-server", "url": "http://localhost:3000/mock-sync", "extraFields": []},
        "mock-sync-server",
        "none",
        {},
        {},
    ),
    (
        {"type": "openfn-adapter", "url": TRIGGER, "extraFields": extra(apiKey="your-api-key")},
        "openfn-adapter",
        "none",
        {},
        {"apiKey": "your-api-key"},
    ),
    (
        {"type": "mock-sync-server", "url": "http://localhost:3000/sync", "extraFields": []},
        "mock-sync-server",
        "none",
        {},
        {},
    ),
]


@pytest.mark.covers("F001", "F002", "F003", "F004", "F005", "F006", "F007", "F015", "F016", "F017")
@pytest.mark.parametrize(("document", "kind", "auth", "plain", "secrets"), EXAMPLES)
@pytest.mark.parametrize("as_text", [False, True])
def test_examples_of_the_documentation_load(
    document: dict[str, Any], kind: str, auth: str, plain: dict[str, str], secrets: dict[str, str], as_text: bool
) -> None:
    loaded = config.load(orjson.dumps(document) if as_text else document)
    assert (loaded.type, loaded.auth, dict(loaded.plain)) == (kind, auth, plain)
    assert {name: secret.get_secret_value() for name, secret in loaded.secrets.items()} == secrets
    assert loaded.url == document.get("externalSync", document)["url"]


@pytest.mark.covers("T13")
@pytest.mark.parametrize("fields", [None, [], {}])
def test_extra_fields_may_be_absent_or_empty(fields: Any) -> None:
    document = {"type": "mock-sync-server", "url": "http://localhost:5000", "auth": "basic"}
    assert config.load(document | ({} if fields is None else {"extraFields": fields})).plain == {}


@pytest.mark.covers("T13")
def test_extra_fields_may_be_an_object_with_numbers() -> None:
    document = {
        "type": "x",
        "url": "https://x.org",
        "extraFields": {"batchSize": 50, "apiKey": "k", "deep": {"a": 1}, "on": True, "empty": None},
    }
    loaded = config.load(document)
    assert loaded.plain == {"batchSize": "50", "deep": '{"a":1}', "on": "true"}
    assert list(loaded.secrets) == ["apiKey"]


@pytest.mark.covers("T13")
@pytest.mark.parametrize(("written", "kind"), [("openfn", "openfn-adapter"), ("openspp", "openspp-adapter")])
def test_other_names_of_a_type(written: str, kind: str) -> None:
    assert config.load({"type": written, "url": "https://x.org"}).type == kind


@pytest.mark.covers("F004", "T13")
def test_a_type_without_adapter_loads_and_is_refused_when_connected() -> None:
    assert config.load({"type": "custom-adapter", "url": "https://x.org"}).type == "custom-adapter"
    with pytest.raises(Problem, match=re.escape("No adapter available for type: custom-adapter")):
        registry.find("custom-adapter")


def test_a_whole_application_document_is_read_for_its_sync_part() -> None:
    document = {"id": "app", "entityForms": [], "type": "form", **SAMPLE}
    assert config.load(document).type == "openfn-adapter"


MISTAKES: list[tuple[Any, list[str]]] = [
    ({}, ["type: is required", "url: is required"]),
    ({"externalSync": {}}, ["externalSync.type: is required", "externalSync.url: is required"]),
    ({"externalSync": None}, ["externalSync: must be an object"]),
    ([], ["document: must be an object"]),
    ("{", ["is no JSON"]),
    ({"type": "", "url": " "}, ["type: must be a text", "url: must be a text"]),
    ({"type": 7, "url": 7}, ["type: must be a text", "url: must be a text"]),
    ({"type": "x", "url": "localhost:3000"}, ["url: must be a full http or https URL"]),
    ({"type": "x", "url": "/api"}, ["url: must be a full http or https URL"]),
    ({"type": "x", "url": "ftp://x.org"}, ["url: must be a full http or https URL"]),
    ({"type": "x", "url": "https://"}, ["url: must be a full http or https URL"]),
    ({"type": "x", "url": "https://a b.org"}, ["url: must be a full http or https URL"]),
    ({"type": "x", "url": "https://x.org:99999"}, ["url: must be a full URL"]),
    ({"type": "x", "url": "https://[x"}, ["url: must be a full URL"]),
    ({"type": "x", "url": "https://u:p@x.org/#f"}, ["url: must not hold a user", "url: must not have a fragment"]),
    ({"type": "x", "url": "https://x.org", "auth": 1}, ["auth: must be text"]),
    ({"type": "x", "url": "https://x.org", "extraFields": "a=b"}, ["extraFields: must be an array"]),
    (
        {"type": "x", "url": "https://x.org", "extraFields": [{"name": "a"}, {"value": "b"}, "c", {"name": ""}]},
        ["extraFields[0].value", "extraFields[1].name", "extraFields[2].name", "extraFields[3].name"],
    ),
    (
        {"externalSync": {"type": "x", "url": "https://x.org", "extraFields": extra(a="1") + extra(a="2")}},
        ["externalSync.extraFields[1].value: the name is given twice, first at externalSync.extraFields[0].value"],
    ),
]


@pytest.mark.covers("F004", "F005", "F006")
@pytest.mark.parametrize(("document", "expected"), MISTAKES)
def test_every_mistake_is_named_with_its_place(document: Any, expected: list[str]) -> None:
    with pytest.raises(Problem) as caught:
        config.load(document)
    assert caught.value.code == "config_invalid"
    assert len(caught.value.cause.split("; ")) >= len(expected)
    for part in expected:
        assert part in caught.value.cause


def mock(**fields: Any) -> MockSyncSettings:
    document = {
        "externalSync": {"type": "mock-sync-server", "url": "http://localhost:1/", "extraFields": extra(**fields)}
    }
    return config.settings(config.load(document), MockSyncSettings)


@pytest.mark.covers("F010", "F011", "F012", "F013", "F014", "F018", "F032")
def test_an_adapter_reads_its_own_typed_fields() -> None:
    assert (mock().batch_size, mock().retry_attempts, mock().delay_between_batches, mock().timeout) == (
        100,
        0,
        0,
        30_000,
    )
    given = mock(batchSize="25", retryAttempts="3", delayBetweenBatches="1500", timeout="60000")
    assert (given.batch_size, given.retry_attempts, given.delay_between_batches) == (25, 3, 1500)
    assert given.timeout == 60_000


@pytest.mark.covers("F018")
def test_a_custom_schema_extends_the_base() -> None:
    class Custom(config.Settings):
        database: str | None = None
        sync_interval: int = Field(default=0, ge=0)
        password: SecretStr

    loaded = config.load(EXAMPLES[3][0])
    made = config.settings(loaded, Custom)
    assert (made.database, made.sync_interval, made.auth) == ("production_db", 300_000, "basic")
    assert made.password.get_secret_value() == "secure_password"
    with pytest.raises(Problem, match=re.escape("extraFields.password: Field required")):
        config.settings(config.load({"type": "c", "url": "https://x.org"}), Custom)


def test_a_wrong_value_is_named_by_its_place_and_not_shown() -> None:
    with pytest.raises(Problem) as caught:
        mock(batchSize="many", retryAttempts="-1", username="x")
    assert caught.value.code == "config_invalid"
    assert "externalSync.extraFields[0].value: " in caught.value.cause
    assert "externalSync.extraFields[1].value: " in caught.value.cause
    assert "many" not in caught.value.cause


def test_misspelt_fields_are_found() -> None:
    document = {
        "type": "mock-sync-server",
        "url": "http://localhost:1",
        "extraFields": extra(batchsize="1", timeout="2"),
    }
    assert config.unknown_fields(config.load(document), MockSyncSettings) == ("extraFields[0].value",)


@pytest.mark.covers("C21", "F085")
def test_secrets_are_never_in_text() -> None:
    loaded = config.load(EXAMPLES[3][0])
    model = mock(password="secure_password", apiKey="secure_password")
    for shown in (
        repr(loaded),
        str(loaded),
        repr(model),
        str(model),
        repr(model.model_dump()),
        model.model_dump_json(),
    ):
        assert "secure_password" not in shown
