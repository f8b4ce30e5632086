"""The files of a hand-over: complete, addressed to who has to act, safe to unpack, open and import."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.handover import handover
from schemas.handover.admin import REPLIES_SHOWN
from schemas.handover.lists import PASSWORD_ERRORS
from schemas.handover.names import LONGEST_NAME, SafeNames
from schemas.outcomes import Outcome
from schemas.prepare import Prepared, prepare_rows
from schemas.reasons import Reason
from schemas.row_reasons import RowReason
from schemas.summary import defused
from tests.support.outcomes import OFF, SENTENCE, document, hostile, mailbox, realistic, row_error
from tests.support.powershell import is_faulty, parsed, strings, value_of

WRONG, OK = Reason.WRONG_CREDENTIALS, Reason.OK
TENANT, MAILBOX_OFF = Reason.SMTP_AUTH_OFF_TENANT, Reason.SMTP_AUTH_OFF_MAILBOX
LISTS = {"fix-passwords.csv", "fix-rows.csv", "personal.csv", "oauth.csv"}
HOSTILE_TEXT = '=cmd|calc!A1\x1b[31m\r\n| `x` <script>alert(1)</script> [a](http://x) "\u202e'


def made(*outcomes: Outcome) -> dict[str, bytes]:
    return handover(document(outcomes), outcomes)


def read(content: bytes) -> list[dict[str, str]]:
    assert content.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))


def letters(files: dict[str, bytes]) -> dict[str, str]:
    return {name: content.decode() for name, content in files.items() if name.startswith("letters/")}


# --- A realistic import ----------------------------------------------


def test_the_files_of_a_realistic_import() -> None:
    """Each domain has a folder, each owner a letter, each list its rows, and nothing is empty."""
    files = handover(document(realistic()), realistic())
    assert next(iter(files)) == "README.txt"
    assert set(files) - set(letters(files)) == {
        "README.txt",
        *LISTS,
        *(f"contoso.com/{name}" for name in ("to-admin.md", "enable-smtp-auth.ps1")),
        *(f"fabrikam.com/{name}" for name in ("to-admin.md", "enable-smtp-auth.ps1")),
    }
    counts = {name: len(read(files[name])) for name in LISTS}
    assert counts == {"fix-passwords.csv": 33, "fix-rows.csv": 9, "personal.csv": 60, "oauth.csv": 88}
    assert len(letters(files)) == 32
    listed = strings(value_of(parsed(files["contoso.com/enable-smtp-auth.ps1"].decode()), "$Mailboxes"))
    assert len(listed) == 60
    assert listed == sorted(listed)


def test_the_first_line_of_each_text_has_a_count() -> None:
    """The first line of each text says how many rows or mailboxes it is about."""
    files = handover(document(realistic()), realistic())
    first = {
        name: content.decode("utf-8-sig").split("\n")[0]
        for name, content in files.items()
        if not name.endswith(".csv")
    }
    assert first["README.txt"].startswith("238 of 400 rows do not fully work: import 12, ")
    assert first["contoso.com/to-admin.md"].startswith("65 mailboxes of contoso.com need you")
    assert first["fabrikam.com/enable-smtp-auth.ps1"] == "# 20 mailboxes need SMTP AUTH."
    assert all(re.match(r"(# )?\d", line) for line in first.values())


def test_the_overview_names_each_file_and_each_group() -> None:
    """README.txt has the sentence, every file, and the reasons for which there is no file."""
    files = handover(document(realistic()), realistic(), program=".venv/bin/outlook-import")
    overview = files["README.txt"].decode()
    assert f"{SENTENCE}." in " ".join(overview.split())
    for name in set(files) - {"README.txt"} - set(letters(files)):
        assert name in overview, name
    assert "letters/: 32 letters" in overview
    assert "\n    .venv/bin/outlook-import import fix-passwords.csv --update\n" in overview
    assert "\n    .venv/bin/outlook-import mailboxes retest --import 12\n" in overview
    assert "3: Server certificate not trusted." in overview
    assert "8: Not tested yet." in overview
    assert max(map(len, overview.splitlines())) <= 100


def test_the_commands_name_the_workspace() -> None:
    """The commands in README.txt name the workspace unless it is the default one, quoted for a shell."""
    rows = [mailbox("a@b.example", WRONG, None)]
    overview = handover(document(rows, workspace="Team 7"), rows)["README.txt"].decode()
    assert "import fix-passwords.csv --update --workspace 'Team 7'\n" in overview


def test_an_import_that_works_has_only_the_overview() -> None:
    """If there is nothing to do, README.txt says so, and is the only file."""
    files = made(mailbox("ann@northwind.example", OK, OK, "active"))
    assert list(files) == ["README.txt"]
    assert "There is nothing to do." in files["README.txt"].decode()
    assert list(handover(document([]), [])) == ["README.txt"]


# --- The admin's page ------------------------------------------------


def test_the_admins_page_has_the_servers_words_and_their_times() -> None:
    """The page groups the servers' replies, each with the time of the first and of the last."""
    page = handover(document(realistic()), realistic())["contoso.com/to-admin.md"].decode()
    assert re.search(
        r"\| 60 \| SMTP \| smtp\.office365\.com \| 535 5\.7\.139 .* disabled for the Tenant\. .* "
        r"\| 2026-11-24 09:32 UTC \| 2026-11-24 09:33 UTC \|",
        page,
    )
    assert "| 5 | Blocked by Conditional Access |" in page
    assert page.count("@contoso.com |") == 65


def test_the_admins_page_says_what_was_not_tried() -> None:
    """The page says which protocol was not tried, and how many tests sent no password."""
    early = mailbox("bob@contoso.com", Reason.IMAP_OFF, None)
    assert early.smtp
    early = replace(early, smtp=replace(early.smtp, stage="tls"))
    page = made(mailbox("ann@contoso.com", TENANT, None), early)["contoso.com/to-admin.md"].decode()
    assert "- IMAP was not tried for 2 mailboxes." in page
    assert "- 1 test ended before the login, so that no password was sent." in page


def test_a_domain_without_a_switch_has_no_script() -> None:
    """The script is only there for mailboxes for which SMTP AUTH is off."""
    rows = (
        mailbox("a@contoso.com", Reason.SECURITY_DEFAULTS, None),
        mailbox("b@fabrikam.com", MAILBOX_OFF, OK, "partial"),
    )
    files = made(*rows)
    assert "contoso.com/enable-smtp-auth.ps1" not in files
    assert "What the script does" not in files["contoso.com/to-admin.md"].decode()
    assert "fabrikam.com/enable-smtp-auth.ps1" in files


def test_a_servers_words_stay_text() -> None:
    """Markup, line breaks and control characters in a server's reply or an address do not break out."""
    row = mailbox("ann|`<b>@contoso.com", TENANT, None, text=HOSTILE_TEXT)
    page = made(row)["contoso.com/to-admin.md"].decode()
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "<script>" not in page
    assert r"\| \`x\` &lt;script&gt;alert(1)&lt;/script&gt; \[a\](http\://x)" in page
    (table_row,) = [line for line in page.splitlines() if "cmd" in line]
    assert len(re.findall(r"(?<!\\)\|", table_row)) == 7  # six cells


def test_many_different_replies_are_bounded() -> None:
    """The page shows the most frequent replies, and says how many it leaves out."""
    rows = [
        mailbox(f"a{n}@contoso.com", TENANT, None, text=f"535 reply {n}") for n in range(REPLIES_SHOWN + 7)
    ]
    assert "7 more replies left out." in made(*rows)["contoso.com/to-admin.md"].decode()


def test_hostile_texts_stay_text() -> None:
    """Whatever the file and the servers said, each file is valid, and has no control characters."""
    files = made(*hostile())
    assert set(files) >= {"README.txt", *LISTS - {"fix-passwords.csv", "personal.csv"}}
    for name, content in files.items():
        text = content.decode("utf-8-sig")
        assert not [char for char in text if not char.isprintable() and char not in "\r\n"], name
        if name.endswith(".csv"):
            assert all(defused(cell) == cell for row in read(content) for cell in row.values()), name
        if name.endswith(".ps1"):
            assert not is_faulty(parsed(text)), name
            assert len(strings(value_of(parsed(text), "$Mailboxes"))) == 1, name


# --- The lists -------------------------------------------------------

ODD_ADDRESSES = [
    *("=ann@contoso.com", "+ann@contoso.com", "-ann@contoso.com", "ann@contoso.com"),
    *("o'brien@contoso.com", "{ann}@contoso.com", "ann+tag@contoso.com", "bücher@xn--bcher-kva.example"),
]


def test_filled_passwords_can_be_imported() -> None:
    """The filled file imports with every address as it was, and no cell is a formula."""
    addresses = [email for email in ODD_ADDRESSES if email.isascii()]
    rows = [mailbox(email, WRONG, None, name="=HYPERLINK(1)") for email in addresses]
    rows += [mailbox("named@contoso.com", WRONG, None, name='Anna "Ann", Example')]
    content = made(*rows)["fix-passwords.csv"]
    assert all(defused(cell) == cell for row in read(content) for cell in row.values())
    lines = content.decode("utf-8-sig").splitlines()
    filled = [lines[0], *(f"{line}new {at:04}" for at, line in enumerate(lines[1:]))]
    prepared = prepare_rows("\r\n".join(filled).encode("utf-8-sig"))
    assert isinstance(prepared, Prepared)
    assert not prepared.errors
    assert prepared.kept["email"].to_list() == [*addresses, "named@contoso.com"]
    assert prepared.kept["password"].to_list() == [f"new {at:04}" for at in range(len(rows))]
    assert prepared.kept["name"].to_list()[-1] == 'Anna "Ann", Example'
    assert set(prepared.kept["name"].to_list()[:-1]) == {None}


def test_rows_that_a_password_solves() -> None:
    """A row with a damaged password is in fix-passwords.csv, unless its mailbox is stored or unnamed."""
    rows = [
        row_error(RowReason.MASKED, "ann@contoso.com", 2),
        row_error(RowReason.MISSING, "ann@contoso.com", 3),
        row_error(RowReason.MASKED, "unknown", 4),
        row_error(RowReason.MASKED, "bob@contoso.com", 5),
        row_error(RowReason.INVALID_EMAIL, "carl@", 6),
        mailbox("Bob@contoso.com", OK, OK, "active", line=7),
    ]
    files = made(*rows)
    assert [row["email"] for row in read(files["fix-passwords.csv"])] == ["ann@contoso.com"]
    assert [row["line"] for row in read(files["fix-rows.csv"])] == ["3", "4", "5", "6"]
    assert read(files["fix-rows.csv"])[3]["what_to_do"] == "Enter the full address, such as ann@example.com."


def test_password_errors_are_row_errors() -> None:
    """The row errors that a password solves exist."""
    assert set(RowReason) >= PASSWORD_ERRORS


def test_what_only_oauth_opens() -> None:
    """oauth.csv says for what each mailbox needs OAuth; personal.csv has the personal accounts among them."""
    files = made(
        mailbox("ann@hotmail.com", OFF, OFF, name="Ann"),
        mailbox("bob@adatum.com", OK, OFF, "partial"),
        mailbox("carl@adatum.com", Reason.MECHANISM_NOT_OFFERED, OK, "partial"),
    )
    rows = read(files["oauth.csv"])
    found = sorted((row["email"], row["account"], row["needs_oauth_to"]) for row in rows)
    assert found == [
        ("ann@hotmail.com", "personal", "send and receive"),
        ("bob@adatum.com", "work or school", "receive"),
        ("carl@adatum.com", "work or school", "send"),
    ]
    assert read(files["personal.csv"]) == [
        {"email": "ann@hotmail.com", "name": "Ann", "reason": "Provider has disabled password sign-in"}
    ]


def test_no_cell_of_any_list_is_a_formula() -> None:
    """Addresses, names and hosts that look like formulas are prefixed or bracketed in every list."""
    bad = "=1+1@contoso.com"
    rows = [
        mailbox(bad, WRONG, None, name="@SUM(1)"),
        mailbox("+" + bad, OFF, OFF, name="=1", smtp_host="=host", imap_host="\t=host"),
        mailbox("-x@hotmail.com", OFF, OFF, name="-1"),
        row_error(RowReason.INVALID_EMAIL, "＝x@contoso.com"),
        Outcome(3, "@x", None, "failed", "odd", "=odd error", "=do it"),
    ]
    files = made(*rows)
    assert set(files) >= LISTS
    for name in LISTS:
        assert all(defused(cell) == cell for row in read(files[name]) for cell in row.values()), name


# --- Letters ---------------------------------------------------------


def test_a_letter_to_each_owner() -> None:
    """A letter names the mailbox, its owner, what is wrong, and the steps of that kind of account."""
    files = made(
        mailbox("ann@contoso.com", WRONG, None, name="Ann Example"),
        mailbox("bob@hotmail.com", WRONG, None),
        mailbox("carl@hotmail.com", Reason.ACCOUNT_BLOCKED, None),
        mailbox("dora@contoso.com", TENANT, None),
    )
    texts = letters(files)
    assert list(texts) == [
        "letters/ann@contoso.com.txt",
        "letters/bob@hotmail.com.txt",
        "letters/carl@hotmail.com.txt",
    ]
    ann, bob, carl = texts.values()
    assert ann.startswith("1 mailbox: ann@contoso.com\n\nHello Ann Example,\n\n")
    assert "(tested 2026-11-24 09:30 UTC)" in ann
    assert "mysignins.microsoft.com" in ann
    assert "account.microsoft.com" in bob
    assert "may be refused" in bob
    assert "outlook.live.com" in carl
    assert "Follow the instructions" in carl
    assert "app password" not in carl
    (erna,) = letters(made(mailbox("erna@live.nl", OK, Reason.IMAP_OFF))).values()
    assert "turn on IMAP" in erna
    assert "app password" not in erna
    assert max(len(line) for text in texts.values() for line in text.splitlines()) <= 110


def test_a_letter_stays_in_its_lines() -> None:
    """Line breaks and control characters in a name cannot add lines to a letter."""
    plain, hostile = (
        next(iter(letters(made(mailbox("ann@contoso.com", WRONG, None, name=name))).values()))
        for name in ("Ann", "Ann\r\n\r\nSend your password to eve@evil.example\x1b[2J")
    )
    assert plain.count("\n") == hostile.count("\n")
    assert "\x1b" not in hostile


# --- Names of files --------------------------------------------------

NAME = re.compile(r"[a-z0-9_](?:[a-z0-9.@_+-]*[a-z0-9_])?")
DEVICES = ("con", "prn", "aux", "nul", "com1", "lpt9")


@pytest.mark.parametrize(
    "domain",
    [
        *(
            "..",
            ".",
            "",
            "../../etc",
            "..\\..\\windows",
            "/etc/passwd",
            "c:\\x",
            "a/b.example",
            "a\\b.example",
        ),
        *("con", "CON.example", "nul.com", "com1.example", "aux", "a.example.", " a.example", "a.example "),
        *("letters", "README.txt", "oauth.csv", "a\x00b", "a\nb", "bücher.example", "-rf.example", "~root"),
        *("x" * 300 + ".example", "a:b", "a*b?", "a|b", "a\u202eb.example", "\ud800.example"),
    ],
)
def test_a_folder_is_safe_on_every_system(domain: str) -> None:
    """No domain leaves its folder, or makes a name that a file system refuses, or the name of a file."""
    paths = list(made(mailbox(f"ann@{domain}", TENANT, None)))
    folders = {path.partition("/")[0] for path in paths if "/" in path}
    assert len(folders) == 1
    (folder,) = folders
    assert NAME.fullmatch(folder)
    assert ".." not in folder
    assert len(folder) <= LONGEST_NAME
    assert folder.split(".")[0] not in DEVICES
    assert folder not in {"letters", "readme.txt", *LISTS}


def test_names_differ_in_more_than_case() -> None:
    """Two domains or owners never share a name, also on a file system that ignores case."""
    domains = ("a_b.example", "a/b.example", "a\\b.example", "a b.example", "ß.example", "ss.example")
    files = made(*(mailbox(f"ann@{domain}", TENANT, None) for domain in domains))
    folders = Counter(path.partition("/")[0] for path in files if path.endswith(".ps1"))
    assert len(folders) == len(domains)
    owners = ("a_b@x.example", "a/b@x.example", "a\\b@x.example", "a?b@x.example", "A?B@X.example")
    texts = letters(made(*(mailbox(email, WRONG, None) for email in owners)))
    assert len(texts) == 4  # the last two are one mailbox
    assert len({name.casefold() for name in texts}) == 4


@given(st.lists(st.text(max_size=120), max_size=20, unique=True))
def test_any_text_makes_a_safe_name(texts: list[str]) -> None:
    """Any texts make different names of letters, digits and a few signs, of bounded length."""
    names = SafeNames("letters")
    found = [names.name(text, ".txt") for text in texts]
    assert len(set(found)) == len(texts)
    for name in found:
        assert NAME.fullmatch(name)
        assert len(name) <= LONGEST_NAME
        assert ".." not in name


def test_the_same_input_gives_the_same_files() -> None:
    """A hand-over depends on nothing but its input."""
    assert handover(document(realistic()), realistic()) == handover(document(realistic()), realistic())
