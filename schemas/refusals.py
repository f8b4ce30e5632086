"""Why a whole file is refused, and the contract's messages for it."""

from __future__ import annotations

from dataclasses import dataclass

CSV_REQUIRED = "CSV file is required"
CSV_EMPTY = "CSV file is empty"
NAME_NOT_UTF8 = "The file's name is not UTF-8: rename the file"
NO_FILE = "that is a folder, a device or a pipe and no file"
COLUMNS_REQUIRED = "CSV must have email and password columns"
TWO_READINGS = "CSV file can be read in more than one way: save it again as “CSV UTF-8”"


@dataclass(frozen=True)
class Refusal:
    """Why a whole file was turned away; nothing was changed by it.

    Attributes:
        message: The contract's sentence, safe to show anywhere: it never quotes a cell.
        detail: What to look at, for the person at the terminal; never part of the envelope.
    """

    message: str
    detail: str = ""

    def envelope(self) -> dict[str, object]:
        return {"success": False, "error": {"code": "VALIDATION_ERROR", "message": self.message}}

    def __str__(self) -> str:
        return f"{self.message} ({self.detail})" if self.detail else self.message


def too_large(limit: int) -> Refusal:
    return Refusal(f"CSV file is larger than {limit:,} bytes: split it into files of at most 500 mailboxes")
