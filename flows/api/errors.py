"""Errors of the HTTP API, all in the same envelope. They never repeat what the caller sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from schemas.envelope import failure
from schemas.responses import NO_SUCH_WORKSPACE, NOT_READY
from tasks.storage.database import DatabaseLostError, cause_of, is_lost, is_unusable

RETRY_LATER = {"Retry-After": "5"}  # seconds
LOGGER = logging.getLogger(__name__)


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as a response with the envelope."""
    return JSONResponse(failure(status, message), status, headers)


async def on_http_error(_request: Request, error: Exception) -> JSONResponse:
    """The response to an `HTTPException`."""
    assert isinstance(error, HTTPException)  # noqa: S101  registered for this exception only
    return error_response(error.status_code, error.detail, error.headers)


async def on_lost_database(request: Request, error: Exception) -> JSONResponse:
    """The response when the database is away or cannot be used: 503. The log gets the cause."""
    LOGGER.error("%s %r: %s", request.method, request.url.path, error)
    return await on_http_error(request, not_ready())


async def on_database_fault(request: Request, error: Exception) -> JSONResponse:
    """The same for a statement that is not repeated while the database is away; 500 for another fault."""
    assert isinstance(error, DBAPIError | PoolTimeoutError)  # noqa: S101  registered for these only
    if not is_lost(error) and not is_unusable(error):
        raise error
    return await on_lost_database(request, DatabaseLostError(cause_of(error)))


async def on_missing_workspace(_request: Request, _error: Exception) -> JSONResponse:
    """The response to an import into a workspace that does not exist and is not to be created: 404."""
    return error_response(HTTPStatus.NOT_FOUND, NO_SUCH_WORKSPACE)


async def on_similar_workspace(_request: Request, error: Exception) -> JSONResponse:
    """The response to a new workspace whose name differs from another only in case: 409."""
    return error_response(HTTPStatus.CONFLICT, str(error))


def not_ready() -> HTTPException:
    """503 with the time to wait before the next attempt."""
    return HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, NOT_READY, RETRY_LATER)


async def on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    """Name the invalid parameters and what is wrong. FastAPI's own response would quote their values."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for this exception only
    return error_response(HTTPStatus.BAD_REQUEST, what_is_invalid(error))


def what_is_invalid(error: RequestValidationError | ValidationError) -> str:
    """The first invalid fields and what is wrong with each, without their values."""
    faults = [
        "Unknown parameter" if fault["type"] == "extra_forbidden" else f"{fault['loc'][-1]}: {fault['msg']}"
        for fault in error.errors()
    ]
    return "; ".join(faults[:3])
