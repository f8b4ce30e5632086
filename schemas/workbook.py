"""Read an Excel workbook (.xlsx) of mailboxes: from its bytes to the same table of rows as a CSV file.

Two readers read every sheet: `sheet_xml`, which also tells text from numbers and formulas, and calamine. Both
must find the same texts, because a password that a parser silently changes can lock an account. If the
readers disagree, the file is refused. `sheet_xml` comes first: calamine ends the process when a sheet needs
too much memory.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import polars as pl
from python_calamine import CalamineError, CalamineWorkbook

from schemas.bounds import DEFAULT_BOUNDS, UNBOUNDED, Bounds
from schemas.csv_file import (
    ERROR_HEADER,
    HEADER_LOOKED_FOR,
    TITLE_LINES,
    CsvTable,
    header_not_first,
    skipped_note,
    table_frame,
)
from schemas.headers import (
    FIELD_OF_HEADER,
    FILLS_GAPS,
    NO_CHOICE,
    SURNAME,
    Columns,
    Rows,
    find_columns,
    is_header,
    normalise,
    shown,
    unused_secrets,
    without_columns,
)
from schemas.labels import counted
from schemas.package import DAMAGED, OLE_MAGIC, TOO_MUCH, ZIP_MAGIC, Package, WorkbookError, old_office
from schemas.plaintext import Plaintext
from schemas.refusals import COLUMNS_REQUIRED, CSV_EMPTY, NO_ROWS, Refusal
from schemas.row_reasons import RowReason
from schemas.sheet_xml import (
    Budget,
    Cell,
    Kind,
    Row,
    SheetPart,
    SheetReader,
    read_relations,
    read_shared_strings,
    read_sheets,
)

TWO_READINGS = (
    "The Excel workbook can be read in more than one way: open it in Excel, save it again, or save it as "
    "“CSV UTF-8”"
)
LARGEST_STYLES = 10_000_000
_SECRETS = ("password", "totpsecret")
_EMPTY = Cell("", Kind.TEXT, formula=False)


def is_workbook(data: bytes) -> bool:
    """Whether a file is a ZIP archive or an old Office file, and so no CSV. Its name does not matter."""
    return data.startswith((*ZIP_MAGIC, OLE_MAGIC))


def parse(
    data: bytes, bounds: Bounds = DEFAULT_BOUNDS, choice: Mapping[str, str] = NO_CHOICE
) -> CsvTable | Refusal:
    """Parse a workbook.

    The first sheet that is not hidden and has a header with email and password columns is read.

    Args:
        data: The whole file, for which `is_workbook` is true.
        bounds: How much of the file to read. A file that has more is refused.
        choice: Field → header, where a person has chosen the column.

    Returns:
        The table, in which `line` is the number of the row in the sheet, or a refusal that says what is wrong
        and what to do about it. Other sheets with a header that matches are named in `ignored`.
    """
    if data.startswith(OLE_MAGIC):
        return Refusal(old_office(data))
    try:
        workbook = _Workbook(data, bounds)
        found = _find_table(workbook, bounds, choice)
        if isinstance(found, Refusal):
            return found
        return _read_table(workbook, found, bounds)
    except WorkbookError as error:
        return Refusal(str(error))


def extract_rows(data: bytes, errors: Mapping[int, str]) -> bytes:
    """Copy some rows of a workbook into a CSV with an `error` column.

    Args:
        data: A file that `parse` has accepted.
        errors: Row of the sheet → its error.

    Returns:
        A CSV in UTF-8 with a byte order mark, with all columns of the sheet. A password or TOTP secret that
        is not text is left out, so that no one imports what Excel has made of it.
    """
    workbook = _Workbook(data, UNBOUNDED)
    found = _find_table(workbook, UNBOUNDED)
    assert isinstance(found, _Table)  # noqa: S101  parse() has already found it
    header, *rows = workbook.read(found.sheet, UNBOUNDED, start=found.line)
    rows = [row for row in rows if row.line in errors]
    values = workbook.read_again(found.sheet)
    secrets = {
        at for at, cell in header.cells.items() if FIELD_OF_HEADER.get(normalise(cell.text)) in _SECRETS
    }
    width = 1 + max(column for row in (header, *rows) for column in row.cells)

    def texts(row: Row) -> list[str]:
        cells = [row.cells.get(column, _EMPTY) for column in range(width)]
        return [
            "" if column in secrets and _fault_of(cell) else _shown(cell, _at(values, row.line, column))
            for column, cell in enumerate(cells)
        ]

    names = texts(header)
    kept = [column for column, name in enumerate(names) if normalise(name) != ERROR_HEADER]
    copy = io.StringIO(newline="")
    writer = csv.writer(copy, lineterminator="\r\n")
    writer.writerow([ERROR_HEADER, *(names[column] for column in kept)])
    for row in rows:
        cells = texts(row)
        writer.writerow([errors[row.line], *(cells[column] for column in kept)])
    return copy.getvalue().encode("utf-8-sig")


class _Workbook(Plaintext):
    """The parts of a workbook that are read.

    Raises:
        WorkbookError: If it is not an `.xlsx` file, or is damaged or too large.
    """

    def __init__(self, data: bytes, bounds: Bounds) -> None:
        self._package = Package(data)
        self._budget = Budget(bounds)
        relations = read_relations(self._part("xl/_rels/workbook.xml.rels"), self._budget)
        self.sheets = read_sheets(self._part("xl/workbook.xml"), self._budget, relations)
        parts = dict(relations.values())
        self._strings_xml = self._package.part(parts.get("sharedStrings", ""))
        self._styles_xml = self._package.part(parts.get("styles", "")) or b""
        if len(self._styles_xml) > LARGEST_STYLES:  # calamine needs eight times as much memory
            raise WorkbookError(TOO_MUCH)
        self._strings: list[str] = []
        if self._strings_xml is not None:
            self._strings = read_shared_strings(self._strings_xml, self._budget)
        self._unpacked = ("", b"")  # the last sheet

    def _part(self, name: str) -> bytes:
        part = self._package.part(name)
        if part is None:
            raise WorkbookError(DAMAGED)
        return part

    def read(
        self,
        sheet: SheetPart,
        bounds: Bounds,
        columns: set[int] | None = None,
        most: int | None = None,
        start: int = 1,
    ) -> list[Row]:
        """The filled rows of a sheet; see `SheetReader`."""
        return SheetReader(self._strings, bounds, columns, most, start).read(
            self._sheet_xml(sheet), self._budget
        )

    def _sheet_xml(self, sheet: SheetPart) -> bytes:
        if self._unpacked[0] != sheet.part:
            self._unpacked = (sheet.part, self._part(sheet.part))
        return self._unpacked[1]

    def read_again(self, sheet: SheetPart) -> list[list[Any]]:
        """Read a sheet with calamine, after `read`.

        Returns:
            The values of all cells from A1 on: str, float, bool, and the types of dates and times.
        """
        parts = _ONE_SHEET | {"xl/worksheets/sheet1.xml": self._sheet_xml(sheet)}
        if self._strings_xml is not None:
            parts["xl/sharedStrings.xml"] = self._strings_xml
        if self._styles_xml:
            parts["xl/styles.xml"] = self._styles_xml
        # calamine gets a new archive: it does not check what it unpacks, and may find other parts.
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as packed:
            for name, part in parts.items():
                packed.writestr(name, part)
        archive.seek(0)
        try:
            return (
                CalamineWorkbook.from_filelike(archive).get_sheet_by_index(0).to_python(skip_empty_area=False)
            )
        except CalamineError:  # its text may quote the file
            raise WorkbookError(DAMAGED) from None
        except BaseException as error:
            if type(error).__name__ == "PanicException":  # a bug of calamine; not an `Exception`
                raise WorkbookError(DAMAGED) from None
            raise


_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_DOCUMENT = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_ONE_SHEET: dict[str, bytes] = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"/>'.encode(),
    "_rels/.rels": (
        f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
        f'Type="{_DOCUMENT}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
    ).encode(),
    "xl/workbook.xml": (
        f'<workbook xmlns="{_MAIN}" xmlns:r="{_DOCUMENT}"><sheets>'
        '<sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>'
    ).encode(),
    "xl/_rels/workbook.xml.rels": (
        f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
        f'Type="{_DOCUMENT}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>'
    ).encode(),
}


@dataclass(frozen=True)
class _Table:
    """Where the mailboxes are.

    Attributes:
        line: The row of the header.
        skipped: The rows above it that hold text.
        rows: Returns the rows below it.
        others: Names of the other sheets whose header matches too.
        rivals: Those of them that are not hidden.
    """

    sheet: SheetPart
    line: int
    columns: Columns
    skipped: tuple[int, ...]
    rows: Rows
    others: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()


def _find_table(
    workbook: _Workbook, bounds: Bounds, choice: Mapping[str, str] = NO_CHOICE
) -> _Table | Refusal:
    matching: list[_Table] = []
    first_rows: list[tuple[SheetPart, Row]] = []
    for sheet in workbook.sheets:
        rows = workbook.read(sheet, bounds, most=TITLE_LINES)
        if not sheet.hidden and (len(rows) > 1 or any("@" in text for row in rows for text in _texts(row))):
            first_rows.append((sheet, rows[0]))
        found = _find_columns(workbook, sheet, rows, bounds, choice)
        if found is not None:
            matching.append(found)
    visible = [found for found in matching if not found.sheet.hidden]
    if not visible:
        for hidden in matching:
            name = shown(hidden.sheet.name)
            return Refusal(COLUMNS_REQUIRED, f"only the hidden sheet “{name}” has them: unhide it")
        if not first_rows:
            return Refusal(CSV_EMPTY, NO_ROWS)
        return _no_columns(workbook, *first_rows[0], choice)
    # A sheet with too many columns is probably not the one that is meant.
    table = next((found for found in visible if found.columns.position), visible[0])
    if table.columns.fault:
        return table.columns.fault
    others = [found.sheet for found in matching if found is not table]
    names = [f"{'hidden sheet' if other.hidden else 'sheet'} {shown(other.name)}" for other in others]
    rivals = tuple(other.name for other in others if not other.hidden)
    return replace(table, others=tuple(names), rivals=rivals)


def _no_columns(workbook: _Workbook, sheet: SheetPart, first: Row, choice: Mapping[str, str]) -> Refusal:
    rows = workbook.read(sheet, UNBOUNDED, most=HEADER_LOOKED_FOR)
    headers = [row.line for row in rows if is_header(_texts(row), choice)]
    return header_not_first(headers, first.line) or without_columns(_texts(first), choice, first.line)


def _find_columns(
    workbook: _Workbook, sheet: SheetPart, rows: Sequence[Row], bounds: Bounds, choice: Mapping[str, str]
) -> _Table | None:
    """Find the header, by the rule for titles above the header of a CSV, and its columns."""
    if not rows:
        return None
    top = [row for row in rows if row.line < rows[0].line + TITLE_LINES]
    headers = [row for row in top if is_header(_texts(row), choice)]
    header = headers[0] if len(headers) == 1 else rows[0]

    @cache  # several columns may have to be compared, and each reading costs the budget of the workbook
    def rows_below() -> list[tuple[int, list[str]]]:
        try:
            below = workbook.read(sheet, bounds, start=header.line)[1:]
        except WorkbookError:  # this sheet has too many rows
            return []
        return [(row.line, _texts(row)) for row in below]

    columns = find_columns(_texts(header), rows_below, bounds, choice)
    skipped = tuple(row.line for row in top if row.line < header.line)
    return None if columns is None else _Table(sheet, header.line, columns, skipped, rows_below)


def _texts(row: Row) -> list[str]:
    return [row.cells.get(column, _EMPTY).text for column in range(max(row.cells) + 1)]


def _read_table(workbook: _Workbook, found: _Table, bounds: Bounds) -> CsvTable | Refusal:
    position = found.columns.read
    rows = workbook.read(found.sheet, bounds, set(position.values()), start=found.line)[1:]
    if not rows:
        return Refusal(CSV_EMPTY, NO_ROWS)
    values = workbook.read_again(found.sheet)
    texts: dict[str, list[str]] = {field: [] for field in position}
    faults: dict[int, str] = {}
    for row in rows:
        cells = {field: row.cells.get(position[field], _EMPTY) for field in position}
        again = {field: _at(values, row.line, position[field]) for field in position}
        if not all(_same(field, cell, again[field]) for field, cell in cells.items()):
            return Refusal(TWO_READINGS)
        for field, cell in cells.items():
            texts[field].append(_text_of(cell, again[field]))
        if fault := _fault(cells, again):
            faults[row.line] = fault
    frame = pl.DataFrame(
        {
            "line": pl.Series([row.line for row in rows], dtype=pl.UInt32),
            # A cell of a sheet has a place, so no value can slip into the next column.
            "extra_cells": pl.Series([False] * len(rows), dtype=pl.Boolean),
            **{field: pl.Series(texts[field], dtype=pl.String) for field in position},
        }
    )
    return CsvTable(
        table_frame(frame),
        (*found.columns.ignored, *found.others),
        found.line,
        tuple(faults.items()),
        (*_skipped_note(found), *_left_open(found, rows), *unused_secrets(found.columns, found.rows)),
    )


def _skipped_note(found: _Table) -> list[str]:
    return [skipped_note(found.skipped[0], found.skipped[-1], found.line)] if found.skipped else []


def _left_open(found: _Table, rows: Sequence[Row]) -> list[str]:
    """Notes on another sheet that could be meant, and on rows that the person may not see."""
    notes = [
        f"Only sheet “{shown(found.sheet.name)}” was read, although sheet “{shown(name)}” has the columns too"
        for name in found.rivals
    ]
    if hidden := [row.line for row in rows if row.hidden]:
        notes.append(
            f"Hidden rows were read too: {counted(len(hidden), 'row')}, the first on line {hidden[0]}"
        )
    return notes


def _at(values: list[list[Any]], line: int, column: int) -> Any:
    """A value of the second reading; cells beyond the last filled one are blank."""
    return values[line - 1][column] if line <= len(values) and column < len(values[line - 1]) else ""


def _same(field: str, cell: Cell, again: Any) -> bool:
    """Whether both readings of a cell agree. Spaces at the edges matter in secrets only."""
    if cell.kind is not Kind.TEXT:
        return True
    if _is_secret(field):
        return bool(again == cell.text)
    return isinstance(again, str) and again.strip() == cell.text.strip()


def _shown(cell: Cell, again: Any) -> str:
    """The text of a cell: a number with up to 15 digits, as Excel shows it, and a date as YYYY-MM-DD."""
    if cell.kind is Kind.TEXT:
        return cell.text
    if isinstance(again, bool):
        return str(again).upper()
    if isinstance(again, int | float):
        return format(again, ".15g")
    return str(again) or cell.text


def _text_of(cell: Cell, again: Any) -> str:
    # A row with a formula that has no result fails for this, and not for a blank cell.
    return "=" if cell.kind is Kind.UNKNOWN else _shown(cell, again)


def _fault(cells: Mapping[str, Cell], again: Mapping[str, Any]) -> str:
    """Why a row fails for what kind of cells it has: a `RowReason`, or ""."""
    if any(cell.kind is Kind.UNKNOWN for cell in cells.values()):
        return RowReason.FORMULA
    faults = [_fault_of(cell) for field, cell in cells.items() if _is_secret(field)]
    faults += [
        RowReason.NOT_TEXT
        for field in ("name", SURNAME, "login")
        if field in cells and cells[field].kind is not Kind.TEXT and not _is_number(again[field])
    ]
    return next(filter(None, faults), "")


def _is_secret(field: str) -> bool:
    return field.partition(FILLS_GAPS)[0] in _SECRETS


def _fault_of(secret: Cell) -> str:
    if secret.formula and (secret.text or secret.kind is Kind.UNKNOWN):
        return RowReason.FORMULA
    return RowReason.NOT_TEXT if secret.kind is not Kind.TEXT else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
