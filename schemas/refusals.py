"""Refusals of a whole file, with the contract's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.envelope import failure

CSV_REQUIRED = "CSV file is required"
CSV_EMPTY = "CSV file is empty"
NO_TEXT = "there is no text in it; export it again"
NO_ROWS = "there is no row below its first line; add one for each mailbox"
NAME_NOT_UTF8 = "The file name is not UTF-8: rename the file"
NO_FILE = "it is a folder, a device or a pipe, not a file"
COLUMNS_REQUIRED = "CSV must have email and password columns"
TWO_READINGS = "CSV file can be read in more than one way: save it again as “CSV UTF-8”"


@dataclass(frozen=True)
class Refusal:
    """Why a whole file is refused. A refused file changes nothing.

    Nothing here quotes a cell that may be an address or a password, so all of it is safe to show anywhere.

    Attributes:
        message: The message of the contract.
        detail: What to look at, as a phrase: the terminal's second line.
        line: The line of the file that is at fault, if there is one.
        missing: The fields that have no column.
        headers: The headers that were found, if a header was found.
        known: Field → the names that are recognised, for the fields that are missing.
    """

    message: str
    detail: str = ""
    line: int | None = None
    missing: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    known: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def envelope(self) -> dict[str, Any]:
        """The refusal as the error response of the import API; `details` only where there are some."""
        details = {
            "explanation": sentence(self.detail),
            "line": self.line,
            "missing": list(self.missing),
            "headers": list(self.headers),
            "known": {name: list(headers) for name, headers in self.known.items()},
        }
        return failure(400, self.message, {name: value for name, value in details.items() if value})

    def __str__(self) -> str:
        return f"{self.message} ({self.detail})" if self.detail else self.message


def sentence(phrase: str) -> str:
    """A phrase as a sentence; "" stays ""."""
    return f"{phrase[0].upper()}{phrase[1:]}." if phrase else ""


def too_large(limit: int) -> Refusal:
    """The refusal of a file with more than `limit` bytes."""
    return Refusal(f"CSV file is larger than {limit:,} bytes: split it into files of at most 500 mailboxes")
