"""Read a small JSON body, after the key is checked and without quoting it in errors."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from schemas.responses import BODY_TOO_LARGE

MOST_BYTES = 64 * 1024
Body = TypeVar("Body", bound=BaseModel)


async def read_json(request: Request, model: type[Body]) -> Body:
    """Read the body of a request.

    FastAPI would read it before it checks the key, at any size, and its text could end in a log.

    Raises:
        HTTPException: 400 if it is not JSON, 413 if it is larger than 64 KiB.
        RequestValidationError: If it does not fit the model.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(400, "Content-Type: send application/json")
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MOST_BYTES:
            raise HTTPException(413, BODY_TOO_LARGE)
    try:
        return model.model_validate_json(bytes(data))
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
    if any(fault["type"] == "json_invalid" for fault in faults):
        raise HTTPException(400, "The body is not valid JSON")
    raise RequestValidationError([fault if fault["loc"] else {**fault, "loc": ("body",)} for fault in faults])


def documented_body(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """The `openapi_extra` of an operation that reads this model."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}
