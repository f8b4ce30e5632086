"""Excel workbooks: they give what their CSV gives, doubtful cells fail, and hostile files cost little."""

from __future__ import annotations

import codecs
import csv
import datetime
import io
import struct
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xlsxwriter.workbook import Workbook

from schemas import workbook
from schemas.bounds import Bounds
from schemas.csv_file import CsvTable
from schemas.csv_file import parse as parse_csv
from schemas.package import DAMAGED, MACROS, NO_WORKBOOK, OLD_EXCEL, OLD_OFFICE, TOO_MUCH
from schemas.prepare import Prepared, extract_rows, prepare_rows
from schemas.refusals import COLUMNS_REQUIRED, CSV_EMPTY, Refusal
from schemas.row_reasons import RowReason
from schemas.sheet_xml import SPREAD_OUT
from schemas.workbook import TWO_READINGS, parse
from tests.support.workbooks import HEADER, built, fill_sheet, hand_made, parts_of, workbook_of, zipped

CANARY = "Canary-5ecret"
COLUMNS = ["email", "password", "name", "totpsecret"]
ANN = ["ann@example.com", CANARY, "Ann", "JBSWY3DPEHPK3PXP"]


def table_of(data: bytes) -> CsvTable:
    table = parse(data)
    assert isinstance(table, CsvTable), table
    return table


def prepared_of(data: bytes) -> Prepared:
    prepared = prepare_rows(data)
    assert isinstance(prepared, Prepared), prepared
    return prepared


def passwords_of(data: bytes) -> list[tuple[int, str]]:
    return list(table_of(data).frame.select("line", "password").iter_rows())


def message_of(data: bytes) -> str:
    """The message of a refusal, which never quotes a cell."""
    refusal = prepare_rows(data)
    assert isinstance(refusal, Refusal)
    assert CANARY not in str(refusal)
    return refusal.message


def everything(prepared: Prepared) -> tuple[object, ...]:
    return prepared.kept.to_dicts(), prepared.duplicates, prepared.errors, prepared.ignored


def csv_of(rows: Sequence[Sequence[str]], delimiter: str = ",", encoding: str = "utf-8-sig") -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode(encoding)


# --- The same result as from a CSV -----------------------------------

# A line break moves the lines of a CSV, Ctrl-Z ends it, and XML allows no U+FFFE and U+FFFF.
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0\x1a\ufffe\uffff")
CELL = st.text(CHARACTERS, max_size=12)
ADDRESS = st.sampled_from(["ann@example.com", " bob@x.co ", "ANN@example.com", "00123", "@", ""])
ROW = st.tuples(
    ADDRESS | CELL, CELL | st.sampled_from(["abcd efgh ijkl mnop", " x ", "_x0041_", "=1+1"]), CELL, CELL
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=6), st.permutations(COLUMNS))
def test_a_table_gives_the_same_rows_in_every_format(rows: list[tuple[str, ...]], columns: list[str]) -> None:
    """A table gives the same rows as CSV UTF-8, with semicolons, as Unicode text and as a workbook."""
    table = [columns, *([row[COLUMNS.index(column)] for column in columns] for row in rows)]
    results = [
        prepare_rows(data)
        for data in (
            csv_of(table),
            csv_of(table, ";"),
            csv_of(table, "\t", "utf-16"),
            workbook_of(table),
            workbook_of(table, inline=True),
        )
    ]
    expected = results[0]
    if isinstance(expected, Refusal):  # all rows are blank
        assert results == [expected] * 5
    else:
        assert [everything(result) for result in results if isinstance(result, Prepared)] == [
            everything(expected)
        ] * 5


def test_blank_rows_and_unused_columns() -> None:
    """Blank rows are skipped, `line` is the row of the sheet, and other columns are named."""
    rows = [
        [],
        [" "],
        ["Phone", "email", "password", ""],
        ["0049", "a@x.co", "pw", ""],
        [" "],
        ["", "b@x.co", "pw2"],
    ]
    table = table_of(workbook_of(rows))
    assert table.frame.select("line", "email", "password", "name").rows() == [
        (4, "a@x.co", "pw", ""),
        (6, "b@x.co", "pw2", ""),
    ]
    assert table.ignored == ("Phone",)


def test_titles_above_the_header() -> None:
    """Lines above the header are skipped by the rule for a CSV: one of the first 20 is a header."""
    titles = [["Mailboxes of the sales team"], [], ["May", "2024"]]
    assert passwords_of(workbook_of([*titles, COLUMNS, ANN])) == [(5, CANARY)]
    assert passwords_of(workbook_of([["x"], *[[" "]] * 18, COLUMNS, ANN])) == [(21, CANARY)]
    assert message_of(workbook_of([["x"], *[[" "]] * 19, COLUMNS, ANN])) == COLUMNS_REQUIRED
    bounds = Bounds(rows=1, columns=4)
    assert isinstance(parse(workbook_of([*titles, COLUMNS, ANN]), bounds), CsvTable)


def test_texts_stay_as_they_are() -> None:
    """Leading zeros, spaces at the edges, line breaks, other scripts and Excel's escapes stay."""
    secrets = ["00123", "  x ", "a\nb", "pässwörd 😀", "_x0041_", "a\rb", "1e5", "=1+1", "'x", "TRUE", "1/2"]
    for inline in (False, True):
        data = workbook_of([COLUMNS, *(["a@x.co", secret] for secret in secrets)], inline=inline)
        assert [password for _, password in passwords_of(data)] == secrets


def test_formatted_text() -> None:
    """A text in several formats is one text, and a merged header or a comment changes nothing."""

    def fill(book: Workbook) -> None:
        sheet, bold = book.add_worksheet(), book.add_format({"bold": True})
        fill_sheet(sheet, [["email", "", "password"], ["ann@example.com"]])
        sheet.merge_range("A1:B1", "email", bold)
        sheet.write_rich_string("C2", " pass", bold, "word ", "!")
        sheet.write_comment("C2", "a comment")
        sheet.write_blank("F9", None, bold)

    assert passwords_of(built(fill)) == [(2, " password !")]


SHEET_OF = "<worksheet><sheetData>{}</sheetData></worksheet>"
PASSWORD = '<row r="2"><c r="A2" t="str"><v>ann@example.com</v></c>{}</row>'


@pytest.mark.parametrize(
    ("data", "password"),
    {
        "phonetic guide": (
            hand_made(
                PASSWORD.format('<c r="B2" t="s"><v>1</v></c>'),
                strings="<si/><si><r><t>pw</t></r><rPh sb='0' eb='1'><t>guide</t></rPh></si>",
            ),
            "pw",
        ),
        "inline text": (
            hand_made(PASSWORD.format('<c r="B2" t="inlineStr"><is><r><t>p</t></r><r><t>w</t></r></is></c>')),
            "pw",
        ),
        "cells without references": (
            hand_made("<row><c t='str'><v>ann@example.com</v></c><c t='str'><v>pw</v></c></row>"),
            "pw",
        ),
        "another prefix": (
            hand_made(
                sheet="<x:worksheet xmlns:x='y'><x:sheetData>"
                + (HEADER + PASSWORD.format('<c r="B2" t="str"><v>pw</v></c>'))
                .replace("</", "</x:")
                .replace("<row", "<x:row")
                .replace("<c ", "<x:c ")
                .replace("<v>", "<x:v>")
                + "</x:sheetData></x:worksheet>"
            ),
            "pw",
        ),
        "a byte order mark": (
            hand_made(
                sheet=codecs.BOM_UTF8
                + SHEET_OF.format(HEADER + PASSWORD.format('<c r="B2" t="str"><v>pw</v></c>')).encode()
            ),
            "pw",
        ),
        "characters as numbers": (
            hand_made(PASSWORD.format('<c r="B2" t="str"><v>&#112;&amp;<![CDATA[w]]></v></c>')),
            None,  # calamine leaves out what is in CDATA
        ),
    }.values(),
    ids=["phonetic guide", "inline text", "no references", "another prefix", "byte order mark", "CDATA"],
)
def test_other_programs_xml(data: bytes, password: str | None) -> None:
    """What other programs write is read, or refused where the two readers disagree."""
    if password is None:
        assert message_of(data) == TWO_READINGS
    else:
        assert passwords_of(data) == [(2, password)]


def test_readers_that_disagree() -> None:
    """Spaces that Excel takes away, because they are not marked as wanted, are not imported silently."""
    data = hand_made(PASSWORD.format('<c r="B2" t="inlineStr"><is><t> pw </t></is></c>'))
    assert message_of(data) == TWO_READINGS
    assert TWO_READINGS.endswith("save it as “CSV UTF-8”")


def test_names_of_parts() -> None:
    """The parts are found whatever the case of their names, and with backslashes."""
    data = workbook_of([COLUMNS, ANN])
    with_backslashes = data.replace(b"xl/workbook.xml", b"XL\\Workbook.xml").replace(
        b"worksheets/", b"worksheets\\"
    )
    assert passwords_of(with_backslashes) == [(2, CANARY)]


# --- Which sheet is read ---------------------------------------------


def sheets(**rows: Sequence[Sequence[object]]) -> bytes:
    """A workbook with these sheets. A name that begins with `hidden` or `secret` is hidden."""

    def fill(book: Workbook) -> None:
        for name, cells in rows.items():
            sheet = book.add_worksheet(name)
            fill_sheet(sheet, cells)
            if name.startswith("hidden"):
                sheet.hide()
            if name.startswith("secret"):
                sheet.very_hidden()

    return built(fill)


NOTES = [["Read me"], ["first"]]
MAILBOXES = [COLUMNS, ANN]


def test_first_matching_sheet_is_read() -> None:
    """The first sheet with both columns is read, and the others are named."""
    bob = [["E-Mail", "App password", "Phone"], ["bob@x.co", "pw", "1"]]
    table = table_of(sheets(Notes=NOTES, New=bob, Old=MAILBOXES, hidden=MAILBOXES))
    assert table.frame["email"].to_list() == ["bob@x.co"]
    assert table.ignored == ("Phone", "sheet Old", "hidden sheet hidden")
    assert table.notes == ("Only sheet “New” was read, although sheet “Old” has the columns too",)


def test_hidden_sheets_are_not_read() -> None:
    """Hidden sheets are left out; if only they have the columns, the refusal names one."""
    assert table_of(sheets(first=NOTES, hidden=MAILBOXES, Old=MAILBOXES)).ignored == ("hidden sheet hidden",)
    for name in ("hidden", "secret"):
        assert prepare_rows(sheets(Notes=NOTES, **{name: MAILBOXES})) == Refusal(
            COLUMNS_REQUIRED, f"only the hidden sheet “{name}” has them: unhide it"
        )


def test_no_sheet_matches() -> None:
    """A workbook without the columns, or without rows, is refused with the contract's messages."""
    assert message_of(sheets(Notes=NOTES, Other=[["email", "phone"], ["a@x.co", "1"]])) == COLUMNS_REQUIRED
    assert message_of(sheets(Notes=[])) == CSV_EMPTY
    assert message_of(sheets(Notes=[["email", "password"]])) == CSV_EMPTY
    assert message_of(sheets(Notes=[["Read me"]])) == CSV_EMPTY


def test_rows_that_are_hidden_are_read_with_a_note() -> None:
    """A row that is hidden or filtered out is read like the others, and a note says so."""

    def fill(book: Workbook) -> None:
        sheet = book.add_worksheet()
        fill_sheet(sheet, [COLUMNS, ANN, ["bob@x.co", "pw"], ["cid@x.co", "pw"]])
        sheet.set_row(2, None, None, {"hidden": True})
        sheet.set_row(3, None, None, {"hidden": True})

    table = table_of(built(fill))
    assert table.frame["line"].to_list() == [2, 3, 4]
    assert table.notes == ("Hidden rows were read too: 2 rows, the first on line 3",)


def test_many_columns_are_compared_in_one_reading() -> None:
    """A sheet with many rows, unused columns and pairs of columns that agree is read."""
    names = ["email", "username", "smtp_login", "password", "imap_password", *(f"c{at}" for at in range(60))]
    row = ["ann@x.co", "ann@x.co", "ann@x.co", "pw", "pw", *["x"] * 60]
    table = table_of(workbook_of([names, *[row] * 2_000]))
    assert table.frame.height == 2_000


def test_what_keeps_the_header_from_being_found_is_said() -> None:
    """As in a CSV, a header far down, two headers, and a row without a header each get an explanation."""
    row = ["ann@x.co", "pw"]
    for rows in (
        [["note"]] * 24 + [["email", "password"], row],
        [["Sales"], ["email", "password"], ["mail", "pwd"], row],
        [row],
    ):
        refusal = prepare_rows(workbook_of(rows))
        assert isinstance(refusal, Refusal)
        assert refusal.line is not None
        assert refusal == prepare_rows(csv_of(rows))


def test_a_chart_is_no_sheet() -> None:
    """A chart on a sheet of its own is skipped."""

    def fill(book: Workbook) -> None:
        chart = book.add_chart({"type": "line"})
        assert chart is not None
        chart.add_series({"values": "=Sheet1!$A$1:$A$2"})
        book.add_chartsheet().set_chart(chart)
        fill_sheet(book.add_worksheet("Sheet1"), MAILBOXES)

    assert passwords_of(built(fill)) == [(2, CANARY)]


def test_user_names_that_are_addresses() -> None:
    """A `user name` column counts as email under the same rule as in a CSV."""
    assert prepared_of(workbook_of([["User name", "password"], ["a@x.co", "pw"]])).kept.height == 1
    assert message_of(workbook_of([["User name", "password"], ["ann", "pw"]])) == COLUMNS_REQUIRED


def test_ambiguous_header() -> None:
    """Two password columns that differ are refused with the sentence for a CSV."""
    rows = [["email", "password", "App password"], ["a@x.co", "pw", "pw2"]]
    refusal = prepare_rows(workbook_of(rows))
    assert isinstance(refusal, Refusal)
    assert refusal == prepare_rows(csv_of(rows))


# --- Cells that are not text -----------------------------------------


def reasons_of(
    *, at: int, write: Callable[[Workbook], None] | None = None, value: object = None
) -> list[RowReason]:
    """The row errors of a row with this value in column `at`, below a valid row."""

    def fill(book: Workbook) -> None:
        sheet = book.add_worksheet("S")
        fill_sheet(sheet, [COLUMNS, ["bob@example.com", "pw"], ANN])
        if write is None:
            sheet.write(2, at, value, book.add_format({"num_format": "d.m.yy"}) if is_date(value) else None)
        else:
            write(book)

    prepared = prepared_of(built(fill))
    assert all(error.line == 3 for error in prepared.errors)
    return [error.reason for error in prepared.errors]


def is_date(value: object) -> bool:
    return isinstance(value, datetime.date | datetime.time)


@pytest.mark.parametrize(
    "value",
    [
        12345,
        0.5,
        1.23457e15,
        True,
        datetime.date(2024, 5, 3),
        datetime.time(1),
    ],
    ids=str,
)
@pytest.mark.parametrize("column", ["password", "totpsecret"])
def test_a_secret_that_is_not_text_fails(value: object, column: str) -> None:
    """A password or TOTP secret that is a number, a date or a boolean fails its row, and only this one."""
    assert reasons_of(at=COLUMNS.index(column), value=value) == [RowReason.NOT_TEXT]


def test_a_secret_that_is_an_error_fails() -> None:
    """An error value in place of a password fails its row."""
    data = hand_made(PASSWORD.format('<c r="B2" t="e"><v>#N/A</v></c>'))
    assert [error.reason for error in prepared_of(data).errors] == [RowReason.NOT_TEXT]


@pytest.mark.parametrize("column", ["password", "totpsecret"])
@pytest.mark.parametrize(
    "result",
    ["JBSWY3DPEHPK3PXP", 12, True, "#NAME?", None],
    ids=["text", "number", "boolean", "error", "none"],
)
def test_a_secret_that_is_a_formula_fails(column: str, result: object) -> None:
    """A formula in place of a password or TOTP secret fails its row, whatever its last result was."""
    at = COLUMNS.index(column)

    def write(book: Workbook) -> None:
        book.get_worksheet_by_name("S").write_formula(2, at, '="JBSWY3DP"&"EHPK3PXP"', None, result)  # type: ignore[union-attr]

    assert reasons_of(at=at, write=write) == [RowReason.FORMULA]


def test_cells_that_one_formula_fills_fail() -> None:
    """The cells that an array formula fills are formulas too, although only the first one holds it."""

    def fill(book: Workbook) -> None:
        sheet = book.add_worksheet()
        fill_sheet(sheet, [COLUMNS, *([f"u{at}@x.co", "pw"] for at in range(4))])
        sheet.write_array_formula("B3:B4", "{=D1:D2}", None, "pw")
        sheet.write_string("B4", "pw")

    assert [(error.line, error.reason) for error in prepared_of(built(fill)).errors] == [
        (3, RowReason.FORMULA),
        (4, RowReason.FORMULA),
    ]


def test_formulas_elsewhere() -> None:
    """The text that a formula gave is used as email and name, and a formula without a result fails."""
    email = '<c r="A{0}" t="str"><f>A9</f><v>u{0}@x.co</v></c>'
    row = f'<row r="{{0}}">{email}<c r="B{{0}}" t="str"><v>pw</v></c>{{1}}</row>'
    header = HEADER.replace("</row>", '<c r="C1" t="str"><v>name</v></c></row>')
    cells = [
        '<c r="C2" t="str"><f>D9</f><v>Ann</v></c>',
        '<c r="C3"><f>D9</f><v/></c>',
        '<c r="C4" t="str"><f>D9</f></c>',
    ]
    body = "".join(row.format(line, cell) for line, cell in enumerate(cells, start=2))
    prepared = prepared_of(hand_made(sheet=f"<worksheet><sheetData>{header}{body}</sheetData></worksheet>"))
    assert prepared.kept.select("line", "email", "name").rows() == [
        (2, "u2@x.co", "Ann"),
        (4, "u4@x.co", None),
    ]
    assert [(error.line, error.reason) for error in prepared.errors] == [(3, RowReason.FORMULA)]


def test_a_row_of_formulas_without_results_is_not_blank() -> None:
    """A row whose formulas were never calculated fails; it is not taken for a blank row."""
    data = hand_made('<row r="2"><c r="A2"><f>A9</f></c><c r="B2"><f>A9</f></c></row>')
    assert [error.reason for error in prepared_of(data).errors] == [RowReason.FORMULA]


@pytest.mark.parametrize(("value", "name"), [(42, "42"), (0.1, "0.1"), (1234567890123, "1234567890123")])
def test_a_number_as_name_is_text(value: float, name: str) -> None:
    """A name that is a number is taken as the text that Excel shows."""
    prepared = prepared_of(workbook_of([COLUMNS, ["a@x.co", "pw", value]]))
    assert prepared.kept["name"].to_list() == [name]


@pytest.mark.parametrize("value", [datetime.date(2024, 5, 3), True], ids=str)
def test_a_date_as_name_fails(value: object) -> None:
    """A name that Excel has turned into a date or a boolean fails its row."""
    assert reasons_of(at=2, value=value) == [RowReason.NOT_TEXT]


@pytest.mark.parametrize("value", [42, datetime.date(2024, 5, 3), True], ids=str)
def test_an_email_that_is_not_text_is_invalid(value: object) -> None:
    """An email cell that is not text fails as an invalid address, and is not shown."""
    assert reasons_of(at=0, value=value) == [RowReason.INVALID_EMAIL]


# --- Files that are refused ------------------------------------------


def ole(stream: str) -> bytes:
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500) + stream.encode("utf-16-le") + CANARY.encode()


def lying(data: bytes, size: int) -> bytes:
    """An archive whose directory gives the sheet this size."""
    at = data.rindex(b"xl/worksheets/sheet1.xml") - 46
    return data[: at + 24] + struct.pack("<I", size) + data[at + 28 :]


def without(name: str) -> bytes:
    return zipped({part: data for part, data in parts_of(GOOD).items() if part != name})


def encrypted_zip(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02")
    return data[: at + 8] + b"\x01" + data[at + 9 :]


GOOD = hand_made(PASSWORD.format(f'<c r="B2" t="str"><v>{CANARY}</v></c>'))
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "a macro workbook": (
        lambda: hand_made(PASSWORD, more={"xl/vbaProject.bin": b"x"}),
        "The Excel workbook contains macros: in Excel, save it as “Excel Workbook (.xlsx)” or “CSV UTF-8”",
    ),
    "old macros": (lambda: hand_made(PASSWORD, more={"xl/macrosheets/sheet1.xml": b"x"}), MACROS),
    "an encrypted workbook": (
        lambda: ole("EncryptedPackage"),
        "The Excel workbook is encrypted: remove its password (File → Info → Protect Workbook → Encrypt with "
        "Password) and save it again",
    ),
    "an old workbook": (
        lambda: ole("Workbook"),
        "The file is an old Excel workbook (.xls): "
        "in Excel, save it as “Excel Workbook (.xlsx)” or “CSV UTF-8”",
    ),
    "a very old workbook": (lambda: ole("Book"), OLD_EXCEL),
    "an old document": (
        lambda: ole("WordDocument"),
        "The file is an old Office document: copy the table into a new workbook; in Excel, save it as "
        "“Excel Workbook (.xlsx)” or “CSV UTF-8”",
    ),
    "an empty OLE file": (lambda: b"\xd0\xcf\x11\xe0", OLD_OFFICE),
    "a binary workbook": (
        lambda: zipped({"xl/workbook.bin": b"x"}),
        "The file is a binary Excel workbook (.xlsb): "
        "in Excel, save it as “Excel Workbook (.xlsx)” or “CSV UTF-8”",
    ),
    "an OpenDocument spreadsheet": (
        lambda: zipped({"mimetype": b"application/vnd.oasis.opendocument.spreadsheet", "content.xml": b"x"}),
        "The file is an OpenDocument spreadsheet (.ods): save it as “Excel 2007–365 (.xlsx)”, or as "
        "“Text CSV” with the character set UTF-8",
    ),
    "a Word document": (
        lambda: zipped({"word/document.xml": CANARY}),
        "The file is a Word document: copy the table into a new workbook; in Excel, save it as "
        "“Excel Workbook (.xlsx)” or “CSV UTF-8”",
    ),
    "a Numbers document": (
        lambda: zipped({"Index/Document.iwa": CANARY}),
        "The file is an Apple iWork document: export it as Excel or CSV",
    ),
    "another archive": (
        lambda: zipped({"mailboxes.csv": CANARY}),
        "The file is a ZIP archive, not an Excel workbook: unpack it first",
    ),
    "an empty archive": (lambda: zipped({}), NO_WORKBOOK),
    "an encrypted archive": (
        lambda: encrypted_zip(zipped({"mailboxes.csv": CANARY})),
        "The ZIP archive is encrypted: unpack it first",
    ),
    "a cut archive": (
        lambda: GOOD[:-30],
        "The Excel workbook is damaged: open it in Excel and save it again, or copy it again from its source",
    ),
    "only the beginning of an archive": (lambda: b"PK\x03\x04", DAMAGED),
    "a bomb": (
        lambda: hand_made(sheet=bytes(60_000_000)),
        "The Excel workbook unpacks to more than 50,000,000 bytes: copy the table into a new workbook, or "
        "save it as “CSV UTF-8”",
    ),
    "a bomb whose directory lies": (lambda: lying(hand_made(sheet=bytes(60_000_000)), 1000), DAMAGED),
    "a directory that gives too much": (lambda: lying(GOOD, 49_000_000), DAMAGED),
    "too many entries": (
        lambda: hand_made(PASSWORD, more={f"{at}": b"" for at in range(1_000)}),
        "The Excel workbook has more than 1,000 parts: copy the table into a new workbook",
    ),
    "two parts with one name": (
        lambda: hand_made(PASSWORD, more={"XL/worksheets/Sheet1.xml": b"x"}),
        DAMAGED,
    ),
    "no sheet": (lambda: zipped({"xl/workbook.xml": "<workbook/>"}), DAMAGED),
    "a sheet that is not there": (lambda: without("xl/worksheets/sheet1.xml"), DAMAGED),
    "no relations": (lambda: without("xl/_rels/workbook.xml.rels"), DAMAGED),
    "a sheet that is not XML": (lambda: hand_made(sheet="<worksheet><"), DAMAGED),
    "a sheet that is cut": (lambda: hand_made(sheet=SHEET_OF.format(HEADER)[:-30]), DAMAGED),
    "another encoding": (
        lambda: hand_made(
            sheet="<?xml version='1.0'?>" + SHEET_OF.format(HEADER).encode("utf-16").decode("latin-1")
        ),
        DAMAGED,
    ),
    "a document type": (lambda: hand_made(sheet="<!DOCTYPE worksheet>" + SHEET_OF.format(HEADER)), DAMAGED),
    "entities": (
        lambda: hand_made(
            sheet='<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + SHEET_OF.format(f"{HEADER}&b;")
        ),
        DAMAGED,
    ),
    "a shared string that does not exist": (
        lambda: hand_made(PASSWORD.format('<c t="s"><v>7</v></c>')),
        DAMAGED,
    ),
    "a shared string below zero": (
        lambda: hand_made(PASSWORD.format('<c t="s"><v>-1</v></c>'), strings="<si><t>x</t></si>"),
        DAMAGED,
    ),
    "rows out of order": (lambda: hand_made('<row r="3"/><row r="2"/>'), DAMAGED),
    "a row twice": (lambda: hand_made('<row r="2"/><row r="2"/>'), DAMAGED),
    "cells out of order": (lambda: hand_made('<row r="2"><c r="B2"/><c r="A2"/></row>'), DAMAGED),
    "a cell of another row": (lambda: hand_made('<row r="2"><c r="A3"/></row>'), DAMAGED),
    "a cell without a row": (lambda: hand_made('<row r="2"><c r="A"/></row>'), DAMAGED),
    "a cell beyond the last column": (lambda: hand_made('<row r="2"><c r="ZZZ2"/></row>'), DAMAGED),
    "a row beyond the last": (lambda: hand_made('<row r="1048577"/>'), DAMAGED),
    "a giant row number": (lambda: hand_made(f'<row r="{"9" * 5000}"/>'), DAMAGED),
    "an unknown type of cell": (lambda: hand_made('<row r="2"><c t="x"><v>1</v></c></row>'), DAMAGED),
    "two values": (lambda: hand_made('<row r="2"><c t="str"><v>1</v><v>2</v></c></row>'), DAMAGED),
    "another element in a cell": (lambda: hand_made('<row r="2"><c><x/></c></row>'), DAMAGED),
    "an element nested deep": (lambda: hand_made(sheet="<a>" * 1_000), DAMAGED),
    "an element with many attributes": (
        lambda: hand_made(sheet="<a " + " ".join(f'a{at}=""' for at in range(101)) + "/>"),
        DAMAGED,
    ),
    "many names": (lambda: hand_made(sheet="<a>" + "".join(f"<a{at}/>" for at in range(1_100))), DAMAGED),
    "a giant tag": (lambda: hand_made(sheet=f"<a {' ' * 1_000_000}/>"), DAMAGED),
    "many elements": (lambda: hand_made("<row><c/></row>" * 1_000_000 + "<row/>" * 40_000), TOO_MUCH),
    "many strings": (lambda: hand_made(strings="<si/>" * 1_000_001), TOO_MUCH),
    "many formats": (lambda: hand_made(strings="<x/>" * 4_000_000), TOO_MUCH),
    "one long text in many cells": (
        lambda: hand_made(
            ("<row>" + "<c t='s'><v>0</v></c>" * 50 + "</row>") * 100,
            strings=f"<si><t>{'x' * 32_000}</t></si>",
        ),
        TOO_MUCH,
    ),
    "a cell far down": (
        lambda: hand_made('<row r="1048576"><c t="str"><v>x</v></c></row>'),
        "The Excel sheet has filled cells far away from its table: copy the table into a new workbook, or "
        "delete the other rows and columns",
    ),
    "a cell far down and to the right": (
        lambda: hand_made('<row r="50000"><c r="CA50000" t="str"><v>x</v></c></row>'),
        SPREAD_OUT,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_sentence(name: str) -> None:
    """What is not a plain workbook is refused with a sentence that says what to do, and fast."""
    make, message = REFUSED[name]
    data = make()
    started = time.process_time()
    assert message_of(data) == message
    assert time.process_time() - started < 10


def test_rows_and_columns_have_the_bounds_of_a_csv() -> None:
    """A sheet with more rows or columns than may be read is refused with the sentence for a CSV."""
    bounds = Bounds(rows=3, columns=4)
    rows = [COLUMNS, *([f"u{at}@x.co", "pw"] for at in range(3))]
    assert isinstance(parse(workbook_of(rows), bounds), CsvTable)
    assert isinstance(parse(workbook_of([*rows, [" "]]), bounds), CsvTable)
    assert parse(workbook_of([*rows, ANN]), bounds) == Refusal(bounds.too_many_rows)
    assert parse(workbook_of([*rows[:2], [*ANN, "x"]]), bounds) == Refusal(bounds.too_many_columns)
    assert parse(workbook_of([[*COLUMNS, "x"], ANN]), bounds) == Refusal(bounds.too_many_columns)


def test_a_wide_sheet_before_the_mailboxes() -> None:
    """A sheet with too many columns does not hide the sheet with the mailboxes."""
    wide = [[f"c{at}" for at in range(101)], ["1"]]
    assert table_of(sheets(Wide=wide, Mailboxes=MAILBOXES)).frame.height == 1


@pytest.mark.slow
def test_as_much_as_may_be_read() -> None:
    """10,000 rows of 100 columns are read."""
    cells = "<c t='inlineStr'><is><t>x</t></is></c>" * 98
    row = f"<row><c t='str'><v>a@x.co</v></c><c t='str'><v>pw</v></c>{cells}</row>"
    assert table_of(hand_made(row * 10_000)).frame.height == 10_000


class PanicException(BaseException):
    """Stands in for the exception with this name, which only a bug of calamine raises."""


def test_a_bug_of_calamine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panic of calamine refuses the file; an interruption is not swallowed."""

    class Broken:
        raises: type[BaseException] = PanicException

        @classmethod
        def from_filelike(cls, _: object) -> None:
            raise cls.raises(CANARY)

    monkeypatch.setattr(workbook, "CalamineWorkbook", Broken)
    assert message_of(GOOD) == DAMAGED
    Broken.raises = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        parse(GOOD)


PARTS = parts_of(workbook_of([COLUMNS, ANN, ["bob@x.co", 5], ["", "", "x"]]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_never_raises(data: st.DataObject) -> None:
    """A workbook with bytes of a part replaced is read or refused, and no sentence quotes a cell."""
    name = data.draw(st.sampled_from(sorted(name for name in PARTS if name.startswith("xl/"))))
    part = PARTS[name]
    assert isinstance(part, bytes)
    start = data.draw(st.integers(0, len(part)))
    length = data.draw(st.integers(0, 20))
    piece = data.draw(
        st.sampled_from([b"", b"<", b">", b"</c>", b'"', b"A1", b"9", b"\xff", b"<v>", b"&x;"])
        | st.binary(max_size=8)
    )
    result = prepare_rows(zipped(PARTS | {name: part[:start] + piece + part[start + length :]}))
    assert isinstance(result, Prepared) or CANARY not in str(result)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, 20), st.binary(max_size=8))
def test_a_damaged_archive_never_raises(start: int, length: int, piece: bytes) -> None:
    """An archive with bytes replaced is read or refused."""
    prepare_rows(b"PK\x03\x04" + (GOOD[:start] + piece + GOOD[start + length :])[4:])


# --- The rows that failed --------------------------------------------


def test_failed_rows_become_a_csv() -> None:
    """The failed rows keep all columns, behind `error`; a secret that is not text is left out."""
    rows: list[list[object]] = [
        ["Phone", "email", "password", "Date", "error", "name"],
        [49, "ann@example.com", 12345, datetime.date(2024, 5, 3), "old", "Ann"],
        ["", "bob@example.com", "pw"],
        ["0049", "no address", " a,b ", True, "", 7],
    ]

    def fill(book: Workbook) -> None:
        sheet, date = book.add_worksheet(), book.add_format({"num_format": "d.m.yy"})
        fill_sheet(sheet, rows)
        sheet.write_datetime(1, 3, datetime.datetime(2024, 5, 3), date)  # noqa: DTZ001  a cell has no time zone
        sheet.write_string(3, 7, "no header")

    data = built(fill)
    prepared = prepared_of(data)
    failed = extract_rows(data, {error.line: error.reason.message for error in prepared.errors})
    assert failed.startswith(b"\xef\xbb\xbf")
    assert list(csv.reader(io.StringIO(failed.decode("utf-8-sig")))) == [
        ["error", "Phone", "email", "password", "Date", "name", "", ""],
        [RowReason.NOT_TEXT.message, "49", "ann@example.com", "", "2024-05-03", "Ann", "", ""],
        [RowReason.INVALID_EMAIL.message, "0049", "no address", " a,b ", "TRUE", "7", "", "no header"],
    ]
    table = parse_csv(failed)
    assert isinstance(table, CsvTable)
    assert table.frame["extra_cells"].to_list() == [False, False]


def test_failed_rows_of_the_right_sheet() -> None:
    """The failed rows come from the sheet that was read."""
    mailboxes = [["May"], [], ["password", "email"], ["pw", "ann"]]
    data = sheets(Notes=NOTES, hidden=MAILBOXES, Mailboxes=mailboxes)
    assert extract_rows(data, {4: "E"}).decode("utf-8-sig") == "error,password,email\r\nE,pw,ann\r\n"
