"""Read a CSV file of mailboxes: from its bytes to a table of rows.

Two readers read every file: Polars, and the strict `csv` reader of the standard library, which also counts
lines and cells. Both must find the same values, because a password that a parser silently changes can lock an
account. If the readers disagree, the file is refused.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import NamedTuple

import polars as pl
from polars.exceptions import PolarsError

from schemas.bounds import DEFAULT_BOUNDS, Bounds
from schemas.headers import (
    FIELDS,
    FILLS_GAPS,
    NO_CHOICE,
    SURNAME,
    Columns,
    find_columns,
    is_header,
    normalise,
    unused_secrets,
    without_columns,
)
from schemas.other_formats import text_format
from schemas.plaintext import Plaintext
from schemas.refusals import COLUMNS_REQUIRED, CSV_EMPTY, NO_ROWS, NO_TEXT, TWO_READINGS, Refusal
from schemas.text_file import decode

DELIMITERS = (",", ";", "\t", "|")
ERROR_HEADER = "error"
WIDEST_COMPARED = 1000  # cells of a row
_ALL_ROWS = Bounds(rows=sys.maxsize)  # for a file that `parse` has already accepted


@dataclass(frozen=True, repr=False)
class CsvTable(Plaintext):
    """The rows of one file, unchanged.

    Attributes:
        frame: One row for each record that is not blank: `line` (UInt32, where the record starts; the first
            line is 1), `extra_cells` (Boolean, whether it has more cells than the header) and `email`,
            `password`, `name`, `totpsecret`, `login` (String, never null; a missing column is all "").
        ignored: Headers of the columns that are not used, in the order of the file.
        header_line: The line of the header.
        faults: Line and `RowReason` of each row that fails for the kind of its cells. A CSV has none.
        notes: What was not taken as it is, other than rows.
    """

    frame: pl.DataFrame
    ignored: tuple[str, ...]
    header_line: int = 1
    faults: tuple[tuple[int, str], ...] = ()
    notes: tuple[str, ...] = ()


def parse(
    data: bytes,
    encoding: str | None = None,
    bounds: Bounds = DEFAULT_BOUNDS,
    choice: Mapping[str, str] = NO_CHOICE,
) -> CsvTable | Refusal:
    """Parse a CSV file.

    Args:
        data: The whole file.
        encoding: Name of the text encoding to use instead of UTF-8. A byte order mark takes precedence.
        bounds: How much of the file to read. A file that has more is refused.
        choice: Field → header, where a person has chosen the column.

    Returns:
        The table, or a refusal that says what is wrong and, if possible, on which line.
    """
    text = decode(data, encoding)
    if isinstance(text, Refusal):
        return text
    if foreign := text_format(text):
        return Refusal(f"CSV file is {foreign}")
    first_line, skipped, text = _skip_to_header(text, choice)
    if not text:
        return Refusal(CSV_EMPTY, NO_TEXT)
    try:
        header = _find_header(text, first_line, bounds, choice)
        if header is None:
            return _without_header(text, first_line, bounds, choice)
        if header.columns.fault:
            return header.columns.fault
        table = _read_table(text, first_line, header.delimiter, header.columns, bounds)
    except _TooManyRecordsError:
        return Refusal(bounds.too_many_rows)
    except _RecordError as broken:
        line = first_line + broken.line - 1
        return Refusal(f"Line {line}: {broken.what}", line=line)
    if isinstance(table, Refusal):
        return table
    return replace(table, notes=(*skipped, *unused_secrets(header.columns, header.rows)))


def extract_rows(data: bytes, errors: Mapping[int, str], encoding: str | None = None) -> bytes:
    """Copy some rows of a file and add an `error` column. The other cells are unchanged.

    Args:
        data: A file that `parse` has accepted.
        errors: Line where a row starts → its error. The `error` column comes first; if the file already has
            one from an earlier copy, it is overwritten.
        encoding: The encoding that `parse` was given.

    Returns:
        A CSV in UTF-8 with a byte order mark. `parse` accepts it and ignores the `error` column.
    """
    text = decode(data, encoding)
    assert isinstance(text, str)  # noqa: S101  parse() has already decoded it
    first_line, _, text = _skip_to_header(text)
    found = _find_header(text, first_line, _ALL_ROWS)
    assert found is not None  # noqa: S101  parse() has already found it
    copy = io.StringIO(newline="")
    writer = csv.writer(copy, delimiter=found.delimiter, lineterminator="\r\n")
    records = _records(text, found.delimiter, _ALL_ROWS)
    header = next(records).cells
    names = [normalise(cell) for cell in header]
    at = names.index(ERROR_HEADER) if ERROR_HEADER in names else None

    def with_error(cells: list[str], error: str) -> list[str]:
        if at is None:
            return [error, *cells]
        padded = cells + [""] * (at + 1 - len(cells))
        return [*padded[:at], error, *padded[at + 1 :]]

    writer.writerow(with_error(header, ERROR_HEADER))
    for record in records:
        if error := errors.get(first_line + record.line - 1):
            writer.writerow(with_error(record.cells, error))
    return copy.getvalue().encode("utf-8-sig")


_SEPARATOR_LINE = re.compile(r'[^\S\n]*("?)sep=[,;|\t]\1[^\S\n]*(\n|\Z)', re.IGNORECASE)
TITLE_LINES = 20
HEADER_LOOKED_FOR = 1000  # lines of at most so many characters, to say where it is


def _skip_to_header(text: str, choice: Mapping[str, str] = NO_CHOICE) -> tuple[int, list[str], str]:
    """Skip what stands above the header.

    That is blank lines, Excel's `sep=;`, PowerShell's `#TYPE …`, and a title: other lines are skipped only if
    exactly one of the first 20 is a header.

    Returns:
        The header's line number, a note if lines of text were skipped, and the text from the header.
    """
    start = _first_filled_line(text, 0)
    separator = _SEPARATOR_LINE.match(text, start)
    if separator:
        start = _first_filled_line(text, separator.end())
    headers = [at for at in _line_starts(text, start) if _is_header_line(text, at, choice)]
    notes = []
    if len(headers) == 1 and headers[0] > start:
        first, last = text.count("\n", 0, start) + 1, text.count("\n", 0, headers[0])
        notes = [skipped_note(first, last, last + 1)]
        start = headers[0]
    return text.count("\n", 0, start) + 1, notes, text[start:]


def skipped_note(first: int, last: int, header: int) -> str:
    """A note about the lines above the header."""
    lines = f"Line {first} was" if first == last else f"Lines {first} to {last} were"
    return f"{lines} skipped: the header is on line {header}"


def _line_starts(text: str, start: int, most: int = TITLE_LINES) -> Iterator[int]:
    for _ in range(most):
        if start >= len(text):
            return
        yield start
        start = text.find("\n", start) + 1 or len(text)


def _is_header_line(text: str, start: int, choice: Mapping[str, str], longest: int | None = None) -> bool:
    end = text.find("\n", start)
    line = text[start : end if end >= 0 else None]
    if len(line) > (longest or LONGEST_ROW):
        return False
    return any(is_header(line.replace('"', "").split(delimiter), choice) for delimiter in DELIMITERS)


def _first_filled_line(text: str, at: int) -> int:
    found = re.compile(r"\S").search(text, at)
    return text.rfind("\n", 0, found.start()) + 1 if found else len(text)


class _RecordError(Exception):
    """A record that is not valid CSV. Holds a message and a line number, never content."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line
        self.what = what


class _TooManyRecordsError(Exception):
    """The text has more records than may be read."""


# `csv` ends a value at 131,072 characters. No export has a row this long.
LONGEST_ROW = 1_000_000

BROKEN_QUOTE = (
    "misplaced quotation mark; put the whole value in quotes and double each quotation mark inside it"
)
STRAY_RETURN = "carriage return inside a row; save the file again with standard line endings"
ENDLESS_VALUE = "a value is longer than 131,072 characters; look for a quotation mark that is never closed"
ENDLESS_ROW = (
    f"a row is longer than {LONGEST_ROW:,} characters; look for a quotation mark that is never closed, "
    "or remove columns that you do not need"
)


def _what(error: csv.Error) -> str:
    text = str(error)
    if "new-line character" in text:
        return STRAY_RETURN
    return ENDLESS_VALUE if "field limit" in text else BROKEN_QUOTE


def _well_formed(delimiter: str) -> re.Pattern[str]:
    # `="00123"` is how spreadsheets are told to keep text; in it, quotation marks do not quote.
    value = rf'(?:"(?:[^"]|"")*+"|="[^"{re.escape(delimiter)}\n]*+"|[^"{re.escape(delimiter)}]*+)'
    return re.compile(rf"{value}(?:{re.escape(delimiter)}{value})*+\n?")


_WELL_FORMED = {delimiter: _well_formed(delimiter) for delimiter in DELIMITERS}
_BLANK_LINES = {delimiter: re.compile(rf"[\s{re.escape(delimiter)}]*(?:\n|\Z)") for delimiter in DELIMITERS}


class _Record(NamedTuple):
    """One record of a CSV: the line where it starts (the first is 1), its cells, and its text."""

    line: int
    cells: list[str]
    text: str


def _records(text: str, delimiter: str, bounds: Bounds) -> Iterator[_Record]:
    """Yield every record that is not blank: a spreadsheet can export a million blank lines.

    A quotation mark inside an unquoted value is an error too, although `csv` accepts it. Another program may
    read on to the next quotation mark, several lines below, and in `a, "b"` the marks are probably not part
    of the value.

    Source: RFC 4180, with the delimiters that spreadsheets use.

    Raises:
        _RecordError: If a record is not valid CSV.
        _TooManyRecordsError: If there are more records than a header and the rows that may be read.
    """
    start = end = 0  # of the record that is being read
    line = 1

    def lines() -> Iterator[str]:
        nonlocal end
        while end < len(text):
            begin, end = end, text.find("\n", end) + 1 or len(text)
            if end - start > LONGEST_ROW:
                raise _RecordError(line, ENDLESS_ROW)
            yield text[begin:end]

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    well_formed, blank_lines = _WELL_FORMED[delimiter], _BLANK_LINES[delimiter]
    for number in count():
        blank = blank_lines.match(text, end)
        end = blank.end() if blank else end
        line += text.count("\n", start, end)
        start = end
        if start == len(text):
            return
        if number > bounds.rows:
            raise _TooManyRecordsError
        try:
            cells = next(reader)
        except csv.Error as error:
            raise _RecordError(line, _what(error)) from None
        record = text[start:end]
        if '"' in record and not well_formed.fullmatch(record):
            raise _RecordError(line, BROKEN_QUOTE)
        if _filled(cells):
            yield _Record(line, cells, record)


def _filled(cells: Iterable[str]) -> bool:
    return any(cell and not cell.isspace() for cell in cells)


class _Header(NamedTuple):
    delimiter: str
    columns: Columns
    rows: _Rows


def _find_header(
    text: str, first_line: int, bounds: Bounds, choice: Mapping[str, str] = NO_CHOICE
) -> _Header | None:
    """Find the delimiter for which the header matches the most columns; None if none matches."""
    found: list[_Header] = []
    for delimiter in DELIMITERS:
        records = _records(text, delimiter, bounds)
        try:
            header = next(records, None)
        except (_RecordError, _TooManyRecordsError):
            continue
        if header is None:
            continue
        rows = _Rows(records, first_line)
        columns = find_columns(header.cells, rows, bounds, choice)
        if columns is not None:
            found.append(_Header(delimiter, columns, rows))
    return max(found, key=lambda header: len(header.columns.position), default=None)


class _Rows:
    """The rows behind a header with their lines, read when they are asked for."""

    def __init__(self, records: Iterator[_Record], first_line: int) -> None:
        self._records = records
        self._first_line = first_line
        self._rows: list[tuple[int, Sequence[str]]] | None = None

    def __call__(self) -> list[tuple[int, Sequence[str]]]:
        if self._rows is None:
            self._rows = [(self._first_line + record.line - 1, record.cells) for record in self._records]
        return self._rows


def _without_header(text: str, line: int, bounds: Bounds, choice: Mapping[str, str]) -> Refusal:
    """The contract's message for a file without a matching header: empty, or without the columns."""
    first_line = text[: text.find("\n") + 1 or None]
    delimiter = max(DELIMITERS, key=first_line.count)
    records = list(islice(_records(text, delimiter, bounds), 2))
    if len(records) < 2 and not any("@" in cell for record in records for cell in record.cells):
        return Refusal(CSV_EMPTY, NO_ROWS)
    starts = enumerate(_line_starts(text, 0, HEADER_LOOKED_FOR))
    headers = [line + n for n, at in starts if _is_header_line(text, at, choice, HEADER_LOOKED_FOR)]
    if refusal := header_not_first(headers, line):
        return refusal
    one_column = all(
        len(record.cells) == 1 and _OTHER_SEPARATOR.search(record.cells[0].strip()) for record in records
    )
    return without_columns(records[0].cells, choice, line, one_column=one_column)


def header_not_first(headers: Sequence[int], first: int) -> Refusal | None:
    """The refusal of a file whose header is not found because there are two, or too much stands above it.

    Args:
        headers: The lines that are a header.
        first: The first line of the file that is not blank.
    """
    if len(headers) > 1:
        what = f"lines {headers[0]} and {headers[1]} are both a header; keep one, as the first line"
    elif headers and headers[0] > first:
        what = f"the header is on line {headers[0]}; delete the lines above it"
    else:
        return None
    return Refusal(COLUMNS_REQUIRED, what, line=headers[0])


_OTHER_SEPARATOR = re.compile(r"[:\s/，،；]")
ALL_IN_ONE = (
    "Every row is in one pair of quotation marks: in Excel, choose Data → Text to Columns, then save the "
    "file as “CSV UTF-8”"
)
OTHER_DELIMITER = "The rows are separated by another character than the header: use the same one in both"


def _read_table(
    text: str, first_line: int, delimiter: str, columns: Columns, bounds: Bounds
) -> CsvTable | Refusal:
    widest, split = 0, False
    texts: list[str] = []
    lines: list[int] = []
    extra: list[bool] = []
    expected: dict[str, list[str]] = {field: [] for field in columns.read}
    others = {*DELIMITERS} - {delimiter}  # what separates the cells of every row, if the delimiter does not
    for line, cells, record in _records(text, delimiter, bounds):
        widest = max(widest, len(cells))
        texts.append(record)
        lines.append(first_line + line - 1)
        extra.append(_filled(cells[columns.width :]))
        for field, at in columns.read.items():
            expected[field].append(cells[at] if at < len(cells) else "")
        if len(lines) == 1:
            continue  # the header itself
        split = split or _filled(cells[1:]) or delimiter not in cells[0]
        others = set() if _filled(cells[1:]) else {other for other in others if other in cells[0]}
    if len(lines) < 2:  # the header only
        return Refusal(CSV_EMPTY, NO_ROWS)
    if not split:
        return Refusal(ALL_IN_ONE)
    if others:
        return Refusal(OTHER_DELIMITER)

    values = _read_with_polars("".join(texts), delimiter, columns, widest)
    if values is None or values.height != len(lines):
        return Refusal(TWO_READINGS)
    if any(values[field].to_list() != cells for field, cells in expected.items()):
        return Refusal(TWO_READINGS)
    frame = pl.DataFrame(
        {
            "line": pl.Series(lines, dtype=pl.UInt32),
            "extra_cells": pl.Series(extra, dtype=pl.Boolean),
            **{field: values[field] for field in columns.read},
        }
    )
    return CsvTable(table_frame(frame).slice(1), columns.ignored, first_line)


def table_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """Join the halves of a name, fill gaps from columns that agree, and add the fields that have no column.

    Args:
        frame: `line`, `extra_cells`, and the fields of `Columns.read`.

    Returns:
        The frame of a `CsvTable`.
    """
    if SURNAME in frame.columns:
        halves = (pl.col(half).str.strip_chars() for half in ("name", SURNAME))
        frame = frame.with_columns(pl.concat_str(halves, separator=" ").str.strip_chars().alias("name"))
    for name in frame.columns:
        held, fills_gaps, _ = name.partition(FILLS_GAPS)
        if fills_gaps:
            blank = pl.col(held).str.strip_chars() == ""
            frame = frame.with_columns(pl.when(blank).then(pl.col(name)).otherwise(pl.col(held)).alias(held))
    missing = [pl.lit("").alias(field) for field in FIELDS if field not in frame.columns]
    return frame.with_columns(missing).select("line", "extra_cells", *FIELDS)


def _read_with_polars(text: str, delimiter: str, columns: Columns, widest: int) -> pl.DataFrame | None:
    """Read the used columns of every record; None if Polars finds an error."""
    # This header has unique names and is as wide as the widest row, so that a quoted line break in an extra
    # cell does not start a new record. Wider rows are row errors anyway.
    width = max(columns.width, min(widest, WIDEST_COMPARED))
    header = delimiter.join(f"c{at}" for at in range(width))
    try:
        frame = pl.read_csv(
            f"{header}\n{text}".encode(),
            columns=[f"c{at}" for at in sorted(columns.read.values())],
            separator=delimiter,
            infer_schema=False,
            truncate_ragged_lines=True,
            glob=False,
        )
    except PolarsError:  # its text quotes cells
        return None
    return frame.select(pl.col(f"c{at}").fill_null("").alias(field) for field, at in columns.read.items())
