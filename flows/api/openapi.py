"""Parameters and bodies in the OpenAPI description."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, Field

from schemas.labels import LONGEST_LABEL

LARGEST_ID = 2**63 - 1
LABEL_IN_ECMASCRIPT = r"^[\p{L}\p{N}_][\p{L}\p{N}_ .@+\-]*$"  # \w is ASCII only in ECMAScript

Id = Annotated[int, Path(ge=1, le=LARGEST_ID)]


class Paging(BaseModel, extra="forbid"):
    """Which page to list. Unknown parameters are an error, because a misspelt filter would have no effect."""

    cursor: int = Field(0, ge=0, le=LARGEST_ID, description="`next_cursor` of the previous page.")
    limit: int = Field(50, ge=1, le=200)


UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "The CSV file."},
                        "tag": {
                            "type": "string",
                            "description": "Label for the mailboxes of this import.",
                            "pattern": LABEL_IN_ECMASCRIPT,
                            "maxLength": LONGEST_LABEL,
                        },
                    },
                },
                "example": {
                    "file": "email,password\nann@contoso.com,abcd efgh ijkl mnop\n",
                    "tag": "outreach",
                },
            }
        },
    }
}


def tidied(document: dict[str, Any]) -> dict[str, Any]:
    """Remove from an OpenAPI document what FastAPI adds but this API does not do.

    This is FastAPI's own response to an invalid parameter, and null for optional parameters, which a URL
    cannot express.
    """
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            for parameter in operation.get("parameters", ()):
                for choice in parameter["schema"].pop("anyOf", ()):
                    if choice != {"type": "null"}:
                        parameter["schema"] |= choice
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    return document
