"""The rules for rows, with valid and invalid examples, and what may be shown of a failed row."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest
from pyotp.totp import TOTP

from schemas import rows
from schemas.addresses import email_key
from schemas.bounds import LONGEST, MAX_MAILBOXES
from schemas.csv_file import CsvTable, parse
from schemas.damage import EDGE_SPACE
from schemas.headers import FIELDS
from schemas.refusals import Refusal
from schemas.row_reasons import RowError, RowReason
from schemas.rows import Duplicate, Validated, dedupe, validate
from schemas.totp import normalise_totp, totp_of

ROOT = Path(__file__).resolve().parent.parent
CANARY = "Canary-5ecret"
TOTP_80_BITS = "JBSWY3DPEHPK3PXP"  # as long as Microsoft's own


def table_of(*cells: Mapping[str, str | bool]) -> CsvTable:
    """A table of rows that are valid unless the values say otherwise, from line 2 on.

    `fault` says that a row of a workbook fails for the kind of its cells.
    """
    good = dict.fromkeys(FIELDS, "") | {"extra_cells": False, "email": "ann@example.com", "password": "pw"}
    records = [{"line": at, **good, **row} for at, row in enumerate(cells, start=2)]
    schema = {"line": pl.UInt32, "extra_cells": pl.Boolean} | dict.fromkeys(FIELDS, pl.String)
    faults = tuple((at, str(row["fault"])) for at, row in enumerate(cells, start=2) if "fault" in row)
    return CsvTable(pl.DataFrame(records, schema=schema), (), faults=faults)


def validate_row(**cells: str | bool) -> Validated:
    return validate(table_of(cells))


def address(length: int) -> str:
    """An address with this many characters whose parts are as long as possible."""
    domain = ".".join(["d" * 63, "d" * 63, "d" * 61])
    return f"{'x' * (length - len(domain) - 1)}@{domain}"


PASS_AND_FAIL: dict[str, tuple[RowReason, str, list[str], list[str]]] = {
    "missing email": (
        RowReason.MISSING,
        "email",
        ["ann@example.com", "  ann@example.com\t"],
        ["", " ", "\t\u00a0"],
    ),
    "missing password": (RowReason.MISSING, "password", ["x", " x"], ["", " ", "\u00a0", "\n"]),
    "email too long": (RowReason.EMAIL_TOO_LONG, "email", [address(254)], [address(255), "x" * 9_999]),
    "password too long": (RowReason.PASSWORD_TOO_LONG, "password", ["é" * 256], ["é" * 257, "x" * 9_999]),
    "name too long": (RowReason.NAME_TOO_LONG, "name", ["", "é" * 200], ["é" * 201]),
    "totp too long": (
        RowReason.TOTP_TOO_LONG,
        "totpsecret",
        ["", "A" * 512],
        ["A" * 513, " " + "A" * 512, "-" * 513],
    ),
    "bad address": (
        RowReason.INVALID_EMAIL,
        "email",
        [
            *("ann@outlook.com", "Ann.B+tag@Sub.Example.CO.UK", "o'neil_1@x.co", "ann@bücher.example.com"),
            f"{'x' * 64}@example.com",
        ],
        [
            *("ann", "ann@", "@example.com", "ann@example", "ann@@example.com", "ann@exa mple.com"),
            *(".ann@x.co", "ann..b@x.co", "Ann <ann@x>", '"ann b"@x.co', "a b@x.co"),
            *("ann@x.co,bob@x.co", "ann@x.test", "ann@localhost", "ann\n@x.co"),
            "ann@[1.2.3.4]",
            f"{'x' * 65}@example.com",
        ],
    ),
    "letters outside ASCII": (
        RowReason.NON_ASCII_EMAIL,
        "email",
        ["ann@bücher.example.com"],
        ["änn@x.co", "анна@x.co", "änn@x"],
    ),
    "bad sign-in name": (
        RowReason.INVALID_LOGIN,
        "login",
        ["", "N/A", "x" * 254, "CONTOSO\\ann", "ännä"],
        ["x" * 255, "a\r\nb", "a\0b"],
    ),
    "control characters": (
        RowReason.CONTROL_CHARACTERS,
        "password",
        ["p w", "пароль", "😀", "p\u2028w", '"\\{}%', "\u00a0x"],
        ["p\rw", "p\nw", "pw\r\n", "\tpw", "p\0w", "p\x1bw", "p\x7fw", "p\x85w", "\x1c"],
    ),
    "bad totp": (
        RowReason.INVALID_TOTP,
        "totpsecret",
        ["", "  ", TOTP_80_BITS, "jbsw y3dp-ehpk 3pxp", f"otpauth://totp/x?secret={TOTP_80_BITS}"],
        [
            *("=", "- -", "JBSWY3DP", "JBSWY3DPEHPK3PX", "JBSWY3DPEHPK3PX1", "JBSWY3DPEHPK3PXſ"),
            *("otpauth://totp/x", "otpauth://totp/x?secret=", f"otpauth://hotp/x?secret={TOTP_80_BITS}"),
            *("https://example.com", "otpauth:", "otpauth://[", f"steam://totp/x?secret={TOTP_80_BITS}"),
            f"otpauth://totp/x?secret={TOTP_80_BITS}&period=0",
            f"otpauth://totp/x?secret={TOTP_80_BITS}&period=-30",
            f"otpauth://totp/x?secret={TOTP_80_BITS}&period=30.5",
            f"otpauth://totp/x?secret={TOTP_80_BITS}&digits=5",
            f"otpauth://totp/x?secret={TOTP_80_BITS}&digits=99999999999999999999",
            f"otpauth://totp/x?secret={TOTP_80_BITS}&algorithm=MD5",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "cell"),
    [
        pytest.param(field, cell, id=f"{rule}: {ascii(cell)[:60]}")
        for rule, (_, field, passing, _) in PASS_AND_FAIL.items()
        for cell in passing
    ],
)
def test_row_passes(field: str, cell: str) -> None:
    """A row that satisfies a rule can become a mailbox."""
    validated = validate_row(**{field: cell})
    assert validated.errors == ()
    assert validated.valid.height == 1


@pytest.mark.parametrize(
    ("reason", "field", "cell"),
    [
        pytest.param(reason, field, cell, id=f"{rule}: {ascii(cell)[:60]}")
        for rule, (reason, field, _, failing) in PASS_AND_FAIL.items()
        for cell in failing
    ],
)
def test_row_fails(reason: RowReason, field: str, cell: str) -> None:
    """A row that breaks a rule fails for that reason, and no other row fails."""
    validated = validate(table_of({}, {field: cell}, {"email": "bob@example.com"}))
    assert [(error.line, error.reason) for error in validated.errors] == [(3, reason)]
    assert validated.valid["line"].to_list() == [2, 4]
    assert validated.valid.height + len(validated.errors) == 3


def test_extra_cells() -> None:
    """A row with more cells than the header fails, and one without does not."""
    assert validate_row(extra_cells=False).errors == ()
    assert validate_row(extra_cells=True).errors == (RowError(2, "ann@example.com", RowReason.EXTRA_CELLS),)


@pytest.mark.parametrize(
    ("email", "message"),
    [
        ("joe@gmail.com", "Not hosted at Microsoft: Gmail"),
        ("Kim@Yahoo.CO.UK", "Not hosted at Microsoft: Yahoo"),
        ("lee@icloud.com", "Not hosted at Microsoft: iCloud"),
        ("lee@ｗｅｂ.de", "Not hosted at Microsoft: WEB.DE"),
    ],
)
def test_a_mailbox_elsewhere_fails_and_its_provider_is_named(email: str, message: str) -> None:
    """An address at a provider that cannot be Microsoft fails, and the message names the provider."""
    (error,) = validate_row(email=email).errors
    assert (error.email, error.reason) == (email, RowReason.NOT_AT_MICROSOFT)
    assert error.message == message


def test_domains_with_their_own_servers_may_be_elsewhere() -> None:
    """A domain that the settings name is imported as it is; `*` names no domain."""
    table = table_of({"email": "joe@gmail.com"}, {"email": "kim@yahoo.com"}, {"email": "max@hotmial.com"})
    named = validate(table, {"gmail.com", "hotmial.com"})
    assert [error.line for error in named.errors] == [3]
    assert named.valid["warning"].to_list() == ["", ""]
    assert [error.line for error in validate(table, {"*"}).errors] == [2, 3]


def test_a_misspelled_domain_is_warned_of() -> None:
    """A domain like one of Microsoft's is imported with a warning that names the probable one."""
    validated = validate_row(email="Max@HOTMIAL.com", password=" pw")
    assert validated.errors == ()
    assert validated.valid["warning"].to_list() == [f"{EDGE_SPACE}; hotmial.com: did you mean hotmail.com?"]


@pytest.mark.parametrize(
    ("email", "password", "is_header"),
    [
        ("email", "password", True),
        (" \ufeffEmail Address", "App Password", True),
        ("password", "email", True),  # of a file with another order
        ("email", "hunter2", False),
        ("ann", "password", False),
        ("email@example.com", "password", False),
        ("email" * 100, "password", False),
    ],
)
def test_a_header_among_the_rows(email: str, password: str, is_header: bool) -> None:
    """A header in the middle of a file, as when files were joined, is called one."""
    reasons = [error.reason for error in validate_row(email=email, password=password).errors]
    assert (reasons == [RowReason.HEADER]) == is_header


MESSAGES = {
    RowReason.EXTRA_CELLS: "Row has more cells than the header",
    RowReason.MISSING: "Missing email or password",
    RowReason.EMAIL_TOO_LONG: "Email is longer than 254 characters",
    RowReason.PASSWORD_TOO_LONG: "Password is longer than 256 characters",
    RowReason.NAME_TOO_LONG: "Name is longer than 200 characters",
    RowReason.TOTP_TOO_LONG: "TOTP secret is longer than 512 characters",
    RowReason.INVALID_EMAIL: "Invalid email address",
    RowReason.NON_ASCII_EMAIL: "Address has a letter such as ü before the @, which Microsoft does not allow",
    RowReason.NOT_AT_MICROSOFT: "Not hosted at Microsoft",
    RowReason.MASKED: "Password cell contains dots or stars, not the password",
    RowReason.SPREADSHEET_ERROR: "Password cell contains an error of the spreadsheet, such as #NAME?",
    RowReason.LOST_CHARACTERS: "Password contains �: characters were lost when the file was saved",
    RowReason.CONTROL_CHARACTERS: "Password contains control characters",
    RowReason.INVALID_TOTP: "Invalid TOTP secret",
    RowReason.NOT_TEXT: "A cell is a number, a date or an error: Excel may have changed it",
    RowReason.FORMULA: "A cell is a formula, not text",
    RowReason.HEADER: "Line is a header, not a mailbox",
    RowReason.INVALID_LOGIN: "Sign-in name is longer than 254 characters or contains control characters",
}


@pytest.mark.parametrize("reason", RowReason)
def test_messages(reason: RowReason) -> None:
    """Every reason has exactly the contract's message, and a remedy."""
    assert reason.message == MESSAGES[reason]
    assert reason.remedy


def test_lengths_in_messages() -> None:
    """The messages name the lengths that are checked."""
    assert list(LONGEST) == list(FIELDS)
    reasons = [*list(MESSAGES)[2:6], RowReason.INVALID_LOGIN]
    for field, reason in zip(FIELDS, reasons, strict=True):
        assert f" {LONGEST[field]} " in MESSAGES[reason]


FAULTS: dict[RowReason, dict[str, str | bool]] = {
    RowReason.EXTRA_CELLS: {"extra_cells": True},
    RowReason.MISSING: {"password": ""},
    RowReason.HEADER: {"email": "E-Mail", "password": "App Password"},
    RowReason.NOT_TEXT: {"fault": "not_text"},
    RowReason.FORMULA: {"fault": "formula"},
    RowReason.EMAIL_TOO_LONG: {"email": "x" * 300},
    RowReason.PASSWORD_TOO_LONG: {"password": "\n" * 10 + "x" * 300},
    RowReason.NAME_TOO_LONG: {"name": "x" * 300},
    RowReason.TOTP_TOO_LONG: {"totpsecret": "1" * 600},
    RowReason.NON_ASCII_EMAIL: {"email": "änn@x.co"},
    RowReason.INVALID_EMAIL: {"email": "ann"},
    RowReason.NOT_AT_MICROSOFT: {"email": "ann@gmail.com"},
    RowReason.MASKED: {"password": "••••••"},
    RowReason.SPREADSHEET_ERROR: {"password": "#NAME?"},
    RowReason.LOST_CHARACTERS: {"password": "p\ufffd\nw"},
    RowReason.CONTROL_CHARACTERS: {"password": "p\nw"},
    RowReason.INVALID_TOTP: {"totpsecret": "1"},
    RowReason.INVALID_LOGIN: {"login": "x\r\ny"},
}


@pytest.mark.parametrize("reason", RowReason)
def test_first_reason_wins(reason: RowReason) -> None:
    """A row with several faults has one row error, the first in the order of the reasons."""
    later = list(RowReason)[list(RowReason).index(reason) :]
    cells: dict[str, str | bool] = {}
    for fault in reversed(later):
        cells |= FAULTS[fault]
    assert [error.reason for error in validate_row(**cells).errors] == [reason]


def test_shape() -> None:
    """The valid frame has the documented columns and types."""
    validated = validate_row(email=" Ann@EXAMPLE.com ", name=" Ann ", totpsecret="jbsw y3dp ehpk 3pxp")
    strings = ("email", "email_key", "password", "name", "totp", "login", "password_warning", "warning")
    assert validated.valid.schema == pl.Schema({"line": pl.UInt32} | dict.fromkeys(strings, pl.String))
    assert validated.valid.rows() == [
        (2, "Ann@EXAMPLE.com", "ann@example.com", "pw", "Ann", TOTP_80_BITS, None, "", "")
    ]
    assert validate_row(name="  ").valid.select("name", "totp").rows() == [(None, None)]


@pytest.mark.parametrize(
    ("cell", "login"),
    [("ann@x.co", None), ("ANN@X.CO ", None), ("", None), ("none", None), (" CONTOSO\\ann", "CONTOSO\\ann")],
)
def test_sign_in_name(cell: str, login: str | None) -> None:
    """A sign-in name is stored only if it is not the address."""
    assert validate_row(email="ann@x.co", login=cell).valid["login"].to_list() == [login]


def test_spaces_around_passwords_are_removed_on_request() -> None:
    """Spaces around a password are kept, and removed if the import asks for that."""
    table = table_of({"password": " pw1"}, {"password": " pw2 "})
    kept, trimmed = validate(table), validate(table, trim=True)
    assert kept.valid["password"].to_list() == [" pw1", " pw2 "]
    assert kept.notes == (
        "Every password begins with a space, as if one followed each delimiter; "
        "to remove spaces around passwords: --trim",
    )
    assert trimmed.valid.select("password", "warning").rows() == [("pw1", ""), ("pw2", "")]
    assert trimmed.notes == ()


def test_words_for_nothing_are_empty() -> None:
    """N/A, none and the like in optional columns are read as empty, and a note counts them."""
    validated = validate(table_of({"name": "N/A", "totpsecret": "none"}, {"name": "-"}, {"name": "Ann"}))
    assert validated.valid["name"].to_list() == [None, None, "Ann"]
    assert validated.notes == (
        "Read as empty because of a word such as N/A or none: name (2 rows), totpsecret (1 row)",
    )


@pytest.mark.parametrize(
    ("cell", "stored", "warned"),
    [
        ("abcd efgh ijkl mnop", "abcdefghijklmnop", False),
        ("abcdefghijklmnop", "abcdefghijklmnop", False),
        (" abcd efgh ijkl mnop", "abcdefghijklmnop", False),
        ("abcd\u00a0efgh\u00a0ijkl\u00a0mnop\u200b", "abcdefghijklmnop", False),
        ("abcd  efgh ijkl mnop", "abcdefghijklmnop", False),
        ("abcd efgh ijkl", "abcd efgh ijkl", False),
        ("abcd efgh ijkl mnop qrst", "abcd efgh ijkl mnop qrst", False),
        ("abcd efgh ijkl mno1", "abcd efgh ijkl mno1", False),
        ("p w", "p w", False),
        (" pw", " pw", True),
        ("pw  ", "pw  ", True),
        ("00123", "00123", False),
        ("\u00e9", "\u00e9", False),
    ],
)
def test_password(cell: str, stored: str, warned: bool) -> None:
    """A password is kept byte for byte, except the spaces of app passwords; edge spaces give a warning."""
    assert validate_row(password=cell).valid.select("password", "warning").rows() == [
        (stored, EDGE_SPACE if warned else "")
    ]


@pytest.mark.parametrize(
    ("given_address", "key"),
    [
        ("Ann@EXAMPLE.com", "ann@example.com"),
        ("ann@bücher.example.com", "ann@xn--bcher-kva.example.com"),
        ("ANN@xn--bcher-kva.example.com", "ann@xn--bcher-kva.example.com"),
        ("", None),
        ("ann", None),
    ],
)
def test_email_key(given_address: str, key: str | None) -> None:
    """Two spellings of one address give one key, and an invalid address gives none."""
    assert email_key(given_address) == key


# --- TOTP ------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "stored"),
    [
        (TOTP_80_BITS, TOTP_80_BITS),
        (" jbsw-y3dp ehpk\t3pxp ", TOTP_80_BITS),
        ("GEZDGNBVGY3TQOJQGE======", "GEZDGNBVGY3TQOJQGE"),
        (f"otpauth://totp/Microsoft:ann?secret={TOTP_80_BITS}&issuer=Microsoft", TOTP_80_BITS),
        ("OTPAUTH://TOTP/x?SECRET=jbsw+y3dp+ehpk+3pxp&Digits=6&Period=30&Algorithm=sha1", TOTP_80_BITS),
        (
            f"otpauth://totp/x?secret={TOTP_80_BITS}&digits=8",
            f"otpauth://totp/mailbox?secret={TOTP_80_BITS}&digits=8",
        ),
        (
            f"otpauth://totp/x?secret={TOTP_80_BITS}&algorithm=SHA-256&period=60",
            f"otpauth://totp/mailbox?secret={TOTP_80_BITS}&algorithm=SHA256&period=60",
        ),
        (f"otpauth://totp/x?secret={TOTP_80_BITS}%26digits%3D8", None),
        ("", None),
    ],
)
def test_normalise_totp(cell: str, stored: str | None) -> None:
    """A TOTP secret is stored as base32, or as an otpauth address if it differs from the defaults."""
    assert normalise_totp(cell) == stored


@pytest.mark.parametrize("digits", [6, 7, 8])
@pytest.mark.parametrize("period", [15, 30, 60])
@pytest.mark.parametrize("algorithm", ["SHA1", "SHA256", "SHA512"])
def test_totp_parameters(digits: int, period: int, algorithm: str) -> None:
    """The digits, period and algorithm of an otpauth address survive storing and unsealing."""
    cell = f"otpauth://totp/x?secret={TOTP_80_BITS}&digits={digits}&period={period}&algorithm={algorithm}"
    stored = normalise_totp(cell)
    assert stored is not None
    assert normalise_totp(stored) == stored
    digest = getattr(hashlib, algorithm.lower())
    expected = TOTP(TOTP_80_BITS, digits=digits, interval=period, digest=digest)
    assert totp_of(stored).at(1_234_567_890) == expected.at(1_234_567_890)


def test_totp_source() -> None:
    """The codes are those of RFC 6238, appendix B."""
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    assert totp_of(f"otpauth://totp/x?secret={secret}&digits=8").at(59) == "94287082"


# --- dedupe ----------------------------------------------------------


def test_dedupe() -> None:
    """The first valid row of a mailbox wins, in any letter case; invalid rows do not count."""
    validated = validate(
        table_of(
            {"email": "ann@example.com", "password": ""},
            {"email": "Ann@Example.com", "password": "first"},
            {"email": "bob@example.com"},
            {"email": "ann@example.COM", "password": "second"},
            {"email": "BOB@example.com"},
        )
    )
    kept = dedupe(validated.valid)
    assert not isinstance(kept, Refusal)
    assert kept.kept.select("line", "password").rows() == [(3, "first"), (4, "pw")]
    assert kept.duplicates == (Duplicate(5, "ann@example.COM", differs=True), Duplicate(6, "BOB@example.com"))
    assert kept.kept.columns == validated.valid.columns


@pytest.mark.parametrize(
    ("different", "repeats", "detail"),
    [
        (500, 0, None),
        (500, 200, None),
        (501, 0, "the file has at least 501 different mailboxes; split it into smaller files"),
        (1_501, 3, "the file has at least 1,501 different mailboxes; split it into smaller files"),
    ],
)
def test_cap(different: int, repeats: int, detail: str | None) -> None:
    """At most 500 mailboxes are allowed, counted without duplicates."""
    assert MAX_MAILBOXES == 500
    lines = [f"user{at}@example.com,pw\n" for at in [*range(different), *range(repeats)]]
    table = parse(("email,password\n" + "".join(lines)).encode())
    assert isinstance(table, CsvTable)
    kept = dedupe(validate(table).valid)
    if detail:
        assert kept == Refusal("Maximum 500 mailboxes per import", detail)
    else:
        assert not isinstance(kept, Refusal)
        assert (kept.kept.height, len(kept.duplicates)) == (different, repeats)


def test_invalid_rows_do_not_count_towards_the_cap() -> None:
    """A file of 600 rows with 500 valid ones is imported."""
    bad = "".join(f"user{at},pw\n" for at in range(100))
    good = "".join(f"user{at}@example.com,pw\n" for at in range(500))
    table = parse(f"email,password\n{bad}{good}".encode())
    assert isinstance(table, CsvTable)
    validated = validate(table)
    assert (len(validated.errors), validated.valid.height) == (100, 500)
    assert not isinstance(dedupe(validated.valid), Refusal)


# --- What is shown of a failed row -----------------------------------


@pytest.mark.parametrize(
    ("cells", "email"),
    [
        pytest.param({"email": ""}, "unknown", id="none"),
        pytest.param({"email": " Ann@Example.com ", "password": ""}, "Ann@Example.com", id="a good one"),
        pytest.param({"totpsecret": "1"}, "ann@example.com", id="a good one, bad secret"),
        pytest.param({"email": "ann@outlook"}, "ann@outlook", id="incomplete domain"),
        pytest.param({"email": "ann.b@@outlook.com"}, "ann.b@@outlook.com", id="two @ signs"),
        pytest.param({"email": "ann.outlook.com"}, "ann.outlook.com", id="no @ sign"),
        pytest.param({"email": "not-an-email"}, "not-an-email", id="words"),
        pytest.param({"email": "typo0fabrikam.com"}, "typo0fabrikam.com", id="a digit for the @"),
        pytest.param({"email": "ann @fabrikam"}, "ann @fabrikam", id="space beside the @"),
        pytest.param({"email": "ann@fabrikam,com"}, "ann@fabrikam,com", id="comma for the dot"),
        pytest.param({"email": "änn@outlook.com"}, "änn@outlook.com", id="not ASCII"),
        pytest.param({"email": f"{'x' * 300}@x.co"}, "x" * 254, id="too long"),
        pytest.param({"email": CANARY, "extra_cells": True}, "unknown", id="cells shifted"),
        pytest.param({"email": "sesame", "extra_cells": True}, "unknown", id="one cell too many"),
        pytest.param({"email": "sesame", "password": "ann@x.co"}, "unknown", id="columns swapped"),
        pytest.param({"email": "sesame", "name": "ann@x.co"}, "unknown", id="address in the name"),
        pytest.param({"email": "sesame", "password": "sesame"}, "unknown", id="password twice"),
        pytest.param({"email": "sesame", "password": ""}, "unknown", id="password blank"),
        pytest.param({"email": "abcdefghijklmnop"}, "unknown", id="app password"),
        pytest.param({"email": "abcd efgh ijkl mnop"}, "unknown", id="app password with spaces"),
        pytest.param({"email": CANARY}, "unknown", id="digits and no @ sign"),
        pytest.param({"email": "S0mmer@2026"}, "unknown", id="digits after an @ sign"),
        pytest.param({"email": "pa$$@word"}, "unknown", id="signs"),
        pytest.param({"email": f"ann@x.co:{CANARY}"}, "unknown", id="address:password"),
        pytest.param({"email": f"ann@x.co;{CANARY}"}, "unknown", id="another delimiter"),
        pytest.param({"email": f"ann@x.co {CANARY}"}, "unknown", id="a space between"),
        pytest.param({"email": "ann@x.co----sesame"}, "unknown", id="dashes between"),
        pytest.param({"email": f"ann@x.co,{CANARY}", "password": ""}, "unknown", id="row in one cell"),
        pytest.param({"email": "ann\x1b[31m@x.co"}, "unknown", id="control characters"),
    ],
)  # fmt: skip
def test_shown_email(cells: dict[str, str | bool], email: str) -> None:
    """A failed row is named by its address, or as `unknown` if that may be a password."""
    (error,) = validate_row(**cells).errors
    assert error.email == email


@pytest.mark.parametrize(
    "row",
    [
        f"ann@x.co,{CANARY},more",
        f"{CANARY},ann@x.co",
        f'"ann@x.co,{CANARY}"',
        f"ann@x.co;{CANARY}",
        f"ann@x.co:{CANARY},x",
        f'ann@x.co,"{CANARY}\n"',
        f"ann,{CANARY}",
        f"ann@x.co,{CANARY}{'x' * 300}",
        f",{CANARY}",
        f"{CANARY},",
        f"{CANARY},{CANARY}",
    ],
)
def test_no_password_in_an_error(row: str) -> None:
    """If the cells of a row are shifted, its error does not contain the password."""
    table = parse(f"email,password\nbob@x.co,pw\n{row}\n".encode())
    assert isinstance(table, CsvTable)
    validated = validate(table)
    assert len(validated.errors) == 1
    assert CANARY not in repr(validated.errors)


# --- Pandera ---------------------------------------------------------


def test_pandera_says_nothing() -> None:
    """A table of another shape is an internal error, which contains no cell, not even in its cause."""
    good = table_of({"password": CANARY, "email": "bob"})
    broken = CsvTable(good.frame.with_columns(pl.col("line").cast(pl.Int64)), ())
    with pytest.raises(TypeError, match="does not have the shape of MailboxRow") as caught:
        validate(broken)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_environment_cannot_turn_the_rules_off() -> None:
    """Pandera's environment variables do not change the rules."""
    program = (
        "from schemas.csv_file import parse; from schemas.rows import validate\n"
        "print(len(validate(parse(b'email,password\\nann,pw\\n')).errors))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PANDERA_VALIDATION_ENABLED": "False", "PANDERA_VALIDATION_DEPTH": "SCHEMA_ONLY"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"


def test_parts_of_a_long_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is validated in parts gives the same result as in one."""
    table = table_of(*({"email": f"u{at}@x.co" if at % 3 else "bad"} for at in range(100)))
    whole = validate(table)
    monkeypatch.setattr(rows, "ROWS_AT_ONCE", 7)
    parts = validate(table)
    assert parts.valid.equals(whole.valid)
    assert parts.errors == whole.errors
    assert (len(parts.errors), parts.valid.height) == (34, 66)


def test_too_many_mailboxes_end_the_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10,000 mailboxes only the first 2,000 are validated: with 501 of them the file is refused."""
    table = parse(b"email,password\n" + b"".join(b"u%d@x.co,pw\n" % at for at in range(10_000)))
    assert isinstance(table, CsvTable)
    seen: list[str] = []

    def email_key(address: str, served: object = ()) -> str:  # noqa: ARG001
        seen.append(address)
        return address

    monkeypatch.setattr(rows, "email_key", email_key)
    refusal = dedupe(validate(table).valid)
    assert isinstance(refusal, Refusal)
    assert refusal.message == "Maximum 500 mailboxes per import"
    assert len(seen) == rows.ROWS_AT_ONCE


def test_every_row_fails() -> None:
    """A table without a valid row gives an empty frame of the same shape."""
    validated = validate_row(password="")
    assert validated.valid.is_empty()
    assert validated.valid.schema == validate_row().valid.schema
    kept = dedupe(validated.valid)
    assert not isinstance(kept, Refusal)
    assert kept.duplicates == ()
