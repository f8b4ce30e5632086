"""How much of a file is read, and the refusals of a file that has more."""

from __future__ import annotations

import sys
from dataclasses import dataclass

MAX_MAILBOXES = 500  # of one import
# Column → the most characters of a cell.
LONGEST = {"email": 254, "password": 256, "name": 200, "totpsecret": 512, "login": 254}


@dataclass(frozen=True)
class Bounds:
    """How much of a file is read. What lies beyond is not parsed.

    Attributes:
        rows: Maximum number of rows below the header.
        columns: Maximum number of columns.
    """

    rows: int = 10_000
    columns: int = 100

    @property
    def too_many_rows(self) -> str:
        """The message of the refusal."""
        return f"CSV file has more than {self.rows:,} rows: split it into files of at most 500 mailboxes"

    @property
    def too_many_columns(self) -> str:
        """The message of the refusal."""
        return f"CSV file has more than {self.columns:,} columns: remove the ones you do not need"


DEFAULT_BOUNDS = Bounds()
UNBOUNDED = Bounds(rows=sys.maxsize, columns=sys.maxsize)
