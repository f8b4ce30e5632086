"""A CSV file of mailboxes as bytes, and the table that lies in it.

Two readers look at every file. Polars reads it; the standard library's strict `csv` reader counts lines and
cells and has to see the same values, because a password that a parser altered in silence is found out as a
locked account. Where the two disagree the file is refused with the line number: nothing is guessed.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import polars as pl
from polars.exceptions import PolarsError

from schemas.headers import FIELDS, Columns, find_columns

CSV_REQUIRED = "CSV file is required"
CSV_EMPTY = "CSV file is empty"
COLUMNS_REQUIRED = "CSV must have email and password columns"

DELIMITERS = (",", ";", "\t", "|")

BYTE_ORDER_MARKS = (  # the UTF-32 mark begins with the UTF-16 one, so the longer ones come first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

FOREIGN_FORMATS = (
    (b"PK\x03\x04", "an Excel workbook or a ZIP archive; in Excel, save it as “CSV UTF-8”"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; in Excel, save it as “CSV UTF-8”"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"%PDF", "a PDF document; save the table as CSV"),
)


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


class Plaintext:
    """Base of everything that holds unsealed secrets: it cannot be printed, logged or persisted by accident."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: not shown>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds passwords and is never pickled")


@dataclass(frozen=True, repr=False)
class CsvTable(Plaintext):
    """The rows of one file, as they came.

    Attributes:
        frame: One row per record that is not blank: `line` (UInt32, where the record starts, the first line
            is 1), `extra_cells` (Boolean, more cells than the header) and `email`, `password`, `name`,
            `totpsecret` (String, never null; an absent column is all "").
        ignored: Headers of the columns that were not used, in the file's order.
    """

    frame: pl.DataFrame
    ignored: tuple[str, ...]


def read_bytes(path: Path, limit: int) -> bytes | Refusal:
    """Read a regular file of at most `limit` bytes; anything else is a refusal."""
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return Refusal(CSV_REQUIRED, "there is no file of that name")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        return Refusal(CSV_REQUIRED, f"it cannot be opened: {reason or 'not a file name'}")
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return Refusal(CSV_REQUIRED, "that is a folder, a device or a pipe and no file")
        if status.st_size > limit:
            return too_large(limit)
        data = file.read(limit + 1)  # the file may have grown since
    return too_large(limit) if len(data) > limit else data


def too_large(limit: int) -> Refusal:
    return Refusal(f"CSV file is larger than {limit:,} bytes: split it into files of at most 500 mailboxes")


def parse(data: bytes, encoding: str | None = None) -> CsvTable | Refusal:
    """Turn the bytes of a CSV file into its table.

    Args:
        data: The whole file.
        encoding: Overrides UTF-8 for a file without a byte order mark.

    Returns:
        The table, or the refusal that names the fault and, where there is one, its line.
    """
    text = decode(data, encoding)
    if isinstance(text, Refusal):
        return text
    first_line, text = _skip_to_header(text)
    if not text:
        return Refusal(CSV_EMPTY)
    header = _find_header(text)
    try:
        if header is None:
            one_line = len(list(_records(text, ","))) < 2
            return Refusal(CSV_EMPTY if one_line else COLUMNS_REQUIRED)
        delimiter, columns = header
        if columns.fault:
            return Refusal(columns.fault)
        return _read_table(text, first_line, delimiter, columns)
    except _BrokenRecord as broken:
        return Refusal(f"Line {first_line + broken.line - 1}: {broken.what}")


def decode(data: bytes, encoding: str | None = None) -> str | Refusal:
    """Decode strictly, by byte order mark, `encoding` or UTF-8, and reduce line ends to LF."""
    for magic, what in FOREIGN_FORMATS:
        if data.startswith(magic):
            return Refusal(f"CSV file is {what}")
    marked = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), None)
    codec = marked or encoding or "utf-8"
    try:
        text = data.decode(codec)
    except LookupError:
        return Refusal(f"There is no text encoding named {encoding!r}: try cp1252 or utf-16")
    except UnicodeError:
        return Refusal(_not_text(data, codec))
    if "\0" in text:
        return Refusal(
            "CSV file is not text: it contains NUL bytes; save it as “CSV UTF-8”, "
            "or name its encoding (--encoding utf-16-le is the usual one)"
        )
    if "\n" not in text:
        return text.replace("\r", "\n")  # the line ends of old Macs
    return re.sub(r"\r+\n", "\n", text)


def _not_text(data: bytes, codec: str) -> str:
    """Say where the text stops being `codec`, without quoting it."""
    valid = data.decode(codec, errors="ignore") if codec.startswith("utf-16") else ""
    line = valid.count("\n") + 1
    try:
        data.decode(codec)
    except UnicodeDecodeError as error:
        if not codec.startswith(("utf-16", "utf-32")):
            line = data[: error.start].count(b"\n") + 1
    name = codec.removesuffix("-sig").upper()
    return (
        f"Line {line}: the file is not valid {name} text; save it as “CSV UTF-8”, or name its encoding "
        "(--encoding cp1252 is the usual one for Western Windows)"
    )


def _skip_to_header(text: str) -> tuple[int, str]:
    """Drop blank lines and Excel's `sep=;` before the header; returns the header's line number and the rest."""
    line = 1
    while text:
        head, _, rest = text.partition("\n")
        if head.strip() and not re.fullmatch(r"sep=[,;|\t]", head.strip(), re.IGNORECASE):
            return line, text
        text, line = rest, line + 1
    return line, ""


class _BrokenRecord(Exception):
    """A record that is no CSV. Carries a sentence and a line, never content."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line
        self.what = what


BROKEN_QUOTE = (
    "a quotation mark opens or closes in the wrong place; put the whole value in quotes "
    "and double each quotation mark inside it"
)
STRAY_RETURN = "a carriage return stands inside a row; save the file again with ordinary line ends"


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) for every record that is not blank, strictly read.

    Source: RFC 4180, with the delimiters that spreadsheets use.
    """
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = STRAY_RETURN if "new-line character" in str(error) else BROKEN_QUOTE
            raise _BrokenRecord(line, what) from None
        if not _blank(cells):
            yield line, cells
        line = reader.line_num + 1


def _blank(cells: Iterable[str | None]) -> bool:
    return not any(cell and not cell.isspace() for cell in cells)


def _find_header(text: str) -> tuple[str, Columns] | None:
    """Find the delimiter that makes the header match, the one that matches most columns first."""
    found: list[tuple[int, str, Columns]] = []
    for delimiter in DELIMITERS:
        records = _records(text, delimiter)
        try:
            _, cells = next(records)
            columns = find_columns(cells, lambda at, rest=records: [r[at] for _, r in rest if at < len(r)])
        except _BrokenRecord:
            continue
        if columns is not None:
            found.append((len(columns.position), delimiter, columns))
    if not found:
        return None
    _, delimiter, columns = max(found, key=lambda candidate: candidate[0])
    return delimiter, columns


def _read_table(text: str, first_line: int, delimiter: str, columns: Columns) -> CsvTable | Refusal:
    records = _records(text, delimiter)
    next(records)  # the header
    lines: list[int] = []
    widths: list[int] = []
    expected: dict[str, list[str]] = {field: [] for field in columns.position}
    for line, record in records:
        lines.append(line)
        widths.append(len(record))
        for field, at in columns.position.items():
            expected[field].append(record[at] if at < len(record) else "")
    if not lines:
        return Refusal(CSV_EMPTY)

    values = _polars_values(text, delimiter, columns, width=max(columns.width, *widths))
    for field, cells in expected.items():
        if values[field] != cells:
            pairs = zip(lines, values[field], cells, strict=False)
            raise _BrokenRecord(next((line for line, a, b in pairs if a != b), lines[-1]), BROKEN_QUOTE)
    frame = pl.DataFrame(
        {
            "line": pl.Series([first_line + line - 1 for line in lines], dtype=pl.UInt32),
            "extra_cells": pl.Series([width > columns.width for width in widths], dtype=pl.Boolean),
        }
    ).with_columns(
        pl.Series(field, values[field], dtype=pl.String) if field in values else pl.lit("").alias(field)
        for field in FIELDS
    )
    return CsvTable(frame, columns.ignored)


# Wider rows are errors already (more cells than the header); the bound keeps one hostile row from
# making a frame of a million columns.
MOST_COLUMNS = 256


def _polars_values(text: str, delimiter: str, columns: Columns, width: int) -> dict[str, list[str]]:
    """Read the file with Polars; returns the used columns of every row that is not blank."""
    width = max(columns.width, min(width, MOST_COLUMNS))
    # A header of our own: as wide as the widest row, so that no cell is cut, and without double names.
    header = delimiter.join(f"c{at}" for at in range(width))
    try:
        frame = pl.read_csv(
            f"{header}\n{text}".encode(),
            separator=delimiter,
            infer_schema=False,
            truncate_ragged_lines=True,
            glob=False,
        )
    except PolarsError:  # its text quotes cells
        raise _BrokenRecord(_first_unreadable_line(text, delimiter), BROKEN_QUOTE) from None
    blank = pl.all_horizontal(pl.all().fill_null("").str.strip_chars() == "")
    frame = frame.filter(~blank).slice(1)  # the file's own header
    return {
        field: frame[f"c{at}"].fill_null("").to_list() if f"c{at}" in frame.columns else []
        for field, at in columns.position.items()
    }


def _first_unreadable_line(text: str, delimiter: str) -> int:
    """Find the first record that Polars cannot read by itself (an unquoted value with one quotation mark)."""
    lines = text.split("\n")
    starts = [line for line, _ in _records(text, delimiter)]
    for start, end in zip(starts, [*starts[1:], len(lines) + 1], strict=True):
        record = "\n".join(lines[start - 1 : end - 1])
        try:
            pl.read_csv(
                record.encode(), separator=delimiter, infer_schema=False, has_header=False, glob=False
            )
        except PolarsError:
            return start
    return starts[0]
