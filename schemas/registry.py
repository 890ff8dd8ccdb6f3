"""The schema registry, by its Confluent API (`/apis/ccompat/v7` of Apicurio Registry).

Down is not the same as does not know: a registry that cannot answer is waited for (`registry_unreachable`, the caller
tries again), a schema that the registry says it does not have makes the record that names it unreadable
(`schema_unknown`, never retried).
"""

from __future__ import annotations

from typing import Any

import httpx
import orjson

from schemas.problems import Problem

API = "/apis/ccompat/v7"
TIMEOUT_S = 5.0
UNKNOWN_SCHEMA = 40403
UNKNOWN_SUBJECT = 40401
COMPATIBILITY = "BACKWARD_TRANSITIVE"

Schema = dict[str, Any]


class Registry:
    """A client of one registry. Close it with `aclose`.

    Args:
        url: base URL of the registry, without the API's path.
        transport: for tests.
    """

    def __init__(self, url: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = httpx.AsyncClient(base_url=url.rstrip("/") + API, timeout=TIMEOUT_S, transport=transport)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def schema(self, schema_id: int) -> Schema:
        """The schema with a global id.

        Raises:
            Problem: `schema_unknown` when the registry says it has none; `registry_unreachable` when it does not say.
        """
        answer = await self._ask("GET", f"/schemas/ids/{schema_id}")
        if _error_code(answer) == UNKNOWN_SCHEMA:
            raise Problem("schema_unknown", f"the registry has no schema with id {schema_id}")
        schema: Schema = orjson.loads(_said(answer)["schema"])
        return schema

    async def register(self, subject: str, schema: Schema) -> int:
        """Make `schema` the newest version of `subject`, which stays BACKWARD_TRANSITIVE; its id.

        Raises:
            Problem: `schema_incompatible` when readers of the new version could not read the old ones;
                `registry_unreachable`.
        """
        await self._keep_compatible(subject)
        answer = await self._ask("POST", f"/subjects/{subject}/versions", {"schema": orjson.dumps(schema).decode()})
        if answer.status_code in (409, 422):
            raise Problem(
                "schema_incompatible",
                f"the registry refuses the schema of {subject}",
                "Give new fields a default and never remove one that has none.",
            )
        return int(_said(answer)["id"])

    async def _keep_compatible(self, subject: str) -> None:
        answer = await self._ask("GET", f"/config/{subject}")
        if answer.status_code == 200 and COMPATIBILITY in orjson.loads(answer.content).values():
            return
        _said(await self._ask("PUT", f"/config/{subject}", {"compatibility": COMPATIBILITY}))

    async def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise _unreachable(type(error).__name__) from error
        if answer.status_code >= 500:
            raise _unreachable(f"HTTP {answer.status_code}")
        return answer


def _error_code(answer: httpx.Response) -> int:
    """The code in an error of the API; 0 for anything else, for example a proxy's own 404."""
    try:
        return int(orjson.loads(answer.content)["error_code"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return 0


def _said(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code != 200:
        raise _unreachable(f"HTTP {answer.status_code}")
    body: dict[str, Any] = orjson.loads(answer.content)
    return body


def _unreachable(cause: str) -> Problem:
    return Problem("registry_unreachable", f"the schema registry does not answer: {cause}", "Wait, or start it.")
