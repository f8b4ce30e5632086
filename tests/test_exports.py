"""Files as programs export them: each is read as it is meant, or named for what it is."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.damage import clean_email, clean_password, damage_of
from schemas.prepare import Prepared, prepare_rows
from schemas.reading import Reading
from schemas.refusals import COLUMNS_REQUIRED, CSV_EMPTY, Refusal
from schemas.row_reasons import RowReason, SkipReason
from schemas.summary import summarize
from tests.support.exports import EXPORTS, export_of

APP_PASSWORD = "abcdefghijklmnop"
ROW = ("ann@contoso.com", APP_PASSWORD)


def prepared(data: str | bytes) -> Prepared:
    found = prepare_rows(data.encode() if isinstance(data, str) else data)
    assert isinstance(found, Prepared), found
    return found


def refusal_of(data: str | bytes) -> Refusal:
    found = prepare_rows(data.encode() if isinstance(data, str) else data)
    assert isinstance(found, Refusal)
    return found


@pytest.mark.parametrize("program", EXPORTS)
def test_export_is_recognised(program: str) -> None:
    """The columns of a common export are found under the names that the program uses."""
    email, password = ROW
    _, _, name, totp = EXPORTS[program]
    kept = prepared(export_of(program, email, password)).kept
    assert kept.select("email", "password", "name", "totp").rows() == [(email, password, name, totp)]


@pytest.mark.parametrize(
    "above",
    [
        "#TYPE System.Data.DataRow\r\n",
        "Mailboxes March 2026\n\n",
        "Export, 26 Nov 2026, 2 users\n",
        'Notes: "draft\n',
        '"sep=,"\n',
        "\ufeff\n",
        "version:v1.0,,\n",
        "Account,Security\n",
    ],
)
def test_lines_above_the_header_are_skipped(above: str) -> None:
    """A title, a type line or a separator line above the only header is skipped, and lines are counted on."""
    found = prepared(f"{above}email,password\nann@contoso.com,pw\n").kept
    assert found["line"].to_list() == [above.count("\n") + 2]


def test_two_headers_are_no_title() -> None:
    """Where several of the first lines are headers, nothing above the first one is skipped."""
    found = refusal_of("Title\nemail,password\nemail,password\nann@contoso.com,pw\n")
    assert found.message == COLUMNS_REQUIRED


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("<html><body><table></table></body></html>", "a web page (HTML)"),
        ("\n<!DOCTYPE html>\n<p>", "a web page (HTML)"),
        ('[{"email":"ann@contoso.com","password":"pw"}]', "JSON"),
        ('{"email": "ann@contoso.com"}', "JSON"),
        ('<?xml version="1.0"?>\n<Workbook/>', "an XML spreadsheet"),
        ('email,password\n"ann@contoso.com,pw"\n"bob@contoso.com,pw"\n', "in one pair of quotation marks"),
        ("<!-- saved --><!-- from --> <html>", "a web page (HTML)"),
        ('<?xml version="1.0"?><!DOCTYPE html><html/>', "a web page (HTML)"),
        ('<?xml version="1.0"?>\n<KeePassFile><Root/></KeePassFile>', "a KeePass file in XML"),
        ('<accounts><account email="ann@contoso.com" password="pw"/></accounts>', "is XML"),
        ("{\\rtf1\\ansi email,password\\par}", "an RTF document"),
        ("-- dump\nINSERT INTO x (email, password) VALUES ('a@x.co', 'pw');\n", "a dump in SQL"),
        ("BEGIN:VCARD\nEMAIL:ann@contoso.com\nEND:VCARD\n", "contacts (vCard)"),
        ("dn: CN=Ann\nmail: ann@contoso.com\nuserPassword: pw\n", "a directory in LDIF"),
        ("-----BEGIN PGP MESSAGE-----\n\nhQ\n", "an encrypted message"),
        ("Received: from x\nSubject: y\n\nemail,password\nann@contoso.com,pw\n", "an email message"),
        ("| email | password |\n|---|:---:|\n| ann@contoso.com | pw |\n", "a Markdown table"),
        (b"\x03\xd9\xa2\x9ag\xfbK\xb5\x00", "a KeePass database"),
        (b"7z\xbc\xaf'\x1c\x00\x04", "a 7-Zip archive"),
        (b"Rar!\x1a\x07\x01\x00", "a RAR archive"),
        (b"\x89PNG\r\n\x1a\n\x00", "a picture"),
        (b"SQLite format 3\x00", "an SQLite database"),
        ("email,password\nann@contoso.com;pw\nbob@contoso.com;p;w\n", "another character than the header"),
    ],
)
def test_other_formats_are_named(data: str | bytes, says: str) -> None:
    """A file of another format is refused by its name."""
    assert says in refusal_of(data).message


def test_many_comments_cost_no_time() -> None:
    """A text that begins like a web page and is none is recognised in one pass."""
    started = time.monotonic()
    assert "is XML" in refusal_of("<!---->" * 300 + "x,y\nz").message
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    ("data", "line", "detail"),
    [
        (
            "note\n" * 24 + "email,password\nann@contoso.com,pw\n",
            25,
            "the header is on line 25; delete the lines above",
        ),
        (
            "Sales\nemail,password\nmail,pwd\nann@contoso.com,pw\n",
            2,
            "lines 2 and 3 are both a header; keep one",
        ),
        ("email:password\nann@contoso.com:pw\n", 1, "not separated by commas, semicolons, tabs or pipes"),
        ("ann@contoso.com:pw\nbob@contoso.com:pw\n", 1, "not separated by commas, semicolons, tabs or pipes"),
        (
            "email    password\nann@contoso.com    pw\n",
            1,
            "not separated by commas, semicolons, tabs or pipes",
        ),
        ("email，password\nann@contoso.com，pw\n", 1, "not separated by commas, semicolons, tabs or pipes"),
        ("ann@contoso.com,pw\n", 1, "line 1 contains an address, so the file has no header"),
    ],
)
def test_what_keeps_the_header_from_being_found_is_said(data: str, line: int, detail: str) -> None:
    """Without a header that can be used, the explanation says why and on which line."""
    found = refusal_of(data)
    assert (found.message, found.line) == (COLUMNS_REQUIRED, line)
    assert detail in found.detail


@pytest.mark.parametrize(
    ("data", "detail"),
    [("", "no text in it"), ("\n \n", "no text in it"), ("email,password\n", "no row below its first line")],
)
def test_an_empty_file_says_what_is_not_in_it(data: str, detail: str) -> None:
    """The message is the contract's, and the detail says what to add."""
    found = refusal_of(data)
    assert found.message == CSV_EMPTY
    assert detail in found.detail


def test_names_that_were_read_with_the_wrong_encoding_are_noted() -> None:
    """Names with pairs such as Ã¼ give a note, because a password of the file may be damaged as well."""
    found = prepared("email,password,name\nann@contoso.com,pw,JÃ¼rgen\nbob@contoso.com,pw,Jürgen\n")
    assert found.notes == (
        "Names look damaged by a wrong encoding, such as Ã¼ for ü, in 1 row; export the file again as UTF-8",
    )


def test_gaps_are_filled_from_a_column_that_agrees() -> None:
    """Where a file has an address or a password in the other column of two that agree, it is used."""
    file = "email,username,SMTP password,IMAP password\n,ann@contoso.com,a,\nbob@contoso.com,,,b\n"
    found = prepared(file)
    assert found.kept.select("email", "password").rows() == [
        ("ann@contoso.com", "a"),
        ("bob@contoso.com", "b"),
    ]
    assert found.errors == ()


def test_file_without_a_header_says_so() -> None:
    """Without a header the message is the contract's, and the detail gives an example."""
    found = refusal_of(
        "ann@outlook.com|Passw0rd1|ann.rec@example.com\nbob@outlook.com|Passw0rd2|x@example.com\n"
    )
    assert found.message == COLUMNS_REQUIRED
    assert "email,password" in found.detail
    assert "ann" not in f"{found}"


def test_different_addresses_or_passwords_are_refused_by_name_and_line() -> None:
    """Two columns that disagree are named with the first line, and nothing is imported."""
    addresses = refusal_of(
        "Username,Password,Email\na@contoso.com,p,a@contoso.com\nb@contoso.com,p,me@x.co\n"
    )
    assert addresses.message.startswith("Line 3: columns “Email” and “Username” hold different addresses")
    passwords = refusal_of("email,SMTP Password,IMAP Password\na@contoso.com,one,two\n")
    assert passwords.message.startswith("Line 2: columns “SMTP Password” and “IMAP Password” hold different")


def test_row_that_is_no_mailbox_fails_alone() -> None:
    """A totals row or another login among many mailboxes fails by itself."""
    rows = "".join(f"u{n}@contoso.com,pw{n}\n" for n in range(300))
    found = prepared(f"Username,Password\n{rows}Total: 300,\n")
    assert (found.kept.height, [error.line for error in found.errors]) == (300, [302])


def test_end_of_file_mark_is_no_row() -> None:
    """Ctrl-Z at the end of a DOS file is not a row."""
    found = prepared("email,password\r\nann@contoso.com,pw\r\n\x1a")
    assert (found.kept.height, found.errors) == (1, ())


@pytest.mark.parametrize(
    ("cell", "address"),
    [
        ("mailto:ann@contoso.com", "ann@contoso.com"),
        ("SMTP:ann@contoso.com", "ann@contoso.com"),
        ("<ann@contoso.com>", "ann@contoso.com"),
        ("Ann Bell <ann@contoso.com>", "ann@contoso.com"),
        ("ann@contoso.com;", "ann@contoso.com"),
        ("ann@contoso.com.", "ann@contoso.com"),
        ("'ann@contoso.com'", "ann@contoso.com"),
        ("“ann@contoso.com”", "ann@contoso.com"),
        ("«ann@contoso.com»", "ann@contoso.com"),
        ("'Ann Bell' <ann@contoso.com>;", "ann@contoso.com"),
        ("Ann Bell (ann@contoso.com)", "ann@contoso.com"),
        ("[ann@contoso.com]", "ann@contoso.com"),
        ("ann@contoso.com (work)", "ann@contoso.com"),
        ("• ann@contoso.com", "ann@contoso.com"),
        ("Email: ann@contoso.com", "ann@contoso.com"),
        ("mailto:ann@contoso.com?subject=Hello", "ann@contoso.com"),
        ("mailto:%20ann@contoso.com", "ann@contoso.com"),
        ("`ann@contoso.com`", "ann@contoso.com"),
        ("{ann@contoso.com}", "ann@contoso.com"),
        ('<a href="mailto:ann@contoso.com">ann@contoso.com</a>', "ann@contoso.com"),
        ("ann@contoso.com<br>", "ann@contoso.com"),
        ("ann＠contoso。com", "ann@contoso.com"),
        ("\u200bann@contoso.com\u00ad", "ann@contoso.com"),
    ],
)
def test_decorated_address_is_cleaned_with_a_warning(cell: str, address: str) -> None:
    """What programs put around an address is removed, and the row is warned of."""
    assert clean_email(cell).text == address
    assert clean_email(cell).warning
    assert clean_email(f" {address} ").warning == ""


@pytest.mark.parametrize(
    "cell", ["{ann}@contoso.com", "`ann`@contoso.com", "|ann@contoso.com", "o'hara@x.co"]
)
def test_address_with_unusual_letters_is_kept(cell: str) -> None:
    """What may be a part of the address is not removed."""
    assert clean_email(cell) == (cell, "")


@pytest.mark.parametrize(
    "cell",
    [
        "abcd efgh ijkl mnop",
        "abcd\u00a0efgh\u00a0ijkl\u00a0mnop",
        "abcd\u2009efgh\u202fijkl\u3000mnop",
        "\ufeffabcdefghijklmnop\u200b",
        "\u200babcd efgh ijkl mnop",
    ],
)
def test_app_password_is_its_16_letters(cell: str) -> None:
    """Spaces between the groups and invisible characters around them are no part of an app password."""
    assert clean_password(cell) == (APP_PASSWORD, "")


@pytest.mark.parametrize(
    ("cell", "stored", "kind"),
    [
        ('="00123"', "00123", "inside"),
        ("\ufeffSecret1", "\ufeffSecret1", "invisible"),
        ("Sec\u00a0ret", "Sec\u00a0ret", "unusual space"),
        (" pw", " pw", "begins or ends with a space"),
        ("“Secret2”", "“Secret2”", "typographic quotes"),
        ("1.23457E+15", "1.23457E+15", "a number that a spreadsheet has shortened"),
        ("Tom&amp;Jerry", "Tom&amp;Jerry", "HTML code"),
        ("grÃ¼n1", "grÃ¼n1", "wrong encoding"),
        ("10â‚¬x", "10â‚¬x", "wrong encoding"),
        ("naÃ¯veâ€“x", "naÃ¯veâ€“x", "wrong encoding"),
        ("Abcd efgh ijkl mnop", "Abcd efgh ijkl mnop", "capital letters"),
        ("e\u0301", "e\u0301", "an accent as a character of its own"),
        ("xxxxxxxx", "xxxxxxxx", "in place of the password"),
        ("<hidden>", "<hidden>", "in place of the password"),
        ("[object Object]", "[object Object]", "in place of the password"),
        ("System.Security.SecureString", "System.Security.SecureString", "in place of the password"),
        ("undefined", "undefined", "a word that programs write"),
        ("{SSHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "{SSHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "a hash"),
        ("5f4dcc3b5aa765d61d8327deb882cf99", "5f4dcc3b5aa765d61d8327deb882cf99", "a hash"),
        ("Secret12…", "Secret12…", "as if it was cut"),
        ('"Secret12"', '"Secret12"', "between quotation marks"),
        ("gr\\u00fcn", "gr\\u00fcn", "a code such as"),
    ],
)
def test_possible_damage_is_kept_and_warned_of(cell: str, stored: str, kind: str) -> None:
    """A password that may be damaged is stored as it is, with a warning that names the kind."""
    text, warning = clean_password(cell)
    assert text == stored
    assert kind in warning


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("••••••••", RowReason.MASKED),
        ("********", RowReason.MASKED),
        ("○○○○○○", RowReason.MASKED),
        ("#NAME?", RowReason.SPREADSHEET_ERROR),
        ("#N/A", RowReason.SPREADSHEET_ERROR),
        ("########", RowReason.SPREADSHEET_ERROR),
        ("gr\ufffdn1", RowReason.LOST_CHARACTERS),
    ],
)
def test_sure_damage_fails_the_row(cell: str, reason: RowReason) -> None:
    """A cell that surely holds no password fails its row with a reason of its own."""
    (error,) = prepared(f"email,password\nann@contoso.com,{cell}\n").errors
    assert (error.reason, str(damage_of(cell))) == (reason, reason.value)


@pytest.mark.parametrize("word", ["N/A", "-", "none", "NULL", "null"])
def test_words_for_no_value_are_blank_in_optional_columns(word: str) -> None:
    """A word for no value is blank as a name or a TOTP secret, and stays as it is as a password."""
    found = prepared(f"email,password,name,totpsecret\nann@contoso.com,{word},{word},{word}\n").kept
    assert found.select("password", "name", "totp").rows() == [(word, None, None)]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_a_password_is_kept_to_the_byte_or_changed_with_proof(cell: str) -> None:
    """Only the shape of an app password and `="…"` change a cell, and the second one with a warning."""
    text, warning = clean_password(cell)
    if text != cell:
        assert re.fullmatch(r"[a-z]{16}", text) or warning
    assert clean_password(text).text == text or text != cell


@settings(deadline=None)
@given(st.permutations(["email", "password", "name", "notes"]))
def test_order_of_columns_changes_nothing(order: list[str]) -> None:
    """The same cells in another order of columns give the same row."""
    cells = {"email": "ann@contoso.com", "password": "p w", "name": "Ann", "notes": "x"}
    data = f"{','.join(order)}\n{','.join(cells[name] for name in order)}\n"
    assert prepared(data).kept.select("email", "password", "name").rows() == [
        ("ann@contoso.com", "p w", "Ann")
    ]


ADDRESSES = st.sampled_from(["ann@contoso.com", "ANN@contoso.com", "bob@contoso.com", "cid@contoso.com"])
SECRETS = st.sampled_from(["pw", "other", " edge", "it’s", "abcd efgh ijkl mnop", "#NAME?"])
ROWS = st.tuples(ADDRESSES, SECRETS)


@settings(deadline=None, max_examples=40)
@given(st.lists(ROWS, min_size=1, max_size=8, unique_by=lambda row: row[0].casefold()))
def test_order_of_rows_changes_nothing(rows: list[tuple[str, str]]) -> None:
    """The same rows in another order give the same mailboxes, errors and warnings."""

    def found(ordered: list[tuple[str, str]]) -> tuple[set[Any], set[Any]]:
        one = prepared("email,password\n" + "".join(f"{email},{password}\n" for email, password in ordered))
        kept = one.kept.select("email", "password", "warning").iter_rows()
        return set(kept), {(error.email, error.reason) for error in one.errors}

    assert found(rows) == found(rows[::-1])


@settings(deadline=None, max_examples=40)
@given(st.lists(ROWS, min_size=1, max_size=8))
def test_no_password_is_dropped_silently(rows: list[tuple[str, str]]) -> None:
    """Each row has a result, and a skipped one says if its password is not the imported one."""
    found = prepared("email,password\n" + "".join(f"{email},{password}\n" for email, password in rows))
    lines = [
        *found.kept["line"],
        *(row.line for row in found.duplicates),
        *(row.line for row in found.errors),
    ]
    assert sorted(lines) == [*range(2, len(rows) + 2)]
    stored = dict(found.kept.select("email_key", "password").iter_rows())
    for repeated in found.duplicates:
        email, password = rows[repeated.line - 2]
        assert repeated.differs == (clean_password(password).text != stored[email.casefold()])


@settings(deadline=None)
@given(ADDRESSES, ADDRESSES, st.sampled_from(["username", "mail", "upn"]))
def test_two_address_columns_are_never_settled_silently(first: str, second: str, name: str) -> None:
    """Two columns of addresses agree, or the file is refused by their names, or a person has chosen."""
    data = f"email,{name},password\n{first},{second},pw\n".encode()
    found = prepare_rows(data)
    if first.casefold() == second.casefold():
        assert isinstance(found, Prepared)
    else:
        assert isinstance(found, Refusal)
        assert found.headers == ("email", name)
        chosen = prepare_rows(data, Reading(columns={"email": name}))
        assert isinstance(chosen, Prepared)
        assert chosen.kept["email"].to_list() == [second]


def test_repeated_address_with_another_password_is_named() -> None:
    """The first row of a mailbox counts; a later one with another password is skipped and says so."""
    file = "email,password\nann@contoso.com,old\nANN@contoso.com,new\nann@contoso.com,old\n"
    found = prepared(file)
    assert found.kept["password"].to_list() == ["old"]
    assert [(again.line, again.differs) for again in found.duplicates] == [(3, True), (4, False)]
    reasons = [outcome.reason for outcome in summarize(found, "in.csv", "default", None).outcomes]
    assert reasons == ["", SkipReason.DUPLICATE_DIFFERS.message, SkipReason.DUPLICATE.message]


@pytest.mark.parametrize("domain", ["contoso.local", "mail.test", "mail.localhost"])
def test_special_domain_is_valid_where_the_settings_name_it(domain: str) -> None:
    """A domain that does not exist on the internet is valid only if it has servers in the settings."""
    file = f"email,password\nann@{domain},pw\n".encode()
    named, unnamed = prepare_rows(file, served=(domain,)), prepare_rows(file, served=("contoso.com", "*"))
    assert isinstance(named, Prepared)
    assert isinstance(unnamed, Prepared)
    assert named.kept["email_key"].to_list() == [f"ann@{domain}"]
    assert [error.reason for error in unnamed.errors] == [RowReason.INVALID_EMAIL]


def test_each_warning_is_found_by_its_line() -> None:
    """The artifact names the line and the address of each row with a warning."""
    found = prepared("email,password\nann@contoso.com, pw\nmailto:bob@contoso.com,pw\ncy@contoso.com,pw\n")
    summary = summarize(found, "in.csv", "default", None)
    assert [(outcome.line, outcome.email) for outcome in summary.warned()] == [
        (2, "ann@contoso.com"),
        (3, "bob@contoso.com"),
    ]
    assert "| 3 | bob@contoso.com | Characters around the address were removed |" in summary.markdown()
