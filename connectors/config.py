"""The `externalSync` configuration as DataCollect writes it, read into one shape that names its mistakes.

Place in the flow: `syncline connect` and the API hand a document to `load()`; `connectors.registry` finds the adapter
of its `type`; `settings()` builds that adapter's own typed model. Secrets are apart from plain settings from the
first moment on: nothing downstream has to guess.

    {"externalSync": {"type": "openfn-adapter", "url": "https://…", "auth": "api-key",
                      "extraFields": [{"name": "batchSize", "value": "50"}, …]}}

The wrapper may be missing, `extraFields` may be absent, an array or an object map, and numbers are text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.alias_generators import to_camel

from connectors.secrets import is_secret
from schemas.problems import Problem

ALIASES = {"openfn": "openfn-adapter", "openspp": "openspp-adapter"}
"""Names of DataCollect's own pages for types whose configurations say otherwise."""

AUTH_NONE, AUTH_BASIC, AUTH_API_KEY = "none", "basic", "api-key"


class Settings(BaseModel):
    """What every adapter's settings model extends: the fields outside `extraFields`, and how names are read.

    Fields are written in snake_case and read in camelCase; durations are whole milliseconds, as in the documents.
    Secret fields are `SecretStr`.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    url: str
    auth: str = AUTH_NONE
    timeout: int = Field(default=30_000, gt=0, le=600_000)
    """Of one request, ms."""


@dataclass(frozen=True, slots=True)
class ExternalSync:
    """One external-sync configuration.

    Args:
        type: the adapter's type name, aliases resolved; need not be one we have.
        url: http or https, without user information.
        auth: as written, `none` when absent.
        plain: the extra fields that are no secrets, name -> text.
        secrets: the extra fields that are, never shown by repr.
        paths: name of an extra field -> where its value is in the document, for messages.
    """

    type: str
    url: str
    auth: str = AUTH_NONE
    plain: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, SecretStr] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


_Settings = TypeVar("_Settings", bound=BaseModel)


def load(document: Mapping[str, Any] | str | bytes) -> ExternalSync:
    """Read a configuration, with the `externalSync` wrapper or without, as an object or as JSON text.

    A type without an adapter loads. Raises Problem (`config_invalid`) that lists every error as `path: reason`.
    """
    content = _parse(document)
    errors: list[tuple[str, str]] = []
    prefix = ""
    if "externalSync" in content:
        prefix, content = "externalSync.", content["externalSync"]
        if not isinstance(content, Mapping):
            raise _invalid([("externalSync", "must be an object")])
    kind = _text(content, "type", prefix, errors)
    url = _text(content, "url", prefix, errors)
    if url:
        errors.extend((f"{prefix}url", reason) for reason in _url_mistakes(url))
    auth = content.get("auth")
    if auth is not None and not isinstance(auth, str):
        errors.append((f"{prefix}auth", "must be text"))
    values, paths = _extra_fields(content.get("extraFields"), f"{prefix}extraFields", errors)
    if errors:
        raise _invalid(errors)
    return ExternalSync(
        type=ALIASES.get(kind, kind),
        url=url,
        auth=auth or AUTH_NONE,
        plain={name: value for name, value in values.items() if not is_secret(name, value)},
        secrets={name: SecretStr(value) for name, value in values.items() if is_secret(name, value)},
        paths={"type": f"{prefix}type", "url": f"{prefix}url", "auth": f"{prefix}auth", **paths},
    )


def settings(config: ExternalSync, model: type[_Settings]) -> _Settings:
    """An adapter's typed settings from a configuration.

    Raises Problem (`config_invalid`) that names each wrong value by its place in the original document.
    """
    values = {**config.plain, **{name: secret.get_secret_value() for name, secret in config.secrets.items()}}
    try:
        return model.model_validate({**values, "url": config.url, "auth": config.auth})
    except ValidationError as failure:
        errors = [(_path(config, error["loc"]), error["msg"]) for error in failure.errors(include_input=False)]
        raise _invalid(errors) from None


def unknown_fields(config: ExternalSync, model: type[BaseModel]) -> tuple[str, ...]:
    """Paths of extra fields the adapter does not read: perhaps misspelt, so worth a warning, never an error."""
    known = {info.alias or name for name, info in model.model_fields.items()} | set(model.model_fields)
    return tuple(config.paths[name] for name in (*config.plain, *config.secrets) if name not in known)


def _parse(document: Mapping[str, Any] | str | bytes) -> Mapping[str, Any]:
    if isinstance(document, str | bytes):
        try:
            document = orjson.loads(document)
        except orjson.JSONDecodeError as failure:
            raise _invalid([(f"line {failure.lineno}, column {failure.colno}", "is no JSON")]) from None
    if not isinstance(document, Mapping):
        raise _invalid([("document", "must be an object")])
    return document


def _text(content: Mapping[str, Any], name: str, prefix: str, errors: list[tuple[str, str]]) -> str:
    value = content.get(name)
    if isinstance(value, str) and value.strip():
        return value.strip()
    errors.append((prefix + name, "is required" if value is None else "must be a text that is not empty"))
    return ""


def _url_mistakes(url: str) -> list[str]:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return ["must be a full URL"]
    if parts.scheme not in ("http", "https") or not host or any(c.isspace() for c in url):
        return ["must be a full http or https URL, with protocol and host"]
    mistakes = ["must not hold a user or password; use extra fields"] if "@" in parts.netloc else []
    return mistakes + (["must not have a fragment (#)"] if parts.fragment else [])


def _extra_fields(given: Any, path: str, errors: list[tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Name -> text and name -> path of the value. A null value is a field left empty in a form, and is absent."""
    values: dict[str, str] = {}
    paths: dict[str, str] = {}
    for name, value, where in _pairs(given, path, errors):
        if name in paths:
            errors.append((where, f"the name is given twice, first at {paths[name]}"))
            continue
        paths[name] = where
        if isinstance(value, str):
            values[name] = value
        elif value is not None:
            # Older documents hold numbers and nested options; as text they read the same.
            values[name] = orjson.dumps(value).decode()
    return values, paths


def _pairs(given: Any, path: str, errors: list[tuple[str, str]]) -> list[tuple[str, Any, str]]:
    if given is None:
        return []
    if isinstance(given, Mapping):
        return [(str(name), value, f"{path}.{name}") for name, value in given.items()]
    if not isinstance(given, list | tuple):
        errors.append((path, "must be an array of {name, value}, or an object"))
        return []
    pairs = []
    for i, item in enumerate(given):
        name = item.get("name") if isinstance(item, Mapping) else None
        if not isinstance(name, str) or not name:
            errors.append((f"{path}[{i}].name", "is required and must be a text that is not empty"))
        elif "value" not in item:
            errors.append((f"{path}[{i}].value", "is required"))
        else:
            pairs.append((name, item["value"], f"{path}[{i}].value"))
    return pairs


def _path(config: ExternalSync, location: tuple[int | str, ...]) -> str:
    """Where an error is in the original document; a field that is missing there is named under `extraFields`."""
    name = str(location[0]) if location else "document"
    if name in config.paths:
        return config.paths[name]
    prefix = config.paths.get("type", "type").removesuffix("type")
    return f"{prefix}extraFields.{name}"


def _invalid(errors: list[tuple[str, str]]) -> Problem:
    listed = "; ".join(f"{path}: {reason}" for path, reason in errors)
    return Problem("config_invalid", listed, "Correct the configuration and load it again.")
