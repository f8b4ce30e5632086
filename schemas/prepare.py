"""From the bytes of a file to the rows that become mailboxes: read, validate, dedupe.

Every way in calls this one function: command line, flow, HTTP API and tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from schemas.csv_file import parse
from schemas.plaintext import Plaintext
from schemas.refusals import Refusal
from schemas.rows import Duplicate, RowError, dedupe, validate


@dataclass(frozen=True, repr=False)
class Prepared(Plaintext):
    """What a file comes to before anything is stored. Each row is in `kept`, `duplicates` or `errors`.

    Attributes:
        kept: `line` (UInt32), `email`, `email_key`, `password` (String), `name`, `totp` (String, nullable),
            `warning` (String, "" for none); at most 500 rows, in the file's order.
        ignored: Headers of the columns that are not used.
    """

    kept: pl.DataFrame
    duplicates: tuple[Duplicate, ...]
    errors: tuple[RowError, ...]
    ignored: tuple[str, ...]


def prepare_rows(data: bytes | Refusal, encoding: str | None = None) -> Prepared | Refusal:
    """Read, validate and dedupe the rows of a file. A file that was refused already stays refused.

    Args:
        data: The whole file.
        encoding: Overrides UTF-8 for a file without a byte order mark.
    """
    table = data if isinstance(data, Refusal) else parse(data, encoding)
    if isinstance(table, Refusal):
        return table
    validated = validate(table)
    deduped = dedupe(validated.valid)
    if isinstance(deduped, Refusal):
        return deduped
    return Prepared(deduped.kept, deduped.duplicates, validated.errors, table.ignored)
