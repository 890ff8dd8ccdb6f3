"""Errors as problem+json (RFC 9457): a stable code, the cause, the next step; never a value that was sent to us."""

from __future__ import annotations

from typing import Any

import psycopg
import psycopg_pool
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from schemas.problems import Problem

log = structlog.get_logger(__name__)

STATUS = {
    "body_unreadable": 400,
    "unauthorised": 401,
    "connection_unknown": 404,
    "conflict_unknown": 404,
    "dead_letter_unknown": 404,
    "hold_unknown": 404,
    "id_unknown": 404,
    "loser_unknown": 404,
    "not_found": 404,
    "review_unknown": 404,
    "method_not_allowed": 405,
    "conflict_closed": 409,
    "conflict_moved": 409,
    "connection_ambiguous": 409,
    "connection_exists": 409,
    "entity_deleted": 409,
    "hold_closed": 409,
    "link_taken": 409,
    "not_connected": 409,
    "not_decidable": 409,
    "not_parked": 409,
    "not_redrivable": 409,
    "not_restorable": 409,
    "reference_gone": 409,
    "restored_already": 409,
    "review_closed": 409,
    "review_decided": 409,
    "row_not_ours": 409,
    "system_differs": 409,
    "adapter_unknown": 422,
    "address_refused": 422,
    "archive_unsupported": 422,
    "auth_unsupported": 422,
    "choice_invalid": 422,
    "config_invalid": 422,
    "decision_invalid": 422,
    "field_not_asked": 422,
    "field_unknown": 422,
    "fields_invalid": 422,
    "policy_invalid": 422,
    "resolver_unknown": 422,
    "resolver_broken": 422,
    "filter_invalid": 422,
    "gate_unknown": 422,
    "http_refused": 422,
    "limit_invalid": 422,
    "link_invalid": 422,
    "name_invalid": 422,
    "owner_invalid": 422,
    "side_needed": 422,
    "type_not_taken": 422,
    "value_invalid": 422,
    "value_refused": 422,
    "body_too_slow": 408,
    "body_too_large": 413,
    "event_too_large": 413,
    "too_many_lines": 413,
    "gateway_busy": 503,
    "kafka_unavailable": 503,
    "record_busy": 503,
    "registry_unreachable": 503,
    "not_configured": 503,
    "postgres_unreachable": 503,
}
"""Problem code -> HTTP status; a code that is not here is our mistake, 500."""


def install(app: FastAPI) -> None:
    """Answer every error as a problem."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(psycopg.DataError, _data)
    app.add_exception_handler(UnicodeEncodeError, _data)
    app.add_exception_handler(psycopg.OperationalError, _unreachable)
    app.add_exception_handler(psycopg_pool.PoolTimeout, _unreachable)
    app.add_exception_handler(Exception, _unexpected)


def answer(problem: Problem, status: int | None = None, **more: Any) -> JSONResponse:
    """A problem as an answer; `more` are members beside the usual ones."""
    status = status or STATUS.get(problem.code, 500)
    body = {"title": problem.code.replace("_", " "), "status": status, "detail": problem.cause}
    headers = {"cache-control": "no-store"} | ({"www-authenticate": "Bearer"} if status == 401 else {})
    return JSONResponse(
        body | {"code": problem.code, "next_step": problem.next_step, **more},
        status,
        headers,
        "application/problem+json",
    )


async def _problem(_: Request, failure: Any) -> JSONResponse:
    return answer(failure)


async def _invalid(_: Request, failure: Any) -> JSONResponse:
    """Places and reasons only: what was sent may be a secret."""
    wrong = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in failure.errors())
    return answer(Problem("value_invalid", wrong, "Send what /v1/openapi.json describes."))


async def _http(_: Request, failure: Any) -> JSONResponse:
    code = {404: "not_found", 405: "method_not_allowed"}.get(failure.status_code, "refused")
    return answer(Problem(code, str(failure.detail), "See /v1/openapi.json."), failure.status_code)


async def _data(_: Request, failure: Any) -> JSONResponse:
    """Text that Postgres cannot hold, such as a NUL."""
    del failure
    return answer(Problem("value_invalid", "a value cannot be kept: it has characters that are no text"))


async def _unreachable(_: Request, failure: Any) -> JSONResponse:
    log.warning("postgres_unreachable", cause=str(failure).partition("\n")[0])
    return answer(Problem("postgres_unreachable", "the database does not answer", "Try again in a moment."))


async def _unexpected(request: Request, failure: Any) -> JSONResponse:
    log.error("api_failed", method=request.method, error=type(failure).__name__, exc_info=failure)
    return answer(Problem("unexpected", "this should not have happened", "Look at the gateway's log."), 500)
