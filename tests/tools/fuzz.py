"""Properties of any file, any upload and any server, and strategies that look for counterexamples.

    python -m tests.tools.fuzz [--minutes 20]

runs every property in turn with new examples until the time is up, prints how many there were, and stops
with 1 and the smallest example of the first finding. The test suite runs the same properties briefly.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import codecs
import csv
import encodings.aliases
import io
import json
import logging
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count, cycle, product
from pathlib import Path
from typing import Any, NamedTuple

import trustme
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning
from pydantic import SecretStr
from sqlalchemy import text as sql
from starlette.requests import Request
from starlette.types import Message

from flows.api.multipart import Upload, read_upload
from flows.cli.app import main as command_line
from sandbox.certificates import server_context
from schemas.classify import classify
from schemas.csv_file import DELIMITERS, CsvTable, extract_rows, parse
from schemas.damage import clean_email, clean_password
from schemas.headers import FILLS_GAPS, KNOWN_HEADERS, Columns, find_columns
from schemas.preview import preview
from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason, Reply, Stage
from schemas.refusals import COLUMNS_REQUIRED, Refusal
from schemas.reply_text import LONGEST_BACKOFF, LONGEST_TEXT, backoff_named, one_line
from schemas.rows import Deduped, Validated, dedupe, validate
from schemas.sealing import Owner
from schemas.settings import Settings
from tasks.files.report_file import write_report_file
from tasks.login.session import log_in
from tasks.login.wire import Credentials, tls_context
from tasks.storage.database import Database, database

CANARY = "Canary-5ecret"

# --- Files -----------------------------------------------------------


class File(NamedTuple):
    """An input file: its bytes, and the encoding that the user may name for it."""

    data: bytes
    encoding: str | None


ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
# Text that causes problems in CSV readers, terminals, spreadsheets and mail servers.
SPLINTERS = [
    *('"', '""', ",", ";", "\t", "|", "\n", "\r\n", "\r", "\r\r\n", "\x0b", "\x0c", "\x1c", "\x85"),
    *(
        "\u2028",
        " ",
        "\u00a0",
        "\ufeff",
        "\x1b[31m",
        "\x7f",
        "\u202e",
        "'",
        "\\",
        "sep=;\n",
        "email,password\n",
    ),
    *("é", "e\u0301", "😀", "ß", "ſ", "İ", "\ufffd", "--", ":", "@", "=1+1", "+A1", "-2", "#", "%00"),
    *("null", "NA", "00123", "1e5", "x" * 257, "error", CANARY),
]
# Bytes that make a file invalid as text: for whole files only.
NO_TEXT = [b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf"]
EMAILS = st.one_of(
    st.sampled_from(
        ["ann@outlook.com", "Ann@Outlook.COM", " ann@outlook.com", "bob@hotmail.com", "BOB@hotmail.com"]
    ),
    st.from_regex(r"[a-z]{1,3}@[a-z]{1,3}\.(co|de)", fullmatch=True),
    st.sampled_from(
        [
            *("user@bücher.example.com", "user@xn--bcher-kva.example.com", "user@xn--.co", "ann@localhost"),
            *('"a b"@x.co', "a@[127.0.0.1]", "ann", "ann@", "@x.co", "", " ", "ann@x.test", "ſam@x.co"),
            *("a" * 65 + "@x.co", "x" * 250 + "@x.co", "ann@x.co;pw", "=cmd|' /C calc'!A0", "ann@x..co"),
        ]
    ),
    st.builds("{}@{}.co".format, ANY_TEXT, ANY_TEXT),
    ANY_TEXT,
)
PASSWORDS = st.one_of(
    st.sampled_from(
        [CANARY, "abcd efgh ijkl mnop", "abcdefghijklmnop", " edge ", "x" * 256, "pä$$ wörd", ""]
    ),
    st.lists(st.sampled_from([*SPLINTERS, "pw", "word"]), max_size=4).map("".join),
    ANY_TEXT,
)
TOTP_SECRETS = st.one_of(
    st.sampled_from(["", "", "JBSWY3DPEHPK3PXP", " jbsw y3dp-ehpk 3pxp ", "1", "A" * 513]),
    st.builds(
        "{}://{}/{}?{}={}&digits={}&period={}&algorithm={}".format,
        st.sampled_from(["otpauth", "OTPAUTH", "otpauth:"]),
        st.sampled_from(["totp", "TOTP", "hotp", "[totp", "totp@x", "", "\u2100"]),
        ANY_TEXT,
        st.sampled_from(["secret", "Secret", "x"]),
        st.sampled_from(["JBSWY3DPEHPK3PXP", "jbsw+y3dp", "", "ı", "%00", "A", "%"]),
        st.sampled_from(["6", "8", "٦", "", "-1", "9" * 5000]),
        st.sampled_from(["30", "0", "99999", "1e9", "٣"]),
        st.sampled_from(["SHA1", "sha-256", "MD5", "ſha1", ""]),
    ),
    ANY_TEXT,
)
NAMES = st.one_of(st.sampled_from(["", "Ann", "x" * 201, "=1+1"]), st.sampled_from(SPLINTERS), ANY_TEXT)
CELLS = {"email": EMAILS, "password": PASSWORDS, "totpsecret": TOTP_SECRETS, "name": NAMES, "": NAMES}
UNKNOWN = ["notes", "error", "", "phone", "user name", " ", "é"]
LINE_ENDS = ["\n", "\n", "\n", "\n", "\r\n", "\r\n", "\r\n", "\r\r\n", "\r"]


def written_as(header: str, style: int) -> str:
    return (header, header.upper(), f" {header[:3]}-{header[3:]}", f"{header[:2]}_{header[2:]} ")[style]


@st.composite
def headers(draw: st.DrawFn) -> list[tuple[str, str]]:
    """The columns of a file: what each contains, and its header; usually with email and password."""
    fields = draw(
        st.lists(st.sampled_from(["", "name", "totpsecret", "email", "password"]), max_size=3).map(
            lambda more: [*dict.fromkeys(["email", "password", *more])]
        )
    )
    if draw(st.integers(0, 19)) == 0:
        fields.append(draw(st.sampled_from(["email", "password"])))
    columns = [
        (
            what,
            written_as(draw(st.sampled_from(KNOWN_HEADERS[what])), draw(st.integers(0, 3)))
            if what
            else draw(st.sampled_from(UNKNOWN)),
        )
        for what in draw(st.permutations(fields))
    ]
    return columns[1:] if draw(st.integers(0, 29)) == 0 else columns


def quoted(cell: str, delimiter: str, style: int) -> str:
    """A cell as a CSV writer writes it; style 9 never quotes it, style 8 always does."""
    if style == 9 or (style != 8 and not re.search(rf'["\r\n{re.escape(delimiter)}]', cell)):
        return cell
    return '"' + cell.replace('"', '""') + '"'


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A file of mailboxes, usually a good one: some rows are ragged, blank or badly quoted."""
    delimiter = draw(st.sampled_from([",", ",", *DELIMITERS]))
    line_end = draw(st.sampled_from(LINE_ENDS))
    columns = draw(headers())
    styles = st.sampled_from([0] * 9 + [8] * 9 + [9] if draw(st.booleans()) else [0, 8])
    ragged = st.sampled_from([0] * 8 + [-1, 1, 2, 30])
    head = draw(st.sampled_from([""] * 6 + ["\n \n", "sep=;\n", f"\nSEP={delimiter}\r\n\n", ",,\n", ";;\n"]))
    lines = [delimiter.join(quoted(header, delimiter, 0) for _, header in columns)]
    for _ in range(draw(st.sampled_from([1, 1, 2, 3, 4, 5, 8, 0]))):
        cells = [draw(CELLS[what]) for what, _ in columns]
        over = draw(ragged)
        cells = cells[:over] if over < 0 else [*cells, *["x,\ny"] * over]
        lines.append(delimiter.join(quoted(cell, delimiter, draw(styles)) for cell in cells))
        if draw(st.integers(0, 7)) == 0:
            lines.append(draw(st.sampled_from(["", "  ", delimiter, '""', lines[-1]])))
    return head + line_end.join(lines) + draw(st.sampled_from(["", line_end, 2 * line_end, "\r"]))


MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
MARKED = [
    *(("utf-8", b""), ("utf-8", b""), ("utf-8", b""), ("utf-8", codecs.BOM_UTF8)),
    *(("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE), ("utf-16-le", b"")),
    *(("utf-32-le", codecs.BOM_UTF32_LE), ("utf-32-be", codecs.BOM_UTF32_BE), ("utf-7", b"")),
]
ENCODINGS = [
    *sorted(set(encodings.aliases.aliases.values())),
    "idna",
    "punycode",
    "undefined",
    "no\0ne",
    "x" * 99,
]


@st.composite
def files(draw: st.DrawFn, mutated: bool | None = None) -> File:
    """A file from the grammar above in some encoding, sometimes with some of its bytes changed."""
    text, (encoding, mark) = draw(texts()), draw(st.sampled_from(MARKED))
    data = mark + text.encode(encoding, "surrogatepass" if encoding.startswith("utf-") else "replace")
    if draw(st.integers(0, 3)) == 0 if mutated is None else mutated:
        for _ in range(draw(st.integers(1, 3))):
            data = mutate(draw, data)
    right = None if mark or encoding == "utf-8" else encoding
    wrong = draw(st.integers(0, 14)) == 0
    return File(data, draw(st.sampled_from([None, *ENCODINGS])) if wrong else right)


def mutate(draw: st.DrawFn, data: bytes) -> bytes:
    """One change: a piece is inserted, removed, doubled, moved or overwritten."""
    at, to = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
    piece = draw(st.sampled_from([*NO_TEXT, *map(str.encode, SPLINTERS)]) | st.binary(max_size=4))
    match draw(st.sampled_from(["put in", "put in", "take out", "double", "swap", "overwrite", "cut"])):
        case "put in":
            return data[:at] + piece + data[at:]
        case "take out":
            return data[:at] + data[min(to, at + 8) :]
        case "double":
            return data[:to] + data[at:]
        case "swap":
            return data[to:] + data[at:to] + data[:at]
        case "overwrite":
            return data[:at] + piece + data[at + len(piece) :]
    return data[:at]


HEADS = [b"", b"email,password\n", b"password;email;name\r\n", b"user name,password\n", b"a@x.co,"]
SOUP = st.tuples(
    st.sampled_from(HEADS), st.lists(st.sampled_from([*NO_TEXT, *map(str.encode, SPLINTERS)]), max_size=30)
).map(lambda drawn: b"".join([drawn[0], *drawn[1]]))
ANY_FILE = st.one_of(
    files(), files(), st.builds(File, SOUP | st.binary(max_size=60), st.sampled_from([None, None, "cp1252"]))
)

# --- Properties of any file ------------------------------------------


@dataclass(frozen=True)
class Read:
    """The result of the plain functions for a file."""

    table: CsvTable
    validated: Validated
    imported: int
    skipped: int

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.imported, self.skipped, len(self.validated.errors)


def read(file: File) -> Read | Refusal:
    table = parse(file.data, file.encoding)
    if isinstance(table, Refusal):
        return table
    validated = validate(table)
    deduped = dedupe(validated.valid)
    if isinstance(deduped, Refusal):
        return deduped
    return Read(table, validated, deduped.kept.height, len(deduped.duplicates))


def ends_in_the_envelope(file: File) -> str:
    """A file is read, or refused in one printable sentence; nothing is raised, and no password is shown."""
    found = read(file)
    if isinstance(found, Refusal):
        assert 10 < len(found.message) < 250
        assert found.message.isprintable()
        json.dumps(found.envelope()).encode()
        # A duplicate header is named, and in a file without a header it may be any value.
        assert CANARY not in re.sub("“[^”]*”", "", str(found))
        return "refused"
    assert CANARY not in f"{found!r} {found.table} {found.validated}"
    return "read"


def by_the_csv_module(file: File) -> list[list[tuple[str, str]]]:
    """The email and password cells of a file according to Python's own reader, by header and delimiter."""
    codec = file.encoding or "utf-8"
    for mark, marked in MARKS.items():
        if file.data.startswith(mark):
            codec = marked
            break
    text = re.sub(r"\x1a\s*\Z", "", file.data.decode(codec))
    lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)
    readings = []
    for start, delimiter in product(
        range(min(20, len(lines))), DELIMITERS
    ):  # a title may be above the header
        try:
            rows = list(csv.reader(io.StringIO("".join(lines[start:]), newline=""), delimiter=delimiter))
        except csv.Error:
            continue
        rows = [row for row in rows if any(cell.strip() for cell in row)]
        below = list(enumerate(rows[1:], start=2))
        columns = find_columns(rows[0], partial(list, below)) if rows else None
        if columns is not None and columns.position:
            email, password = (places_of(columns, what) for what in ("email", "password"))
            readings.append([(filled_of(row, email), filled_of(row, password)) for row in rows[1:]])
    return readings


def places_of(columns: Columns, field: str) -> list[int]:
    """The column of a field, then those that fill its gaps."""
    return [at for name, at in columns.read.items() if name.partition(FILLS_GAPS)[0] == field]


def filled_of(row: Sequence[str], places: Sequence[int]) -> str:
    cells = [cell_of(row, at) for at in places]
    return next((cell for cell in cells if cell.strip()), cells[0])


def cell_of(row: Sequence[str], at: int) -> str:
    return row[at] if at < len(row) else ""


def with_unix_line_ends(rows: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    return [tuple(re.sub(r"\r+\n|\r", "\n", cell) for cell in row) for row in rows]


def keeps_every_password(file: File) -> str:
    """The result equals what Python's own reader reads, byte for byte, except for spaces in app passwords."""
    found = read(file)
    if isinstance(found, Refusal):
        return "refused"
    cells = with_unix_line_ends(found.table.frame.select("email", "password").iter_rows())
    readings = [reading for reading in by_the_csv_module(file) if with_unix_line_ends(reading) == cells]
    assert readings, "the csv module reads something else"
    at_line = dict(zip(found.table.frame["line"], readings[0], strict=True))
    for line, email, password in found.validated.valid.select("line", "email", "password").iter_rows():
        cell_email, cell = at_line[line]
        assert email == clean_email(cell_email).text
        assert password == clean_password(cell).text
        if not re.fullmatch(r"[a-z]{16}", password) and not cell.strip().startswith('="'):
            assert password == cell
    return "read" if found.validated.valid.height else "no good row"


def counts_every_row(file: File) -> str:
    """Imported, skipped and failed rows add up to the rows that are not blank."""
    found = read(file)
    if isinstance(found, Refusal):
        return "refused"
    assert sum(found.counts) in {len(reading) for reading in by_the_csv_module(file)}
    lines = [*found.validated.valid["line"], *(error.line for error in found.validated.errors)]
    assert sorted(lines) == found.table.frame["line"].to_list()
    return "several rows" if len(lines) > 1 else "one row"


def depends_on_no_order(shuffled: tuple[File, int]) -> str:
    """The rows in any other order give the same results; only which duplicate is imported differs."""
    file, order = shuffled
    found = read(file)
    if isinstance(found, Refusal):
        return "refused"
    frame = found.table.frame
    places = list(range(frame.height))
    random.Random(order).shuffle(places)  # noqa: S311  the order is the example
    validated = validate(CsvTable(frame[places], ()))
    assert validated.valid.sort("line").equals(found.validated.valid)
    assert sorted(validated.errors) == sorted(found.validated.errors)
    deduped = dedupe(validated.valid)
    assert isinstance(deduped, Deduped)
    kept, duplicates = deduped.kept, deduped.duplicates
    assert (kept.height, len(duplicates)) == (found.imported, found.skipped)
    assert set(kept["email_key"]) == set(validated.valid["email_key"])
    return "several rows" if len(places) > 1 else "one row"


def gives_failed_rows_back(file: File) -> str:
    """The file of failed rows can be read again, and its rows fail for the same causes every time."""
    found = read(File(file.data, None))
    if isinstance(found, Refusal):
        return "refused"
    if not found.validated.errors:
        return "no failed row"
    data, validated = file.data, found.validated
    for _ in range(3):
        reasons = [error.reason for error in validated.errors]
        data = extract_rows(data, {error.line: error.reason.message for error in validated.errors})
        table = parse(data)
        if table == Refusal(COLUMNS_REQUIRED) and b"user" in data.lower():
            return "user names without one that is an address"
        assert isinstance(table, CsvTable), table
        validated = validate(table)
        assert [error.reason for error in validated.errors] == reasons
    return "failed rows"


def is_checked_by_the_command(file: File) -> str:
    """`--check` prints only the counts or the refusal, as JSON and as text."""
    found = read(file)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.csv"
        path.write_bytes(file.data)
        named = [f"--encoding={file.encoding}"] if file.encoding else []
        for flags in ([], ["--json"]):
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                code = command_line(["check", str(path), *flags, *named])
            words = out.getvalue() + err.getvalue()
            assert words.replace("\n", "").isprintable(), "control characters reach the terminal"
            assert code == isinstance(found, Refusal)
    envelope = json.loads(out.getvalue())
    assert not err.getvalue()
    if isinstance(found, Refusal):
        assert envelope == found.envelope()
        return "refused"
    data = envelope["data"]
    assert (data["imported"], data["skipped"], data["failed"]) == found.counts
    return "read"


class Store:
    """A real database, with a new workspace for each file."""

    def __init__(self, folder: Path, db: Database, settings: Settings) -> None:
        self._folder = folder
        self._db = db
        self._settings = settings
        self._numbers = count(1)

    def keeps(self, file: File) -> str:
        """Rows are stored and can be unsealed, the same file adds nothing, and the report is complete."""
        from tests.conftest import (
            import_file,
        )  # before any other import of Prefect, because it sets up Prefect's settings

        found = read(File(file.data, None))
        if isinstance(found, Refusal):
            return "refused"
        path, workspace = self._folder / "in.csv", f"number {next(self._numbers)}"
        path.write_bytes(file.data)
        first, second = (
            import_file(self._db, self._settings, path, workspace, test=False).summary for _ in range(2)
        )
        assert (first.imported, first.skipped, first.failed) == found.counts
        assert (second.imported, second.failed) == (0, first.failed)
        assert second.skipped == first.imported + first.skipped
        first.markdown()
        good = list(found.validated.valid.select("email_key", "password").iter_rows())
        assert self._stored(workspace) == dict(reversed(good))
        report = self._folder / "report.csv"
        write_report_file(report, *preview(first))
        with report.open(encoding="utf-8-sig", newline="") as lines:
            told = Counter(line["result"] for line in csv.DictReader(lines))
        assert (told["imported"], told["skipped"], told["failed"]) == found.counts
        return "stored" if first.imported else "nothing good"

    def _stored(self, workspace: str) -> dict[str, str]:
        query = (
            "SELECT email_key, password FROM mailbox JOIN workspace ON workspace.id = workspace_id "
            "WHERE workspace.name = :name"
        )
        with self._db.engine.connect() as connection:
            rows = connection.execute(sql(query), {"name": workspace}).all()
        return {key: self._db.sealer.open(sealed, Owner(workspace, key, "password")) for key, sealed in rows}


# --- Uploads ---------------------------------------------------------


class Body(NamedTuple):
    """A request's body; `whole` is the file in it, if the body is well formed."""

    kind: str
    pieces: tuple[bytes, ...]
    whole: bytes | None


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    """A multipart body, split anywhere, and sometimes malformed."""
    boundary = draw(st.sampled_from(["b", "b", "b", "b", "-" * 40, "'()+_,-./:=? x", "x" * 300, "é"]))
    data = draw(files()).data
    names = draw(
        st.sampled_from(
            [
                "file",
                "file",
                "file",
                "file",
                "file tag",
                "tag file",
                "tag file",
                "file file",
                "tag",
                "",
                "x file",
            ]
        )
    )
    body = b""
    for name in names.split():
        of_file = '; filename="mailboxes.csv"\r\nContent-Type: text/csv' if name == "file" else ""
        value = data if name == "file" else b"spring"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{of_file}\r\n\r\n'
        body += head.encode() + value + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    kind = f'multipart/form-data; boundary="{boundary}"'
    malformed = draw(st.integers(0, 2)) == 2
    if malformed:
        for _ in range(draw(st.integers(1, 3))):
            body = mutate(draw, body)
        kind = draw(
            st.sampled_from(
                [kind, kind, kind, kind[:-1], kind.replace("form", "Form"), "", "multipart/mixed"]
            )
        )
        kind += draw(st.sampled_from(["", "", "; charset=utf-16", ';x="', "\xff", ";boundary*=utf-8''b"]))
    good = not malformed and boundary != "é" and len(boundary) < 300 and names.split().count("file") == 1
    at, to = sorted(draw(st.tuples(*[st.integers(0, len(body))] * 2)))
    whole = data if good and f"\r\n--{boundary}".encode() not in b"\r\n" + data else None
    return Body(kind, (body[:at], body[at:to], body[to:]), whole)


def is_taken_as_a_form(body: Body) -> str:
    """A body gives its file byte for byte, however the network splits it, or a refusal without quotes."""
    messages = iter(
        [{"type": "http.request", "body": piece, "more_body": True} for piece in body.pieces]
        + [{"type": "http.request", "body": b"", "more_body": False}]
    )

    async def receive() -> Message:
        return next(messages)

    headers = [(b"content-type", body.kind.encode("latin-1", "replace"))]
    upload = asyncio.run(
        read_upload(Request({"type": "http", "method": "POST", "headers": headers}, receive))
    )
    if isinstance(upload, Refusal):
        assert body.whole is None, upload
        assert CANARY not in str(upload)
        return "refused"
    assert isinstance(upload, Upload)
    assert body.whole in (None, upload.data)
    return "taken"


# --- Servers ---------------------------------------------------------

SECRETS = PASSWORDS.map(lambda text: "".join(filter(str.isprintable, text)).replace("…", "")).filter(
    lambda text: 4 <= len(text) <= 256
)
WORDS = [
    *(
        "220 ",
        "250",
        "334 ",
        "535 5.7.139 ",
        "454-4.7.0 ",
        "421 ",
        "NO ",
        "BAD ",
        "* BYE ",
        "* OK ",
        "+ ",
        "a2 NO ",
    ),
    *(
        "a1 OK",
        "a2 OK",
        "a3 BAD ",
        "* CAPABILITY IMAP4rev1 ",
        "[CAPABILITY LITERAL+]",
        "STARTTLS",
        "AUTH PLAIN",
    ),
    *(
        "AUTH=LOGIN",
        " -",
        "Authentication unsuccessful, the user credentials were incorrect.",
        "basic ",
        "account ",
    ),
    *(
        "SmtpClientAuthentication is disabled",
        "Suggested Backoff Time: 299,961 milliseconds",
        "retry after 9999999999",
    ),
    *(
        " [x.outlook.com]",
        " [x 2026-01-01T0]",
        "try again in 1e9 days",
        "\r\n",
        "\n",
        "\r",
        "\t",
        "\0",
        "\x1b]0;",
        "…",
    ),
    *("x" * 400, "\u202e", "😀", " ", "{5}", "{99999999999}", '"', "\\", "%s", "`|<b>"),
]


def echoes(secret: str) -> list[str]:
    """The forms in which a server may repeat a password: unchanged, trimmed, quoted, base64, SASL PLAIN."""
    plain, sasl = (base64.b64encode(text.encode()).decode() for text in (secret, f"\0a@x.co\0{secret}"))
    escaped = secret.replace("\\", "\\\\").replace('"', '\\"')
    return [secret, " ".join(secret.split()), escaped, plain, plain.rstrip("="), sasl]


@st.composite
def replies(draw: st.DrawFn) -> tuple[str, str]:
    """A password, and a server's text that may contain it."""
    secret = draw(SECRETS)
    pieces = st.sampled_from(
        [*WORDS, *echoes(secret), secret[: len(secret) // 2], secret[len(secret) // 2 :]]
    )
    return secret, "".join(draw(st.lists(pieces | ANY_TEXT, max_size=8)))


def assert_clean(line: str, secret: str) -> None:
    """Check for one printable line of limited length without the password."""
    assert line.isprintable()
    assert len(line) <= LONGEST_TEXT
    for form in echoes(secret)[:-1]:
        assert form not in line or len(form) < 4


def has_a_reason(reply: tuple[str, str]) -> str:
    """Any reply gets a reason other than success, and a line without the password."""
    secret, words = reply
    found = {
        classify(protocol, stage, Reply(code, words))
        for protocol in Protocol
        for stage in Stage
        for code in ("421", "535", "550", "NO", "BAD", "BYE")
    }
    assert Reason.OK not in found
    assert timedelta(0) <= (backoff_named(words) or timedelta(0)) <= LONGEST_BACKOFF
    line = one_line(words, secret)
    assert_clean(line, secret)
    return "blotted out" if "…" in line else "clean"


class Dialogue(NamedTuple):
    """What a server sends: each piece after the client has sent a line, or has been silent for a moment."""

    protocol: Protocol
    secret: str
    pieces: tuple[bytes, ...]


GOOD_PIECES = {
    Protocol.SMTP: (
        *(b"220 hi\r\n", b"250-hi\r\n250 STARTTLS\r\n", b"220 go\r\n", b"250-hi\r\n250 AUTH LOGIN\r\n"),
        *(b"334 VXNlcg==\r\n", b"334 UGFzcw==\r\n", b"235 in\r\n", b"221 bye\r\n"),
    ),
    Protocol.IMAP: (
        *(b"* OK hi\r\n", b"* CAPABILITY IMAP4rev1\r\na1 OK\r\n", b"a2 OK in\r\n"),
        *(b'* LIST () "/" ""\r\na3 OK\r\n', b"* BYE\r\na4 OK\r\n"),
    ),
}


@st.composite
def dialogues(draw: st.DrawFn) -> Dialogue:
    """A good dialogue up to some reply, and anything after it."""
    protocol = draw(st.sampled_from(Protocol))
    secret, _ = draw(replies())
    pieces = list(GOOD_PIECES[protocol])
    for at in range(draw(st.integers(0, len(pieces) - 1)), len(pieces)):
        change = draw(st.sampled_from(["words", "words", "bytes", "mutated", "code", "gone", "good"]))
        words = draw(replies())[1].encode(errors="replace")
        if change == "words":
            pieces[at] = words + b"\r\n"
        elif change == "code":
            pieces[at] = pieces[at].split()[0] + b" " + words + b"\r\n"
        elif change == "bytes":
            pieces[at] = draw(st.binary(max_size=40)) + b"\n"
        elif change == "mutated":
            pieces[at] = mutate(draw, pieces[at])
        elif change == "gone":
            del pieces[at:]
            break
    return Dialogue(protocol, secret, tuple(pieces))


class Server:
    """A mail server on loopback, with TLS, that sends what the test defines."""

    def __init__(self, folder: Path) -> None:
        ca = trustme.CA()
        self._tls = server_context(ca, "")
        self._ca_file = folder / "ca.pem"
        ca.cert_pem.write_to_path(self._ca_file)

    def is_understood(self, dialogue: Dialogue) -> str:
        """Whatever a server sends, the login ends with a reason, whose text does not contain the password."""
        return asyncio.run(self._log_in(dialogue))

    async def _log_in(self, dialogue: Dialogue) -> str:
        faults: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["message"]))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                with suppress(OSError, ValueError, asyncio.IncompleteReadError):
                    await self._say(dialogue, reader, writer)
            finally:
                writer.transport.abort()

        tls = self._tls if dialogue.protocol is Protocol.IMAP else None
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
            endpoint = Endpoint("localhost", server.sockets[0].getsockname()[1])
            credentials = Credentials("a@x.co", dialogue.secret)
            answer = await log_in(
                dialogue.protocol, endpoint, credentials, tls_context(self._ca_file), LOGIN_SECONDS
            )
        assert_clean(answer.text, dialogue.secret)
        assert not [fault for fault in faults if "never retrieved" in fault], faults
        return str(answer.reason)

    async def _say(
        self, dialogue: Dialogue, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        line = b""
        for at, piece in enumerate(dialogue.pieces):
            if at:
                with suppress(TimeoutError):
                    line = await asyncio.wait_for(reader.readline(), PAUSE_SECONDS)
            writer.write(piece)
            await writer.drain()
            if line.startswith(b"STARTTLS") and piece.startswith(b"220"):
                await writer.start_tls(self._tls)
                line = b""


LOGIN_SECONDS = 3.0
PAUSE_SECONDS = 0.05

# --- All of them -----------------------------------------------------


class Finding(Exception):  # noqa: N818  this is what the search looks for
    """A property that fails, and its smallest example."""


@dataclass(frozen=True)
class Property:
    """A property that every example must have; `check` returns a one-word result for an example."""

    name: str
    examples: st.SearchStrategy[Any]
    check: Callable[[Any], str]

    def run(self, number: int, at_random: int | None = None) -> Counter[str]:
        """Try this many examples, the same ones unless there is a seed; return the count of each result.

        Raises:
            Finding: If an example fails; it names the smallest one, with the exception as its cause.
        """
        became: Counter[str] = Counter()
        last = None

        def one(example: Any) -> None:
            nonlocal last
            last = example
            became[self.check(example)] += 1

        one.__name__ = self.name.replace(" ", "_")  # where Hypothesis stores what it has found
        tried = given(self.examples)(one)
        if at_random is not None:
            tried = seed(at_random)(tried)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HypothesisWarning)
            try:
                settings(
                    max_examples=number,
                    deadline=None,
                    derandomize=at_random is None,
                    suppress_health_check=list(HealthCheck),
                )(tried)()
            except Exception as error:  # any exception counts as a finding
                raise Finding(f"{self.name}: {last!r}") from error
        return became


@contextmanager
def properties() -> Iterator[dict[str, Property]]:
    """Every property by its name, with the database and the mail server that some of them need."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the same as in the API's own logging
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        own = Settings(database_url=SecretStr(f"sqlite:///{folder}/mailboxes.db"))
        opened = stack.enter_context(database(own))
        found = (
            Property("envelope", ANY_FILE, ends_in_the_envelope),
            Property("passwords", files(), keeps_every_password),
            Property("counts", files(), counts_every_row),
            Property("order", st.tuples(files(mutated=False), st.integers(0, 10**6)), depends_on_no_order),
            Property("failed rows", files(), gives_failed_rows_back),
            Property("command line", files(), is_checked_by_the_command),
            Property("store", files(mutated=False), Store(folder, opened, own).keeps),
            Property("uploads", bodies(), is_taken_as_a_form),
            Property("replies", replies(), has_a_reason),
            Property("dialogues", dialogues(), Server(folder).is_understood),
        )
        yield {one.name: one for one in found}


BATCH_SECONDS = 15


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.fuzz", description="Look for faults.")
    parser.add_argument("--minutes", type=float, default=20, help="how long (default: %(default)s)")
    parser.add_argument("--property", action="append", metavar="NAME", help="only this one")
    options = parser.parse_args(argv)
    warnings.simplefilter("error")
    until = time.monotonic() + 60 * options.minutes
    became: dict[str, Counter[str]] = {}
    with properties() as all_of_them:
        wanted = [one for name, one in all_of_them.items() if name in (options.property or all_of_them)]
        batch = dict.fromkeys(all_of_them, 100)  # the number that gives each property the same time
        for one in cycle(wanted):
            begun = time.monotonic()
            if begun > until:
                break
            try:
                found = one.run(batch[one.name], at_random=random.SystemRandom().getrandbits(60))
            except Finding:
                traceback.print_exc(file=sys.stdout)
                return 1
            became.setdefault(one.name, Counter()).update(found)
            seconds = time.monotonic() - begun
            batch[one.name] = min(max(50, int(batch[one.name] * BATCH_SECONDS / seconds)), 20_000)
    for name, ends in became.items():
        words = ", ".join(f"{number:,} {end}" for end, number in ends.most_common())
        sys.stdout.write(f"{name:<14} {ends.total():>10,} examples: {words}\n")
    sys.stdout.write("Nothing was found.\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
