"""Turn the bytes of a file into the rows that become mailboxes: parse, validate, dedupe.

The command line, the flow, the HTTP API and the tests all call the same function.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import polars as pl

from schemas import csv_file, workbook
from schemas.bounds import DEFAULT_BOUNDS, Bounds
from schemas.csv_file import CsvTable
from schemas.plaintext import Plaintext
from schemas.reading import AS_IT_IS, Reading
from schemas.refusals import Refusal
from schemas.row_reasons import RowError
from schemas.rows import Duplicate, dedupe, validate
from schemas.workbook import is_workbook


@dataclass(frozen=True, repr=False)
class Prepared(Plaintext):
    """The rows of a file, ready to store. Each row is in `kept`, `duplicates` or `errors`.

    Attributes:
        kept: `line` (UInt32), `email`, `email_key`, `password` (String), `name`, `totp`, `login` (String,
            nullable), `warning` and `password_warning` (String, "" for none); at most 500 rows, in the order
            of the file.
        duplicates: Valid rows whose mailbox appears earlier in the file.
        errors: One for each row that failed.
        ignored: Headers of the columns that are not used.
        header_line: The line of the header.
        notes: What was not taken as it is, other than single rows.
    """

    kept: pl.DataFrame
    duplicates: tuple[Duplicate, ...]
    errors: tuple[RowError, ...]
    ignored: tuple[str, ...]
    header_line: int = 1
    notes: tuple[str, ...] = ()


def prepare_rows(
    data: bytes | Refusal,
    reading: Reading = AS_IT_IS,
    bounds: Bounds = DEFAULT_BOUNDS,
    served: Collection[str] = (),
) -> Prepared | Refusal:
    """Parse, validate and dedupe the rows of a file.

    Args:
        data: The whole file. A refusal is returned unchanged.
        reading: How to read it where it leaves that open.
        bounds: How much of the file to read. A file that has more is refused.
        served: Domains with their own servers in the settings, which may include `*`.

    Returns:
        The prepared rows, or the refusal of the file.
    """
    table = data if isinstance(data, Refusal) else _parse(data, reading, bounds)
    if isinstance(table, Refusal):
        return table
    validated = validate(table, served, trim=reading.trim)
    deduped = dedupe(validated.valid)
    if isinstance(deduped, Refusal):
        return deduped
    return Prepared(
        deduped.kept,
        deduped.duplicates,
        validated.errors,
        table.ignored,
        table.header_line,
        (*table.notes, *validated.notes),
    )


def _parse(data: bytes, reading: Reading, bounds: Bounds) -> CsvTable | Refusal:
    if is_workbook(data):
        return workbook.parse(data, bounds, reading.columns)
    return csv_file.parse(data, reading.encoding, bounds, reading.columns)


def extract_rows(data: bytes, errors: Mapping[int, str], encoding: str | None = None) -> bytes:
    """Copy some rows of a file into a CSV with an `error` column.

    Args:
        data: A file that `prepare_rows` has accepted.
        errors: Line where a row starts, or row of the sheet → its error.
        encoding: The encoding that `prepare_rows` was given.

    Returns:
        A CSV in UTF-8 with a byte order mark. `prepare_rows` accepts it and ignores the `error` column.
    """
    if is_workbook(data):
        return workbook.extract_rows(data, errors)
    return csv_file.extract_rows(data, errors, encoding)
