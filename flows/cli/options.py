"""Options that several commands share, with their checks and help."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from cyclopts import Parameter

from schemas.labels import LABEL_RULE, is_label

LARGEST = 2**62  # so that one more still fits into a database column


def _check_label(_type: object, text: str | None) -> None:
    if text is not None and not is_label(text):
        raise ValueError(f"{LABEL_RULE[0].upper()}{LABEL_RULE[1:]}.")


def _check_number(_type: object, number: int | None) -> None:
    if number is not None and not 0 < number <= LARGEST:
        raise ValueError("It must be a positive integer.")


LABEL = Parameter(validator=_check_label)
POSITIVE = Parameter(validator=_check_number)

Workspace: TypeAlias = Annotated[
    str, LABEL, Parameter(name="--workspace", help="The workspace that the mailboxes belong to.")
]
Json: TypeAlias = Annotated[bool, Parameter(name="--json", help="Print JSON.")]
Csv: TypeAlias = Annotated[bool, Parameter(name="--csv", help="Print CSV.")]
Limit: TypeAlias = Annotated[int, POSITIVE, Parameter(name="--limit", help="Maximum rows to list.")]
ImportId: TypeAlias = Annotated[
    int, POSITIVE, Parameter(name="ID", help="The import's number; `imports list` shows it.")
]
Email: TypeAlias = Annotated[str, Parameter(name="EMAIL", help="The address of the mailbox.")]
Verbose: TypeAlias = Annotated[bool, Parameter(name="--verbose", help="Show Prefect's own log lines too.")]
