"""Read the XML of an Excel workbook: its sheets, its shared strings and the cells of a sheet.

Source: ECMA-376 part 1, section 18. A part with a document type, which could declare entities, is refused.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Container, Mapping, Sequence
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import NamedTuple
from xml.parsers import expat

from schemas.bounds import DEFAULT_BOUNDS, Bounds
from schemas.package import DAMAGED, PACKAGE_BOUNDS, TOO_MUCH, WorkbookError

LAST_ROW, LAST_COLUMN = 1_048_576, 16_383
MOST_STRINGS = 1_000_000
MOST_SHEETS = 1_000
_MOST_ARRAYS = 10_000
SPREAD_OUT = (
    "The Excel sheet has filled cells far away from its table: copy the table into a new workbook, "
    "or delete the other rows and columns"
)

# No program writes more than this, and no cell is longer than 32,767 characters.
_DEEPEST = 100
_LONGEST_NAME = 100
_MOST_NAMES = 1_000
_MOST_ATTRIBUTES = 100
_LONGEST_TOKEN = 300_000

_Start = Callable[[dict[str, str]], None]
_End = Callable[[], None]
_Text = Callable[[str], None]


def _most_cells(bounds: Bounds) -> int:
    return max(bounds.rows * bounds.columns, DEFAULT_BOUNDS.rows * DEFAULT_BOUNDS.columns)


class Budget:
    """How many more XML elements of a workbook may be read.

    Args:
        bounds: How many rows and columns may be read. A cell has two or three elements.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.left = 4 * _most_cells(bounds)


class _Enough(Exception):  # noqa: N818  it ends the parser early and is not an error
    """Everything that was asked for has been read."""


def _read(
    data: bytes,
    budget: Budget,
    starts: Mapping[str, _Start],
    ends: Mapping[str, _End] = MappingProxyType({}),
    texts: Mapping[str, _Text] = MappingProxyType({}),
    other: Callable[[str], None] = lambda _: None,
) -> None:
    """Parse a part and call back for the elements of some paths, such as `/sst/si/t`.

    Args:
        data: The part.
        budget: How many elements may be read. What has been read is taken from it.
        starts: Path → called with the attributes where an element starts.
        ends: Path → called where an element ends.
        texts: Path → called with each piece of text directly in an element.
        other: Called with each path that is not in `starts`.

    Raises:
        WorkbookError: If it is not XML, or not the XML of any spreadsheet program.
    """
    # The parser holds a whole tag in memory. A window of this length without a `>` shows a longer one.
    windows = range(0, len(data) - _LONGEST_TOKEN, _LONGEST_TOKEN)
    if any(data.find(b">", at, at + _LONGEST_TOKEN) < 0 for at in windows):
        raise WorkbookError(DAMAGED)
    path = ""
    above: list[str] = []
    names: dict[str, str] = {}  # every name of an element or attribute; the parser keeps them all

    def on_start(name: str, attributes: dict[str, str]) -> None:
        nonlocal path
        if len(name) > _LONGEST_NAME or len(above) > _DEEPEST:
            raise WorkbookError(DAMAGED)
        if len(names) > _MOST_NAMES or len(attributes) > _MOST_ATTRIBUTES:
            raise WorkbookError(DAMAGED)
        budget.left -= 1
        if budget.left < 0:
            raise WorkbookError(TOO_MUCH)
        above.append(path)
        path = f"{path}/{name.rpartition(':')[2] if ':' in name else name}"
        if (start := starts.get(path)) is not None:
            start(attributes)
        else:
            other(path)

    def on_end(_: str) -> None:
        nonlocal path
        if (end := ends.get(path)) is not None:
            end()
        path = above.pop()

    def on_text(piece: str) -> None:
        if (text := texts.get(path)) is not None:
            text(piece)

    def on_doctype(*_: object) -> None:
        raise WorkbookError(DAMAGED)

    # Always UTF-8, as calamine reads it: for another name in the part, Python would look for a codec.
    parser = expat.ParserCreate("utf-8", None, names)
    parser.buffer_text = True
    parser.StartElementHandler = on_start
    parser.EndElementHandler = on_end
    parser.CharacterDataHandler = on_text
    parser.StartDoctypeDeclHandler = on_doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError:
        raise WorkbookError(DAMAGED) from None
    except _Enough:
        pass


class SheetPart(NamedTuple):
    """A sheet of a workbook.

    Attributes:
        name: What its tab says.
        hidden: Whether Excel hides it.
        part: Its path in the archive.
    """

    name: str
    hidden: bool
    part: str


def read_sheets(workbook: bytes, budget: Budget, relations: Mapping[str, tuple[str, str]]) -> list[SheetPart]:
    """The worksheets of a workbook, in the order of their tabs. Charts and dialogs are left out.

    Args:
        workbook: `xl/workbook.xml`.
        budget: How many elements may be read.
        relations: The result of `read_relations`.
    """
    sheets: list[SheetPart] = []

    def start(attributes: Mapping[str, str]) -> None:
        ids = [value for name, value in attributes.items() if name.endswith(":id")]
        kind, part = relations.get(ids[0] if ids else "", ("", ""))
        if kind == "worksheet":
            hidden = attributes.get("state", "visible") != "visible"
            sheets.append(SheetPart(attributes.get("name", ""), hidden, part))
        if len(sheets) > MOST_SHEETS:
            raise WorkbookError(DAMAGED)

    _read(workbook, budget, {"/workbook/sheets/sheet": start})
    if len({sheet.part for sheet in sheets}) != len(sheets):
        raise WorkbookError(DAMAGED)
    return sheets


def read_relations(relations: bytes, budget: Budget) -> dict[str, tuple[str, str]]:
    """What `xl/_rels/workbook.xml.rels` points at: id → last word of its type, and path in the archive."""
    found: dict[str, tuple[str, str]] = {}

    def start(attributes: Mapping[str, str]) -> None:
        target = attributes.get("Target", "").replace("\\", "/")
        part = posixpath.normpath(posixpath.join("/xl", target))
        found[attributes.get("Id", "")] = (attributes.get("Type", "").rpartition("/")[2], part)

    _read(relations, budget, {"/Relationships/Relationship": start})
    return found


def read_shared_strings(strings: bytes, budget: Budget) -> list[str]:
    """The texts that cells refer to by number. Formats and phonetic guides are left out.

    Args:
        strings: `xl/sharedStrings.xml`.
        budget: How many elements may be read.
    """
    found: list[str] = []
    pieces: list[str] = []

    def end() -> None:
        if len(found) == MOST_STRINGS:
            raise WorkbookError(TOO_MUCH)
        found.append(_unescape("".join(pieces)))
        pieces.clear()

    texts = dict.fromkeys(("/sst/si/t", "/sst/si/r/t"), pieces.append)
    _read(strings, budget, {}, {"/sst/si": end}, texts)
    return found


_ESCAPE = re.compile("_x([0-9A-Fa-f]{4})_")


def _unescape(text: str) -> str:
    """Decode characters that XML cannot hold. Source: ECMA-376 part 1, section 22.9.2.19."""
    return _ESCAPE.sub(_unescaped, text) if "_x" in text else text


def _unescaped(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    return found[0] if 0xD800 <= code < 0xE000 or code >= 0xFFFE else chr(code)


class Kind(Enum):
    """What a cell holds."""

    TEXT = "text"
    NUMBER = "a number or a date, which only the format of the cell tells apart"
    OTHER = "a boolean or an error"
    UNKNOWN = "a formula whose result is not in the file"


class Cell(NamedTuple):
    """A filled cell.

    Attributes:
        text: What the file holds. For a formula, its last result.
        formula: Whether a formula has filled it.
    """

    text: str
    kind: Kind
    formula: bool


class Row(NamedTuple):
    """A row with at least one cell that is not blank. Cells are by column, and both count from 0 and 1."""

    line: int
    cells: dict[int, Cell]
    hidden: bool = False


_KINDS = {"s": Kind.TEXT, "str": Kind.TEXT, "inlineStr": Kind.TEXT, "n": Kind.NUMBER, "b": Kind.OTHER}
_KINDS |= {"e": Kind.OTHER, "d": Kind.NUMBER}
_MOST_DIGITS = 7

_DATA = "/worksheet/sheetData"
_ROW = f"{_DATA}/row"
_CELL = f"{_ROW}/c"
_VALUE = f"{_CELL}/v"
_FORMULA = f"{_CELL}/f"
_INLINE = f"{_CELL}/is"
_INLINE_TEXTS = (f"{_INLINE}/t", f"{_INLINE}/r/t")


class SheetReader:
    """Reads the filled rows of a sheet.

    Args:
        strings: The shared strings of the workbook.
        bounds: How many rows and columns to read.
        columns: The columns to keep; None for all.
        most: How many rows to read; None for all within the bounds.
        start: The first line to read.

    Attributes:
        rows: The rows, in their order.
    """

    def __init__(
        self,
        strings: Sequence[str],
        bounds: Bounds,
        columns: Container[int] | None = None,
        most: int | None = None,
        start: int = 1,
    ) -> None:
        self.rows: list[Row] = []
        self._strings, self._bounds, self._columns = strings, bounds, columns
        self._most, self._first = most, start
        self._size = 0  # of all texts together: many cells can refer to one long string
        self._widest = 0
        self._line = 0
        self._hidden = False
        self._filled = False
        self._kept: dict[int, Cell] = {}
        self._column = -1
        self._type = ""
        self._pieces: list[str] = []
        self._has_value = self._has_formula = False
        self._formula_until: dict[int, int] = {}  # column → last row of a formula that fills several cells
        self._spilled = 0

    def read(self, sheet: bytes, budget: Budget) -> list[Row]:
        """Read a sheet.

        Args:
            sheet: The part of the sheet.
            budget: How many elements may be read.

        Raises:
            WorkbookError: If it is damaged or has more than may be read.
        """
        starts: dict[str, _Start] = {
            _ROW: self._start_row,
            _CELL: self._start_cell,
            _FORMULA: self._start_formula,
            _VALUE: self._start_value,
            _INLINE: self._start_inline,
        }
        ends = {_CELL: self._end_cell, _ROW: self._end_row, _DATA: self._end_data}
        texts = dict.fromkeys((_VALUE, *_INLINE_TEXTS), self._pieces.append)
        try:
            _read(sheet, budget, starts, ends, texts, self._start_other)
        except IndexError:  # a shared string that does not exist
            raise WorkbookError(DAMAGED) from None
        return self.rows

    def _start_other(self, path: str) -> None:
        if path.startswith(f"{_DATA}/") and not path.startswith(f"{_INLINE}/"):
            raise WorkbookError(DAMAGED)

    def _end_data(self) -> None:
        raise _Enough

    def _start_row(self, attributes: Mapping[str, str]) -> None:
        line = _number(attributes["r"]) if "r" in attributes else self._line + 1
        if not self._line < line <= LAST_ROW:
            raise WorkbookError(DAMAGED)
        self._line = line
        self._hidden = attributes.get("hidden", "0") in ("1", "true")
        self._column = -1
        self._kept, self._filled = {}, False

    def _start_cell(self, attributes: Mapping[str, str]) -> None:
        column = self._column + 1
        if "r" in attributes:
            line, column = _place(attributes["r"])
            if line != self._line or column <= self._column:
                raise WorkbookError(DAMAGED)
        if column > LAST_COLUMN:
            raise WorkbookError(DAMAGED)
        self._column = column
        self._type = attributes.get("t", "n")
        self._has_value = self._has_formula = False

    def _start_value(self, _: object) -> None:
        if self._has_value or self._type == "inlineStr":
            raise WorkbookError(DAMAGED)
        self._has_value = True

    def _start_inline(self, _: object) -> None:
        if self._has_value or self._type != "inlineStr":
            raise WorkbookError(DAMAGED)
        self._has_value = True

    def _start_formula(self, attributes: Mapping[str, str]) -> None:
        if self._has_value or self._has_formula:
            raise WorkbookError(DAMAGED)
        self._has_formula = True
        if "ref" in attributes and attributes.get("t") in ("array", "dataTable"):
            first, _, last = attributes["ref"].partition(":")
            (_, left), (bottom, right) = _place(first), _place(last or first)
            if (right, bottom) == (self._column, self._line):
                return
            self._spilled += 1
            if self._spilled > _MOST_ARRAYS:
                raise WorkbookError(DAMAGED)
            for column in range(left, min(right, self._bounds.columns) + 1):
                self._formula_until[column] = max(bottom, self._formula_until.get(column, 0))

    def _end_cell(self) -> None:
        text = "".join(self._pieces)
        self._pieces.clear()
        kind = _KINDS.get(self._type)
        if kind is None:
            raise WorkbookError(DAMAGED)
        if not self._has_value and not self._has_formula:
            return
        if self._type == "s":
            text = self._strings[_number(text)] if text else ""
        elif kind is Kind.TEXT:
            text = _unescape(text)
        elif not text and self._has_formula:
            kind = Kind.UNKNOWN
        self._measure(text)
        formula = self._has_formula or self._line <= self._formula_until.get(self._column, 0)
        if not self._filled:
            self._filled = kind is Kind.UNKNOWN or (bool(text) and not text.isspace())
        if (text or formula) and (self._columns is None or self._column in self._columns):
            self._kept[self._column] = Cell(text, kind, formula)

    def _measure(self, text: str) -> None:
        """Refuse what would take too much memory when calamine reads it."""
        self._size += len(text)
        if self._size > PACKAGE_BOUNDS.unpacked:
            raise WorkbookError(TOO_MUCH)
        if self._most is not None:
            return
        if self._column >= self._bounds.columns:
            raise WorkbookError(self._bounds.too_many_columns)
        self._widest = max(self._widest, self._column + 1)
        # calamine allocates the whole rectangle up to the last filled cell, 32 bytes for each cell.
        if self._widest * self._line > 2 * _most_cells(self._bounds):
            raise WorkbookError(SPREAD_OUT)

    def _end_row(self) -> None:
        if not self._filled or self._line < self._first:
            return
        self.rows.append(Row(self._line, self._kept, self._hidden))
        if len(self.rows) == self._most:
            raise _Enough
        if self._most is None and len(self.rows) > self._bounds.rows + 1:
            raise WorkbookError(self._bounds.too_many_rows)


def _number(digits: str) -> int:
    """A whole number, such as the number of a row."""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS):
        raise WorkbookError(DAMAGED)
    return int(digits)


def _place(reference: str) -> tuple[int, int]:
    """The row, from 1, and the column, from 0, of a reference such as `B7`."""
    letters = reference.rstrip("0123456789")
    return _number(reference[len(letters) :]), _column(letters)


@cache
def _column(letters: str) -> int:
    if not re.fullmatch("[A-Z]{1,3}", letters):
        raise WorkbookError(DAMAGED)
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1
