"""The parameters of an import as the Prefect UI asks for them: with titles, and checked before a run starts.

What may be left out is a text box, and an empty one means None; of a type with `| None` the UI would first
ask whether it is to be “str” or “None”.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema

from schemas.labels import LONGEST_LABEL, Label

_EMPTY_IS_NONE = BeforeValidator(lambda value: value or None)
_TEXT = WithJsonSchema({"type": "string"})
_LABEL_OR_EMPTY = rf"^(\w[\w .@+-]{{0,{LONGEST_LABEL - 1}}})?$"

CsvFile: TypeAlias = Annotated[Path, Field(json_schema_extra={"title": "CSV file", "minLength": 1})]
Tag: TypeAlias = Annotated[
    Label | None,
    _EMPTY_IS_NONE,
    WithJsonSchema({"type": "string", "pattern": _LABEL_OR_EMPTY}),
    Field(json_schema_extra={"title": "Tag", "default": ""}),
]
Workspace: TypeAlias = Annotated[Label, Field(json_schema_extra={"title": "Workspace"})]
TryLogins: TypeAlias = Annotated[bool, Field(json_schema_extra={"title": "Test the logins"})]
Encoding: TypeAlias = Annotated[
    str | None,
    _EMPTY_IS_NONE,
    _TEXT,
    Field(json_schema_extra={"title": "Text encoding", "default": ""}),
]
Report: TypeAlias = Annotated[
    Path | None, _EMPTY_IS_NONE, _TEXT, Field(json_schema_extra={"title": "Report", "default": ""})
]
