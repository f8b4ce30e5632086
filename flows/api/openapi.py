"""Parameters and bodies in the OpenAPI description."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo
from pydantic.json_schema import models_json_schema
from pydantic_core import PydanticCustomError
from starlette.convertors import Convertor, register_url_convertor

from schemas.headers import FIELDS
from schemas.labels import LONGEST_LABEL
from schemas.standing import Needs

LARGEST_ID = 10**18 - 1  # the largest number of 18 digits; the database could store a little more
LABEL_IN_ECMASCRIPT = r"^[\p{L}\p{N}_][\p{L}\p{N}_ .@+\-]*$"  # \w is ASCII only in ECMAScript

ID_PATTERN = "[1-9][0-9]{0,17}"


class IdConvertor(Convertor[int]):
    """`{name:id}` in the path of a route: an id in its only spelling, so that each URL has one form.

    `int()` would also read 1_0, +1 and digits of other scripts. Any other text is a path that does not exist.
    """

    regex = f"{ID_PATTERN}(?![^/])"  # up to the next slash or the end; `$` alone would allow a line break

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("id", IdConvertor())

Id = Annotated[int, Path(ge=1, le=LARGEST_ID, json_schema_extra={"pattern": f"^{ID_PATTERN}$"})]


def _digits(value: Any, info: ValidationInfo) -> Any:
    if info.mode == "json" and isinstance(value, str | bool):
        raise PydanticCustomError("digits", "Input should be a whole number")
    if isinstance(value, str) and not re.fullmatch("[0-9]+", value):
        raise PydanticCustomError("digits", "Input should be a whole number, written in digits only")
    return value


DIGITS = BeforeValidator(_digits)


class Paging(BaseModel, extra="forbid"):
    """Which page to list. Unknown parameters are an error, because a misspelt filter would have no effect."""

    cursor: Annotated[int, Field(ge=0, le=LARGEST_ID), DIGITS] = Field(
        0, description="`next_cursor` of the previous page."
    )
    limit: Annotated[int, Field(ge=1, le=200), DIGITS] = 50


UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "The CSV file or .xlsx.",
                        },
                        "tag": {
                            "type": "string",
                            "description": "Label for the mailboxes of this import.",
                            "pattern": LABEL_IN_ECMASCRIPT,
                            "maxLength": LONGEST_LABEL,
                        },
                        "encoding": {
                            "type": "string",
                            "description": "Text encoding of a file that is not UTF-8, such as cp1252.",
                        },
                        "map": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "The column of a field: FIELD=HEADER, such as email=Login. "
                            f"FIELD is one of {', '.join(FIELDS)}. Repeat it for each field.",
                        },
                        "needs": {
                            "type": "string",
                            "enum": list(Needs),
                            "description": "What the mailboxes are needed for. Only that is tested.",
                        },
                        "update": {
                            "type": "string",
                            "enum": ["true", "false"],
                            "description": "`true` gives mailboxes that are stored their new passwords.",
                        },
                        "trim": {
                            "type": "string",
                            "enum": ["true", "false"],
                            "description": "`true` removes spaces around passwords.",
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


def schemas_of(models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """The schemas of request bodies, as components of an OpenAPI document."""
    template = "#/components/schemas/{model}"
    _, found = models_json_schema([(model, "validation") for model in models], ref_template=template)
    return dict(found["$defs"])


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
