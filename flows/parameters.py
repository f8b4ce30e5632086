"""The parameters of an import as the Prefect UI shows them: with titles, and checked before a run starts.

An optional parameter is a text box, and an empty one means None. For a type with `| None` the UI would first
ask you to choose between “str” and “None”.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema

from schemas.labels import LONGEST_LABEL, Label
from schemas.standing import Needs

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
Columns: TypeAlias = Annotated[
    tuple[str, ...], Field(json_schema_extra={"title": "Columns, each FIELD=HEADER", "default": []})
]
NeededFor: TypeAlias = Annotated[
    Needs | None,
    _EMPTY_IS_NONE,
    WithJsonSchema({"type": "string", "enum": ["", *Needs]}),
    Field(json_schema_extra={"title": "Needed for", "default": ""}),
]
Update: TypeAlias = Annotated[bool, Field(json_schema_extra={"title": "Replace stored passwords"})]
Trim: TypeAlias = Annotated[bool, Field(json_schema_extra={"title": "Remove spaces around passwords"})]
Report: TypeAlias = Annotated[
    Path | None, _EMPTY_IS_NONE, _TEXT, Field(json_schema_extra={"title": "Report", "default": ""})
]
