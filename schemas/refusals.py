"""Refusals of a whole file, with the contract's messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schemas.envelope import failure

CSV_REQUIRED = "CSV file is required"
CSV_EMPTY = "CSV file is empty"
NAME_NOT_UTF8 = "The file name is not UTF-8: rename the file"
NO_FILE = "it is a folder, a device or a pipe, not a file"
COLUMNS_REQUIRED = "CSV must have email and password columns"
TWO_READINGS = "CSV file can be read in more than one way: save it again as “CSV UTF-8”"


@dataclass(frozen=True)
class Refusal:
    """Why a whole file is refused. A refused file changes nothing.

    Attributes:
        message: The message of the contract. It never quotes a cell, so it is safe to show anywhere.
        detail: What to look at, shown on the terminal but never in the envelope.
    """

    message: str
    detail: str = ""

    def envelope(self) -> dict[str, Any]:
        """The refusal as the error response of the import API."""
        return failure(400, self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.detail})" if self.detail else self.message


def too_large(limit: int) -> Refusal:
    """The refusal of a file with more than `limit` bytes."""
    return Refusal(f"CSV file is larger than {limit:,} bytes: split it into files of at most 500 mailboxes")
