"""The files that can be read, the refusals of those that cannot, and that no refusal shows a password."""

from __future__ import annotations

import codecs
import copy
import csv
import gzip
import io
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import csv_file
from schemas.bounds import Bounds
from schemas.csv_file import (
    BROKEN_QUOTE,
    DELIMITERS,
    ENDLESS_ROW,
    ENDLESS_VALUE,
    LONGEST_ROW,
    STRAY_RETURN,
    CsvTable,
    extract_rows,
    parse,
)
from schemas.headers import FIELDS, Columns
from schemas.plaintext import Plaintext
from schemas.refusals import COLUMNS_REQUIRED, CSV_EMPTY, CSV_REQUIRED, Refusal
from schemas.rows import validate
from tasks.files.read_file import read_bytes
from tests.support.nasty_files import NASTY

CANARY = "Canary-5ecret"

NUL = "CSV file is not text: it contains NUL bytes; export the table again, as “CSV UTF-8”"


def utf_16(order: str) -> str:
    return (
        "CSV file is not text: it contains NUL bytes; save it as “CSV UTF-8”, "
        f"or specify its encoding (usually --encoding utf-16-{order})"
    )


def not_utf8(line: int, usually: str = " (usually --encoding cp1252 on Western Windows)") -> str:
    advice = f"save it as “CSV UTF-8”, or specify its encoding{usually}"
    return f"Line {line}: the file is not valid UTF-8 text; {advice}"


def rows_of(table: CsvTable) -> list[tuple[int, str, str]]:
    return list(table.frame.select("line", "email", "password").iter_rows())


def table_of(data: bytes | str, encoding: str | None = None) -> CsvTable:
    table = parse(data.encode() if isinstance(data, str) else data, encoding)
    assert isinstance(table, CsvTable), table
    return table


PLAIN = f"email,password\nann@x.co,{CANARY}\n"
ONE_ROW = [(2, "ann@x.co", CANARY)]
TWO_ROWS = [(2, "ann@x.co", "pw"), (3, "bob@x.co", "pw2")]

READABLE: dict[str, tuple[bytes | str, list[tuple[int, str, str]]]] = {
    "plain": (PLAIN, ONE_ROW),
    "utf-8 mark": (codecs.BOM_UTF8 + PLAIN.encode(), ONE_ROW),
    "two utf-8 marks": (codecs.BOM_UTF8 * 2 + PLAIN.encode(), ONE_ROW),
    "utf-16 little-endian mark": (codecs.BOM_UTF16_LE + PLAIN.encode("utf-16-le"), ONE_ROW),
    "utf-16 big-endian mark": (codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"), ONE_ROW),
    "utf-32 little-endian mark": (codecs.BOM_UTF32_LE + PLAIN.encode("utf-32-le"), ONE_ROW),
    "utf-32 big-endian mark": (codecs.BOM_UTF32_BE + PLAIN.encode("utf-32-be"), ONE_ROW),
    "sep line": ("sep=;\r\nemail;password\r\nann@x.co;pw\r\n", [(3, "ann@x.co", "pw")]),
    "blank lines around the sep line": (
        "\n SEP=| \n \nemail|password\nann@x.co|pw\n",
        [(5, "ann@x.co", "pw")],
    ),
    "wrong sep line": ("sep=;\nemail,password\nann@x.co,pw\n", [(3, "ann@x.co", "pw")]),
    "semicolon": ("email;password\nann@x.co;p,w\n", [(2, "ann@x.co", "p,w")]),
    "tab": ("email\tpassword\nann@x.co\tp;w\n", [(2, "ann@x.co", "p;w")]),
    "pipe": ("email|password\nann@x.co|p\tw\n", [(2, "ann@x.co", "p\tw")]),
    "a delimiter that matches more columns wins": (
        "email,password;name;email;password\nx;Ann;ann@x.co;pw\n",
        [(2, "ann@x.co", "pw")],
    ),
    "old Mac line ends": ("email,password\rann@x.co,pw\rbob@x.co,pw2\r", TWO_ROWS),
    "doubled returns": ("email,password\r\r\nann@x.co,pw\r\r\n", [(2, "ann@x.co", "pw")]),
    "mixed line ends": ("email,password\r\nann@x.co,pw\nbob@x.co,pw2\r\n", TWO_ROWS),
    "a return at the very end": ("email,password\nann@x.co,pw\r", [(2, "ann@x.co", "pw")]),
    "no final newline": ("email,password\nann@x.co,pw", [(2, "ann@x.co", "pw")]),
    "blank rows of every kind": (
        'email,password\n\n  \n,\n" ",""\nann@x.co,pw\n\t\n,,,\n\x1c,\n',
        [(6, "ann@x.co", "pw")],
    ),
    "blank first lines": ("\n \n\t\nemail,password\nann@x.co,pw\n", [(5, "ann@x.co", "pw")]),
    "a blank record before the header": (",,\nemail,password\nann@x.co,pw\n", [(3, "ann@x.co", "pw")]),
    "quoted line breaks": (
        'email,password,note\nann@x.co,pw,"a\n\nb"\nbob@x.co,pw2,\n',
        [(2, "ann@x.co", "pw"), (5, "bob@x.co", "pw2")],
    ),
    "line break in a quoted header": ('email,"pass\nword"\nann@x.co,pw\n', [(3, "ann@x.co", "pw")]),
    "quoted return": ('email,password\nann@x.co,"p\rw"\n', [(2, "ann@x.co", "p\rw")]),
    "quoted delimiter": ('email,password\nann@x.co,"p,w"\n', [(2, "ann@x.co", "p,w")]),
    "doubled quotation marks": ('email,password\nann@x.co,"p""w"""\n', [(2, "ann@x.co", 'p"w"')]),
    "leading zeros": ("email,password\nann@x.co,00123\n", [(2, "ann@x.co", "00123")]),
    "numbers stay unchanged": ("email,password\nann@x.co,1e5\n", [(2, "ann@x.co", "1e5")]),
    "null": ("email,password\nann@x.co,null\n", [(2, "ann@x.co", "null")]),
    "NA": ("email,password\nann@x.co,NA\n", [(2, "ann@x.co", "NA")]),
    "a hash is not a comment": ("email,password\n#ann@x.co,#pw\n", [(2, "#ann@x.co", "#pw")]),
    "backslash and apostrophes": ("email,password\nann@x.co,p\\'w'\n", [(2, "ann@x.co", "p\\'w'")]),
    "edge spaces": ("email,password\nann@x.co,  p w \n", [(2, "ann@x.co", "  p w ")]),
    "marks inside": ("email,password\n\ufeffann@x.co,\ufeffpw\n", [(2, "\ufeffann@x.co", "\ufeffpw")]),
    "a row too short": ("email,password\nann@x.co\n", [(2, "ann@x.co", "")]),
    "non-ASCII values": ("email,password\nann@x.co,pässwörd😀\n", [(2, "ann@x.co", "pässwörd😀")]),
    "Unicode line ends": ("email,password\nann@x.co,\u2028\x85w\n", [(2, "ann@x.co", "\u2028\x85w")]),
    "10,000 characters": (f"email,password\nann@x.co,{'x' * 10_000}\n", [(2, "ann@x.co", "x" * 10_000)]),
    "user name with addresses": ("user name,password\nann@x.co,pw\n", [(2, "ann@x.co", "pw")]),
    "non-ASCII and known headers": ("Имя,email,password\nАня,ann@x.co,pw\n", [(2, "ann@x.co", "pw")]),
}  # fmt: skip


@pytest.mark.parametrize(("data", "rows"), READABLE.values(), ids=READABLE)
def test_readable(data: bytes | str, rows: list[tuple[int, str, str]]) -> None:
    """An odd but unambiguous file gives its rows with correct line numbers, every cell byte for byte."""
    assert rows_of(table_of(data)) == rows


HEADER = "email,password,name\n"

REFUSED: dict[str, tuple[bytes | str, str]] = {
    "empty": (b"", CSV_EMPTY),
    "only blanks": (" \n\t\r\n\n", CSV_EMPTY),
    "only a byte order mark": (codecs.BOM_UTF8, CSV_EMPTY),
    "only a sep line": ("sep=;\n", CSV_EMPTY),
    "only a quoted blank": ('""\n', CSV_EMPTY),
    "a header only": ("email,password\n", CSV_EMPTY),
    "a header and blank rows": ("email,password\n,\n  \n\n", CSV_EMPTY),
    "an unknown header only": ("a,b\n", CSV_EMPTY),
    "one column": ("email\nann@x.co\n", COLUMNS_REQUIRED),
    "no header": (f"ann@x.co,{CANARY}\nbob@x.co,{CANARY}\n", COLUMNS_REQUIRED),
    "no password column": ("email,name\nann@x.co,Ann\n", COLUMNS_REQUIRED),
    "no email column": (f"password,name\n{CANARY},Ann\n", COLUMNS_REQUIRED),
    "unknown columns, quoted": (f'"mail box";"secret"\n"ann@x.co";"{CANARY}"\n', COLUMNS_REQUIRED),
    "user name without addresses": (f"user name,password\nann,{CANARY}\n", COLUMNS_REQUIRED),
    "user name is blank": (f"user name,password\n,{CANARY}\n", COLUMNS_REQUIRED),
    "headers in another language": (f"Почта,Пароль\nann@x.co,{CANARY}\n", COLUMNS_REQUIRED),
    "unsupported delimiter": (f"email:password\nann@x.co:{CANARY}\n", COLUMNS_REQUIRED),
    "double header": (
        f"email,password,Password\nann@x.co,{CANARY},\n",
        "Two columns are named “Password”: rename or remove one of them",
    ),
    "two columns with one meaning": (
        f"email,password,App password\nann@x.co,{CANARY},\nbob@x.co,{CANARY},pw\n",
        "Line 3: columns “password” and “App password” hold different passwords: remove one of them",
    ),
    "too many columns": (
        f"email,password{',' * 99}\nann@x.co,{CANARY}\n",
        "CSV file has more than 100 columns: remove the ones you do not need",
    ),
    "too many columns before the email column": (
        f"{'x,' * 100}email,password\n",
        "CSV file has more than 100 columns: remove the ones you do not need",
    ),
    "too many rows": (
        "email,password\n" + "a@x.co,p\n" * 10_000 + f"ann@x.co,{CANARY}\n",
        "CSV file has more than 10,000 rows: split it into files of at most 500 mailboxes",
    ),
    "too many rows, one of them broken beyond the bound": (
        "email,password\n" + "a@x.co,p\n" * 10_000 + f'ann@x.co,{CANARY}"x\n',
        "CSV file has more than 10,000 rows: split it into files of at most 500 mailboxes",
    ),
    "too many quoted blank rows": (
        'email,password\n' + '"",""\n' * 10_001,
        "CSV file has more than 10,000 rows: split it into files of at most 500 mailboxes",
    ),
    "too many quoted blank rows before the header": (
        '"",""\n' * 10_001 + PLAIN,
        "CSV file has more than 10,000 rows: split it into files of at most 500 mailboxes",
    ),
    "too many rows below a user name column": (
        "user name,password\n" + "a@x.co,p\n" * 10_001,
        "CSV file has more than 10,000 rows: split it into files of at most 500 mailboxes",
    ),
    "a row that is too long": (
        f"email,password,name\nann@x.co,{CANARY}{',x' * 500_000}\n",
        f"Line 2: {ENDLESS_ROW}",
    ),
    "gzip": (gzip.compress(PLAIN.encode()), "CSV file is a gzip archive; unpack it first"),
    "Zstandard": (b"\x28\xb5\x2f\xfd\x04", "CSV file is a Zstandard archive; unpack it first"),
    "bzip2": (b"BZh91AY", "CSV file is a bzip2 archive; unpack it first"),
    "xz": (b"\xfd7zXZ\x00", "CSV file is an xz archive; unpack it first"),
    "PDF": (b"%PDF-1.7", "CSV file is a PDF document; save the table as CSV"),
    "NUL": (f"email,password\nann@x.co,{CANARY}\0\n", NUL),
    "utf-16 without a mark": (PLAIN.encode("utf-16-le"), utf_16("le")),
    "utf-16 big-endian without a mark": (PLAIN.encode("utf-16-be"), utf_16("be")),
    "cp1252": (f"{HEADER}ann@x.co,{CANARY},Ann\nbob@x.co,pw,Bärbel\n".encode("cp1252"), not_utf8(3)),
    "cp1252 after a utf-8 mark": (codecs.BOM_UTF8 + b"email,password\nann@x.co,\xe9\n", not_utf8(2)),
    "cp1252 with old Mac line ends": (b"email,password\rann@x.co,\xe9\r", not_utf8(2)),
    "Cyrillic": (f"{HEADER}ann@x.co,{CANARY},Аня\n".encode("cp1251"), not_utf8(2, "")),
    "Japanese": (f"{HEADER}ann@x.co,{CANARY},太郎\n".encode("shift-jis"), not_utf8(2, "")),
    "Chinese": (f"{HEADER}ann@x.co,{CANARY},张三\n".encode("gbk"), not_utf8(2, "")),
    "old Mac letters": (f"{HEADER}ann@x.co,{CANARY},Jürg\n".encode("mac-roman"), not_utf8(2, "")),
    "Polish": (f"{HEADER}ann@x.co,{CANARY},Łukasz Żak\n".encode("cp1250"), not_utf8(2, "")),
    "French": (f"{HEADER}ann@x.co,{CANARY},Zoë – créée à Nîmes\n".encode("cp1252"), not_utf8(2)),
    "truncated utf-16": (
        codecs.BOM_UTF16_LE + PLAIN.encode("utf-16-le") + b"x",
        "Line 3: the file is not valid UTF-16-LE text; save it as “CSV UTF-8”",
    ),
    "stray return": (f"email,password\nann@x.co,{CANARY}\rbob@x.co,pw\n", f"Line 2: {STRAY_RETURN}"),
    "quote never closed": (f'{HEADER}ann@x.co,"{CANARY},Ann\nbob@x.co,pw,Bob\n', f"Line 2: {BROKEN_QUOTE}"),
    "quote never closed in a long file": (
        f'{HEADER}ann@x.co,"{CANARY},Ann\n' + "bob@x.co,pw,Bob\n" * 10_000,
        f"Line 2: {ENDLESS_VALUE}",
    ),
    "quote closed too early": (f'{HEADER}ann@x.co,pw,\nbob@x.co,"{CANARY}"x,\n', f"Line 3: {BROKEN_QUOTE}"),
    "quote closed lines later": (f'{HEADER}ann@x.co,"pw,\nbob@x.co,"{CANARY}",\n', f"Line 2: {BROKEN_QUOTE}"),
    "quote in an unquoted value": (
        f'{HEADER}\nann@x.co,"a\nb",\nbob@x.co,{CANARY}"x,\n',
        f"Line 5: {BROKEN_QUOTE}",
    ),
    "two quotes in an unquoted value": (f'{HEADER}ann@x.co,{CANARY}"x",\n', f"Line 2: {BROKEN_QUOTE}"),
    "one quote each in two unquoted values": (f'{HEADER}ann@x.co,{CANARY}"x,A"\n', f"Line 2: {BROKEN_QUOTE}"),
    "a space before the quotes": (f'{HEADER}ann@x.co, "{CANARY}",Ann\n', f"Line 2: {BROKEN_QUOTE}"),
    "a space after the quotes": (f'{HEADER}ann@x.co,"{CANARY}" ,Ann\n', f"Line 2: {BROKEN_QUOTE}"),
    "two broken quotes": (f'{HEADER}ann@x.co,{CANARY}"x,\nbob@x.co,{CANARY}"x,\n', f"Line 2: {BROKEN_QUOTE}"),
    "quote in an extra cell": (f'{HEADER}ann@x.co,{CANARY},,,5"\n', f"Line 2: {BROKEN_QUOTE}"),
    "quote in the header": (f'email,"pass"word\nann@x.co,{CANARY}\n', f"Line 1: {BROKEN_QUOTE}"),
    "quote below a user name column": (
        f'user name,password\nann@x.co,pw\nann@x.co,"{CANARY}"x"\n',
        f"Line 3: {BROKEN_QUOTE}",
    ),
    "quote after a sep line": (f'\nsep=,\n\n{HEADER}ann@x.co,{CANARY}"x,\n', f"Line 5: {BROKEN_QUOTE}"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes | str, message: str) -> None:
    """A file that could only be read with a guess is refused in one sentence, without quoting a value."""
    refusal = parse(data.encode() if isinstance(data, str) else data)
    assert isinstance(refusal, Refusal)
    assert refusal.message == message
    assert CANARY not in f"{refusal}"


@pytest.mark.parametrize(
    ("data", "encoding", "expected"),
    [
        pytest.param("email,password\nann@x.co,pé\n".encode("cp1252"), "cp1252", "pé", id="cp1252"),
        pytest.param(
            "email,password\nann@x.co,pé\n".encode("utf-16-le"), "utf-16-le", "pé", id="no byte order mark"
        ),
        pytest.param("email,password\nann@x.co,пароль\n".encode("koi8-r"), "koi8-r", "пароль", id="koi8-r"),
        pytest.param(
            codecs.BOM_UTF8 + "email,password\nann@x.co,pé\n".encode(),
            "cp1252",
            "pé",
            id="byte order mark wins",
        ),
    ],
)
def test_named_encoding(data: bytes, encoding: str, expected: str) -> None:
    """A named encoding reads a file without a byte order mark."""
    assert rows_of(table_of(data, encoding)) == [(2, "ann@x.co", expected)]


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        pytest.param(
            PLAIN.encode(),
            "klingon",
            "Unknown text encoding 'klingon': try cp1252 or utf-16",
            id="no such encoding",
        ),
        *(
            pytest.param(
                PLAIN.encode() + b"a" * 100_000 + b"-b",
                name,
                f"Unknown text encoding '{name}': try cp1252 or utf-16",
                id=name,
            )
            for name in ("idna", "punycode", "unicode_escape", "raw-unicode-escape")
        ),
        pytest.param(
            PLAIN.encode(),
            "hex",
            "Unknown text encoding 'hex': try cp1252 or utf-16",
            id="not a text encoding",
        ),
        pytest.param(
            PLAIN.encode(),
            "a\0b",
            "Unknown text encoding 'a\\x00b': try cp1252 or utf-16",
            id="NUL",
        ),
        pytest.param(
            b"email,password\nann@x.co,\x81\n",
            "cp1252",
            "Line 2: the file is not valid CP1252 text; save it as “CSV UTF-8”",
            id="another encoding than named",
        ),
        pytest.param(
            b"email,password\nann@x.co,+2AA-\n",
            "utf-7",
            "Line 2: the file is not valid UTF-7 text; save it as “CSV UTF-8”",
            id="half a character",
        ),
    ],
)
def test_encoding_that_does_not_fit(data: bytes, encoding: str, message: str) -> None:
    """An unknown or unsuitable encoding refuses the file."""
    refusal = parse(data, encoding)
    assert isinstance(refusal, Refusal)
    assert refusal.message == message


def test_columns() -> None:
    """The frame has all fields, and the table names the columns that it did not use."""
    table = table_of(
        'Notes,Display Name,E-Mail Address,,"App\nPassword",Ünïcode\nn,Ann,ann@x.co,e,pw,u\n,,bob@x.co,,pw2\n'
    )
    assert table.ignored == ("Notes", "Ünïcode")
    assert table.frame.schema == pl.Schema(
        {"line": pl.UInt32, "extra_cells": pl.Boolean} | dict.fromkeys(FIELDS, pl.String)
    )
    assert table.frame.rows() == [
        (3, False, "ann@x.co", "pw", "Ann", "", ""),
        (4, False, "bob@x.co", "pw2", "", "", ""),
    ]


@pytest.mark.parametrize("cells", [3, 4, 2_000])
def test_too_many_cells(cells: int) -> None:
    """A row with more cells than the header is marked, and no row loses a cell."""
    row = ",".join(["ann@x.co", CANARY, *['"x\ny"'] * (cells - 2)])
    table = table_of(f"email,password\n{row}\nbob@x.co,pw\n")
    assert table.frame["extra_cells"].to_list() == [True, False]
    assert [password for _, _, password in rows_of(table)] == [CANARY, "pw"]


def test_empty_extra_cells() -> None:
    """Blank cells behind the last column are no extra cells: spreadsheets add them."""
    table = table_of("email,password\nann@x.co,pw,,\nbob@x.co,pw,,x\n")
    assert table.frame["extra_cells"].to_list() == [False, True]


def test_long_file() -> None:
    """A file of 10,000 rows with line breaks in cells is read completely, and blank rows do not count."""
    rows = "".join(f'u{at}@x.co,"p""{at}","a\n""b"",\n"\n\n,,\n' for at in range(10_000))
    table = table_of(f"email,password,name\n{rows}" + ",,,\n" * 20_000)
    assert table.frame.height == 10_000
    assert rows_of(table)[-1] == (2 + 5 * 9_999, "u9999@x.co", 'p"9999')


def test_bounds_can_be_set() -> None:
    """A file within the bounds is read; one row or one column more is refused with the bound."""
    data, bounds = b"email,password,a\nann@x.co,pw,\nbob@x.co,pw2,\n", Bounds(rows=2, columns=3)
    assert rows_of(table_of(data)) == TWO_ROWS
    table = parse(data, bounds=bounds)
    assert isinstance(table, CsvTable)
    assert rows_of(table) == TWO_ROWS
    assert parse(data + b"cleo@x.co,pw3,\n", bounds=bounds) == Refusal(
        "CSV file has more than 2 rows: split it into files of at most 500 mailboxes"
    )
    assert parse(data, bounds=replace(bounds, columns=2)) == Refusal(
        "CSV file has more than 2 columns: remove the ones you do not need"
    )


def test_too_many_columns_for_one_delimiter() -> None:
    """A delimiter that gives too many columns does not matter if another one gives a header that matches."""
    table = table_of(f"email;password;{'x,' * 200}\nann@x.co;pw;\n")
    assert rows_of(table) == [(2, "ann@x.co", "pw")]


class CountingReaders:
    """Stands in for the `csv` module's reader and counts what it is given and what it returns."""

    def __init__(self) -> None:
        self.records = self.most_cells = self.characters = 0

    def __call__(self, lines: Iterator[str], **options: Any) -> Iterator[list[str]]:
        for cells in csv.reader(map(self._count, lines), **options):
            self.records += 1
            self.most_cells = max(self.most_cells, len(cells))
            yield cells

    def _count(self, line: str) -> str:
        self.characters += len(line)
        return line


@pytest.mark.parametrize("make", NASTY.values(), ids=NASTY)
def test_work_is_bounded(make: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """No more records and cells are parsed than a file may have, and little text beyond them."""
    readers = CountingReaders()
    monkeypatch.setattr(csv_file, "csv", SimpleNamespace(reader=readers, Error=csv.Error))
    bounds = Bounds(rows=100)
    data = make(3 * LONGEST_ROW)
    found = parse(data, bounds=bounds)
    tries = len(DELIMITERS) + 1
    assert readers.records <= tries * (bounds.rows + 1)
    assert readers.most_cells <= LONGEST_ROW
    assert readers.characters <= tries * LONGEST_ROW
    assert not isinstance(found, CsvTable) or found.frame.height <= bounds.rows


# --- Failed rows -----------------------------------------------------


@pytest.mark.parametrize(
    ("data", "copied"),
    [
        ("email,password\nann,pw\nbob@x.co,pw\n", "error,email,password\r\nWhy,ann,pw\r\n"),
        (";;\nemail;password\n;\nann;p,w\n", "error;email;password\r\nWhy;ann;p,w\r\n"),
        (
            "error,email,password\nOld,ann,pw\nOld,bob@x.co,pw\n",
            "error,email,password\r\nWhy,ann,pw\r\n",
        ),
        ("email,password,ERROR\nann\n", "email,password,error\r\nann,,Why\r\n"),
        ("email,password,Error\nann,pw,Old,x\n", "email,password,error\r\nann,pw,Why,x\r\n"),
    ],
    ids=["plain", "blank cells before the header", "a second copy", "a row too short", "a row too long"],
)
def test_failed_rows_can_be_read_again(data: str, copied: str) -> None:
    """The file of failed rows has their header and one error column, however often it is copied."""
    validated = validate(table_of(data))
    copy = extract_rows(data.encode(), {error.line: "Why" for error in validated.errors})
    assert copy == codecs.BOM_UTF8 + copied.encode()
    assert len(validate(table_of(copy)).errors) == len(validated.errors)


# --- reading the file ------------------------------------------------


def test_reads_a_file(tmp_path: Path) -> None:
    """A regular file up to the limit is read as bytes."""
    file = tmp_path / "mailboxes [1]*.csv"
    file.write_bytes(b"\xff" * 100)
    assert read_bytes(file, 100) == b"\xff" * 100


def test_over_the_limit(tmp_path: Path) -> None:
    """A file one byte over the limit is refused, with the limit and what to do."""
    file = tmp_path / "mailboxes.csv"
    file.write_bytes(b"x" * 12_346)
    assert read_bytes(file, 12_345) == Refusal(
        "CSV file is larger than 12,345 bytes: split it into files of at most 500 mailboxes"
    )


def test_missing_file(tmp_path: Path) -> None:
    """A missing file gets the refusal that a file is required."""
    assert read_bytes(tmp_path / "none.csv", 100) == Refusal(CSV_REQUIRED, "there is no file with this name")


@pytest.mark.parametrize("kind", ["folder", "FIFO", "device"])
def test_no_regular_file(kind: str, tmp_path: Path) -> None:
    """A folder, a pipe without a writer and an endless device are refused at once."""
    path = tmp_path / "thing.csv"
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path = Path("/dev/zero")
    assert read_bytes(path, 100) == Refusal(CSV_REQUIRED, "it is a folder, a device or a pipe, not a file")


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("a\0b.csv", "it cannot be read: invalid file name"),
        ("x" * 300, "it cannot be read: File name too long"),
        ("file.csv/x.csv", "it cannot be read: Not a directory"),
        ("loop", "it cannot be read: Too many levels of symbolic links"),
    ],
    ids=["NUL", "too long", "below a file", "loop"],
)
def test_invalid_file_name(name: str, detail: str, tmp_path: Path) -> None:
    """An invalid file name is refused with the system's message."""
    (tmp_path / "file.csv").touch()
    (tmp_path / "loop").symlink_to("loop")
    assert read_bytes(tmp_path / name, 100) == Refusal(CSV_REQUIRED, detail)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_file_that_fails_while_it_is_read() -> None:
    """An input error after opening is also a refusal."""
    assert read_bytes(Path("/proc/self/mem"), 100) == Refusal(
        CSV_REQUIRED, "it cannot be read: Input/output error"
    )


def test_unreadable_file(tmp_path: Path) -> None:
    """A file without read permission is refused with a message."""
    file = tmp_path / "mailboxes.csv"
    file.write_text(PLAIN)
    file.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root can read everything
    try:
        assert read_bytes(file, 100) == Refusal(CSV_REQUIRED, "it cannot be read: Permission denied")
    finally:
        os.seteuid(user)


def test_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """Reading leaves no descriptor open, whatever the path."""
    (tmp_path / "file.csv").touch()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for name in (".", "file.csv", "none"):
        read_bytes(tmp_path / name, 100)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# --- no leaks --------------------------------------------------------


def test_refusal_shows_itself() -> None:
    """A refusal is the contract's envelope; what else is known is beside the message, in `details`."""
    refusal = Refusal(CSV_REQUIRED, "there is no file with this name")
    details = {"explanation": "There is no file with this name."}
    error = {"code": "VALIDATION_ERROR", "message": "CSV file is required"}
    assert refusal.envelope() == {"success": False, "error": error | {"details": details}}
    assert Refusal(CSV_REQUIRED).envelope() == {"success": False, "error": error}
    assert str(refusal) == "CSV file is required (there is no file with this name)"
    assert str(Refusal(CSV_EMPTY)) == "CSV file is empty"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plaintext_is_never_pickled(protocol: int) -> None:
    """Objects that contain passwords cannot be pickled, in any protocol."""
    table = table_of(PLAIN)
    for plaintext in (table, validate(table)):
        with pytest.raises(TypeError, match="holds passwords and cannot be pickled"):
            pickle.dumps(plaintext, protocol)


def test_plaintext_is_never_shown() -> None:
    """Objects that contain passwords show only their name, and cannot be copied."""
    table = table_of(PLAIN)
    for plaintext in (table, validate(table)):
        assert isinstance(plaintext, Plaintext)
        shown = f"{plaintext} {plaintext!r} {plaintext!s} {[plaintext]} %s" % plaintext
        assert CANARY not in shown
        assert "ann@x.co" not in shown
        with pytest.raises(TypeError):
            copy.copy(plaintext)


@pytest.mark.parametrize("row", [f'ann@x.co,"{CANARY}"x', f'ann@x.co,"{CANARY}', f'ann@x.co,{CANARY}"'])
def test_polars_error_is_dropped(row: str) -> None:
    """The text of a Polars error, which quotes cells, is not passed on."""
    columns = Columns({"email": 0, "password": 1}, width=2, unused={})
    assert csv_file._read_with_polars(f"email,password\n{row}\n", ",", columns, widest=2) is None


# --- properties ------------------------------------------------------

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    records=st.lists(st.tuples(CELLS.filter(str.strip), CELLS, CELLS), min_size=1, max_size=8),
    delimiter=st.sampled_from(",;\t|"),
    line_end=st.sampled_from(["\n", "\r\n", "\r\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_was_written_is_read(
    records: list[tuple[str, str, str]], delimiter: str, line_end: str, encoding: str, quoting: int
) -> None:
    """Every file that a CSV writer produces is read byte for byte."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=line_end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(["password", "note", "email"])
    writer.writerows(records)
    table = table_of(buffer.getvalue().encode(encoding))
    assert table.frame["password"].to_list() == [password for password, _, _ in records]
    assert table.frame["email"].to_list() == [email for _, _, email in records]
