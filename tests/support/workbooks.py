"""Excel workbooks for tests: real ones as XlsxWriter writes them, and hand-made ones."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence

import xlsxwriter
from xlsxwriter.workbook import Workbook
from xlsxwriter.worksheet import Worksheet

HEADER = '<row r="1"><c r="A1" t="str"><v>email</v></c><c r="B1" t="str"><v>password</v></c></row>'
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def built(fill: Callable[[Workbook], None], *, inline: bool = False) -> bytes:
    """A workbook that `fill` has filled.

    Args:
        inline: Whether texts are in the cells and not in the table of shared strings.
    """
    file = io.BytesIO()
    with xlsxwriter.Workbook(file, {"in_memory": True, "constant_memory": inline}) as workbook:
        fill(workbook)
    return file.getvalue()


def workbook_of(rows: Iterable[Sequence[object]], *, inline: bool = False) -> bytes:
    """A workbook with one sheet of these rows; a str is a text cell, whatever it looks like."""
    return built(lambda workbook: fill_sheet(workbook.add_worksheet(), rows), inline=inline)


def fill_sheet(sheet: Worksheet, rows: Iterable[Sequence[object]]) -> None:
    for row, cells in enumerate(rows):
        for column, value in enumerate(cells):
            if isinstance(value, str):
                sheet.write_string(row, column, value)
            else:
                sheet.write(row, column, value)


def hand_made(
    rows: str = "",
    *,
    sheet: str | bytes | None = None,
    strings: str = "",
    more: Mapping[str, bytes] | None = None,
) -> bytes:
    """A workbook with one sheet.

    Args:
        rows: The XML of its rows, below `HEADER`.
        sheet: The XML of the sheet, instead of `rows`.
        strings: The XML of the shared strings.
        more: Further entries of the archive.
    """
    if sheet is None:
        sheet = f"<worksheet><sheetData>{HEADER}{rows}</sheetData></worksheet>"
    parts = {
        "xl/workbook.xml": (
            f'<workbook xmlns:r="{_RELATIONS}"><sheets><sheet name="S" r:id="a"/></sheets></workbook>'
        ),
        "xl/_rels/workbook.xml.rels": (
            "<Relationships>"
            f'<Relationship Id="a" Type="{_RELATIONS}/worksheet" Target="worksheets/sheet1.xml"/>'
            f'<Relationship Id="b" Type="{_RELATIONS}/sharedStrings" Target="sharedStrings.xml"/>'
            "</Relationships>"
        ),
        "xl/sharedStrings.xml": f"<sst>{strings}</sst>",
        "xl/worksheets/sheet1.xml": sheet,
    }
    return zipped(parts | dict(more or {}))


def zipped(parts: Mapping[str, str | bytes]) -> bytes:
    """A ZIP archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return file.getvalue()


def parts_of(data: bytes) -> dict[str, str | bytes]:
    """The parts of an archive by their names."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
