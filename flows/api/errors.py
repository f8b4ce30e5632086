"""Errors of the HTTP API, all in one envelope. None repeats what the caller sent."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from schemas.responses import (
    NOT_READY,
    failure,
)

RETRY_SECONDS = 5


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(failure(status, message), status, headers)


async def on_http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  it is registered for these
    return error_response(error.status_code, error.detail, error.headers)


async def on_lost_database(request: Request, _error: Exception) -> JSONResponse:
    return await on_http_error(request, not_ready())


def not_ready() -> HTTPException:
    headers = {"Retry-After": str(RETRY_SECONDS)}
    return HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, NOT_READY, headers)


async def on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    """Name the parameters and their faults; FastAPI's own answer would quote what was sent."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  it is registered for these
    faults = [
        "There is no such parameter"
        if fault["type"] == "extra_forbidden"
        else f"{fault['loc'][-1]}: {fault['msg']}"
        for fault in error.errors()
    ]
    return error_response(HTTPStatus.BAD_REQUEST, "; ".join(faults[:3]))
