"""The envelope that every response is in: of the HTTP API, and of `--json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# HTTP status → code in the envelope.
ERROR_CODES = {
    400: "VALIDATION_ERROR",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    429: "TOO_MANY_REQUESTS",
    500: "INTERNAL_ERROR",
    503: "NOT_READY",
}


def failure(status: int, message: str, details: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An error response as JSON data, with the code that belongs to the HTTP status.

    Args:
        details: What else is known about the error; left out if there is nothing.
    """
    code = ERROR_CODES.get(status, "ERROR")
    error: dict[str, Any] = {"code": code, "message": message}
    return {"success": False, "error": error | ({"details": dict(details)} if details else {})}


def success(data: object) -> dict[str, Any]:
    """A successful response as JSON data."""
    return {"success": True, "data": data}
