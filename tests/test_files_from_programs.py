"""Files as programs write them and people damage them: one right answer at the command line and over HTTP."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flows.cli.app import main
from schemas.settings import Settings
from tests.test_api import IMPORT, api_with

LINK = "https://outlook.com"
APP = "abcdefghijklmnop"
CLEANED = "Characters around the address were removed"


@dataclass(frozen=True)
class Case:
    """A file and its right answer.

    Attributes:
        options: Form field → values. At the command line, `map` and the others are the options.
        counts: Imported, skipped and failed rows; None if the file is refused.
        errors: The first row errors, as address and a part of the message.
        warnings: Line and a part of each warning, in order; the notes about the file first.
        refused: The message of the refusal.
        because: A part of its explanation.
    """

    data: str | bytes
    counts: tuple[int, int, int] | None = None
    errors: tuple[tuple[str, str], ...] = ()
    warnings: tuple[tuple[int, str], ...] = ()
    refused: str = ""
    because: str = ""
    options: dict[str, list[str]] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.data if isinstance(self.data, bytes) else self.data.encode()


def rows(*lines: str, header: str = "email,password") -> str:
    return "\n".join((header, *lines)) + "\n"


COLUMNS = "CSV must have email and password columns"
CASES = {
    "Bitwarden": Case(
        rows(
            f"Mail,,login,Outlook,,,0,{LINK},ann@outlook.com,{APP},otpauth://totp/a?secret=JBSWY3DPEHPK3PXP",
            header="folder,favorite,type,name,notes,fields,reprompt,login_uri,login_username,login_password,"
            "login_totp",
        ),
        (1, 0, 0),
    ),
    "KeePassXC with a router": Case(
        rows(
            f"Mail,A,ann@outlook.com,{APP},{LINK},",
            "Home,R,admin,pw,,",
            header="Group,Title,Username,Password,URL,TOTP",
        ),
        (1, 0, 1),
        (("admin", "Invalid email address"),),
    ),
    "LastPass with HTML codes": Case(
        rows(
            f"{LINK},ann@outlook.com,Tom&amp;Jerry,,x,Mail,0",
            header="url,username,password,extra,name,grouping,fav",
        ),
        (1, 0, 0),
        warnings=((2, "HTML code"),),
    ),
    "a TOTP column under an unknown name": Case(
        rows("ann@contoso.com,pw,otpauth://totp/x?secret=JBSWY3DPEHPK3PXP", header="email,password,Custom"),
        (1, 0, 0),
        warnings=((1, "Column “Custom” is not used, but seems to hold TOTP secrets"),),
    ),
    "PowerShell type line": Case(
        '#TYPE System.Data.DataRow\r\n"UserPrincipalName";"Password"\r\n"ann@contoso.com";"pw"\r\n',
        (1, 0, 0),
        warnings=((2, "Line 1 was skipped"),),
    ),
    "title with commas": Case(
        "Export, 26 Nov, 2 users\n,,\nemail;password\nann@contoso.com;pw\n",
        (1, 0, 0),
        warnings=((3, "Lines 1 to 2 were skipped"),),
    ),
    "title and no header": Case(
        "Passwords of sales\nann@contoso.com,pw\n",
        refused=COLUMNS,
        because="None of the first lines names both; name the columns in a header line",
    ),
    "no header": Case(
        "ann@outlook.com|Passw0rd1|x\nbob@outlook.com|Passw0rd2|y\n",
        refused=COLUMNS,
        because="no header; add a header line such as email,password",
    ),
    "a header in another language": Case(
        rows("ann@contoso.com,pw", header="E-Mail,Kennwort"),
        refused=COLUMNS,
        because="Line 1 has no password column, only “E-Mail”, “Kennwort”; rename one, or choose it: "
        "--map password=Kennwort",
    ),
    "the same, chosen": Case(
        rows("ann@contoso.com,pw", header="E-Mail,Kennwort"),
        (1, 0, 0),
        options={"map": ["password=Kennwort"]},
    ),
    "two address columns that agree": Case(
        rows("ann@contoso.com,Ann,ann@contoso.com,pw", header="userPrincipalName,displayName,mail,Password"),
        (1, 0, 0),
    ),
    "two address columns that differ": Case(
        rows("ann@contoso.com,pw,me@gmail.com", header="Username,Password,Email"),
        refused="Line 2: columns “Email” and “Username” hold different addresses: remove one of them",
        because="--map email=Username",
    ),
    "the same, settled": Case(
        rows("ann@contoso.com,pw,me@gmail.com", header="Username,Password,Email"),
        (1, 0, 0),
        options={"map": ["email=Username"]},
    ),
    "Google Workspace": Case(
        rows(
            "Ann,Bell,ann@contoso.com,Xyz12345",
            header="First Name [Required],Last Name [Required],Email Address [Required],Password [Required]",
        ),
        (1, 0, 0),
    ),
    "two password columns that differ": Case(
        rows("ann@contoso.com,one,two", header="email,SMTP Password,IMAP Password"),
        refused="Line 2: columns “SMTP Password” and “IMAP Password” hold different passwords: "
        "remove one of them",
    ),
    "two notes columns": Case(rows("ann@contoso.com,pw,,", header="email,password,Notes,Notes"), (1, 0, 0)),
    "300 rows and a totals row": Case(
        rows(*(f"u{at}@contoso.com,pw{at}" for at in range(300)), "Total: 300,", header="Username,Password"),
        (300, 0, 1),
        (("unknown", "Missing email or password"),),
    ),
    "decorated addresses": Case(
        rows(
            "mailto:ann@contoso.com,a",
            "<bob@contoso.com>,b",
            "Cid <cid@contoso.com>,c",
            '"dan@contoso.com;",d',
            "\u200beve@contoso.com,e",
            '"=HYPERLINK(""mailto:fay@x.co"",""fay@x.co"")",f',
            "[gus@x.co](mailto:gus@x.co),g",
        ),
        (7, 0, 0),
        warnings=tuple((line, CLEANED) for line in range(2, 9)),
    ),
    "app passwords with odd spaces": Case(
        rows(
            "a@contoso.com,abcd\u00a0efgh\u00a0ijkl\u00a0mnop",
            f"b@contoso.com,{APP}\u200b",
            "c@contoso.com,\u202aabcd efgh ijkl mnop\u202c",
        ),
        (3, 0, 0),
    ),
    "passwords that may be damaged": Case(
        rows(
            "a@contoso.com,“Secret2”",
            "b@contoso.com,1.23457E+15",
            "c@contoso.com,\ufeffSecret1",
            "d@contoso.com,N/A",
            'e@contoso.com,="00123"',
            "f@contoso.com,'00123",
            "g@contoso.com,abcd-efgh-ijkl-mnop",
        ),
        (7, 0, 0),
        warnings=(
            (2, "typographic quotes"),
            (3, "number"),
            (4, "invisible"),
            (5, "a word"),
            (6, 'inside ="…"'),
            (7, "apostrophe"),
            (8, "hyphens"),
        ),
    ),
    "passwords that are none": Case(
        rows(
            "a@contoso.com,••••••••",
            "b@contoso.com,#NAME?",
            "c@contoso.com,gr\ufffdn1",
            "d@contoso.com,########",
        ),
        (0, 0, 4),
        (
            ("a@contoso.com", "dots or stars"),
            ("b@contoso.com", "error of the spreadsheet"),
            ("c@contoso.com", "characters were lost"),
            ("d@contoso.com", "error of the spreadsheet"),
        ),
    ),
    "trailing empty cells": Case(
        rows("ann@contoso.com;pw;Ann;;;", header="email;password;name;;"), (1, 0, 0)
    ),
    "a space behind each comma": Case(
        rows(
            "ann@contoso.com, pw1, Ann",
            "bob@contoso.com, abcd efgh ijkl mnop, Bob",
            header="email, password, name",
        ),
        (2, 0, 0),
        warnings=((1, "to remove spaces around passwords: --trim"), (2, "begins or ends with a space")),
    ),
    "the same, trimmed": Case(
        rows("ann@contoso.com, pw1, Ann", "bob@contoso.com, pw2, Bob", header="email, password, name"),
        (2, 0, 0),
        options={"trim": ["true"]},
    ),
    "quoted sep line, invisible header, Ctrl-Z": Case(
        '"sep=;"\r\n\u200bemail;password\r\nann@contoso.com;pw1\r\n\x1a', (1, 0, 0)
    ),
    "cut in the middle of a character": Case(
        rows("ann@contoso.com,pw1,J", header="email,password,name").rstrip().encode() + b"\xc3",
        refused="Line 2: the file is not valid UTF-8 text; the file was cut in the middle of a character; "
        "export it again",
    ),
    "UTF-8 and damaged bytes": Case(
        rows("ann@contoso.com,grün").encode() + b"bob@contoso.com,gr\xfcn\n",
        refused="Line 3: the file is not valid UTF-8 text; other lines are UTF-8, so the file is damaged; "
        "export it again",
    ),
    "cp1252": Case(
        rows("ann@contoso.com,grün").encode("cp1252"),
        refused="Line 2: the file is not valid UTF-8 text; save it as “CSV UTF-8”, or specify its encoding "
        "(usually --encoding cp1252 on Western Windows)",
    ),
    "cp1252, named": Case(
        rows("ann@contoso.com,grün").encode("cp1252"), (1, 0, 0), options={"encoding": ["cp1252"]}
    ),
    "UTF-8 named cp1252": Case(
        rows("ann@contoso.com,grün"),
        refused="The file is UTF-8: read as cp1252, its letters would be damaged; leave out the encoding",
        options={"encoding": ["cp1252"]},
    ),
    "damage that was saved": Case(
        rows("ann@contoso.com,grÃ¼n1"), (1, 0, 0), warnings=((2, "wrong encoding"),)
    ),
    "a web page": Case(
        "<html><body><table></table></body></html>",
        refused="CSV file is a web page (HTML); export the table as CSV",
    ),
    "JSON": Case(
        '[{"email":"ann@contoso.com","password":"pw1"}]', refused="CSV file is JSON; export the table as CSV"
    ),
    "an XML spreadsheet": Case(
        '<?xml version="1.0"?>\n<Workbook/>',
        refused="CSV file is an XML spreadsheet; open it in Excel and save it as “CSV UTF-8”",
    ),
    "each row in one pair of quotes": Case(
        'email,password\n"ann@contoso.com,pw1"\n"bob@contoso.com,""p,w2"""\n',
        refused="Every row is in one pair of quotation marks: in Excel, choose Data → Text to Columns, "
        "then save the file as “CSV UTF-8”",
    ),
    "words for nothing": Case(
        rows("a@contoso.com,pw,NULL,none", "b@contoso.com,pw,,-", header="email,password,name,totpsecret"),
        (2, 0, 0),
        warnings=((1, "name (1 row), totpsecret (2 rows)"),),
    ),
    "one address, two passwords": Case(
        rows("ann@contoso.com,old", "ann@contoso.com,new"),
        (1, 1, 0),
        warnings=((3, "appears earlier in the file, with another password"),),
    ),
    "one address twice": Case(rows("ann@contoso.com,pw", "ANN@contoso.com,pw"), (1, 1, 0)),
    "NordPass with a person": Case(
        rows(
            f"Outlook,{LINK},ann@outlook.com,{APP},,",
            "Me,,,,Ann Bell,ann.bell@contoso.com",
            header="name,url,username,password,full_name,email",
        ),
        (1, 0, 1),
        (("ann.bell@contoso.com", "Missing"),),
    ),
    "secrets in notes": Case(
        rows(f"ann@contoso.com,{APP},App password: qrst uvwx", header="email,password,notes"),
        (1, 0, 0),
        warnings=((1, "Column “notes” is not used, but seems to hold passwords"),),
    ),
    "a KeePass database": Case(
        b"\x03\xd9\xa2\x9ag\xfbK\xb5" + bytes(40),
        refused="CSV file is a KeePass database; open it in KeePass and export it as CSV",
    ),
    "a colon between address and password": Case(
        rows("ann@contoso.com:pw1", "bob@contoso.com:pw2", header="email:password"),
        refused=COLUMNS,
        because="The values are not separated by commas, semicolons, tabs or pipes",
    ),
    "Cyrillic": Case(
        rows("ann@contoso.com,пароль").encode("cp1251"),
        refused="Line 2: the file is not valid UTF-8 text; save it as “CSV UTF-8”, or specify its encoding",
    ),
    "values in typographic quotes": Case(
        rows("“ann@contoso.com”,“pw1”"),
        (1, 0, 0),
        warnings=((2, "typographic quotes"),),
    ),
    "a sign-in name": Case(rows("ann@contoso.com,CONTOSO\\ann,pw", header="email,login,password"), (1, 0, 0)),
    "60 errors": Case(
        rows(*(f"u{at}@contoso.com," for at in range(60))), (0, 0, 60), (("u0@contoso.com", "Missing"),)
    ),
    "60 errors without a name": Case(
        rows(*(f",pw{at}" for at in range(60))), (0, 0, 60), (("unknown", "Missing"),)
    ),
    "one warning among 101 rows": Case(
        rows(*(f"u{at}@contoso.com,pw{at}" for at in range(100)), "last@contoso.com,pw "),
        (101, 0, 0),
        warnings=((102, "begins or ends with a space"),),
    ),
    "a special domain": Case(
        rows("ann@contoso.local,pw", "bob@fabrikam.local,pw"),
        (1, 0, 1),
        (("bob@fabrikam.local", "Invalid email address"),),
    ),
    "letters outside ASCII": Case(
        rows("jürgen@contoso.com,pw", "ann@contoso.com,pw"),
        (1, 0, 1),
        (("jürgen@contoso.com", "a letter such as ü before the @"),),
    ),
    "a digit for the @": Case(
        rows("typo0fabrikam.com,pw", "ann@fabrikam.com,pw"), (1, 0, 1), (("typo0fabrikam.com", "Invalid"),)
    ),
    "senders' tool": Case(
        rows(
            "Ann,ann@contoso.com,h,587,ann@contoso.com,pw1,h,993,ann@contoso.com,pw1",
            header="from_name,from_email,smtp_host,smtp_port,smtp_username,smtp_password,imap_host,imap_port,"
            "imap_username,imap_password",
        ),
        (1, 0, 0),
    ),
}


def check(name: str, answer: dict[str, Any]) -> None:
    """Compare an envelope with the right answer of a case."""
    case = CASES[name]
    if case.counts is None:
        error = answer["error"]
        assert error["message"] == case.refused, name
        assert case.because in error.get("details", {}).get("explanation", ""), name
        return
    assert answer["success"], (name, answer)
    data = answer["data"]
    assert (data["imported"], data["skipped"], data["failed"]) == case.counts, name
    assert len(data["errors"]) == min(case.counts[2], 50), name
    for (email, part), error in zip(case.errors, data["errors"], strict=False):
        assert (error["email"], part in error["error"]) == (email, True), (name, error)
    warnings = data.get("warnings", [])
    assert [one["line"] for one in warnings] == [line for line, _ in case.warnings], (name, warnings)
    for (_, part), warning in zip(case.warnings, warnings, strict=True):
        assert part in warning["warning"], (name, warning)


NOWHERE = {"smtp": "127.0.0.1:9", "imap": "127.0.0.1:9"}
SERVERS = {"contoso.local": NOWHERE, "*": NOWHERE}


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("name", CASES)
def test_at_the_command_line(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`check --json` gives the right answer, and its report has the line of every error and warning."""
    case = CASES[name]
    monkeypatch.setenv("OUTLOOK_IMPORT_SERVERS", json.dumps(SERVERS))
    file, report = tmp_path / "mailboxes.csv", tmp_path / "report.csv"
    file.write_bytes(case.content)
    words = [f"--map={choice}" for choice in case.options.get("map", [])]
    words += [f"--encoding={encoding}" for encoding in case.options.get("encoding", [])]
    words += ["--trim"] if "trim" in case.options else []
    code = main(["check", str(file), "--json", "--report", str(report), *words])
    assert code == (1 if case.counts is None else 0)
    check(name, json.loads(capsys.readouterr().out))
    if case.counts is not None:
        lines = report.read_text("utf-8-sig")
        assert all(f"\n{line}," in lines for line, _ in case.warnings)
        assert lines.count(",failed,") == case.counts[2]


def test_over_http(settings: Settings) -> None:
    """An upload of the same file gives the same answer."""
    with api_with(settings, servers=SERVERS) as api, api.client(None) as client:
        for number, (name, case) in enumerate(CASES.items()):
            headers = {"X-Workspace": f"w{number}", "X-Create-Workspace": "true"}
            files = {"file": ("mailboxes.csv", case.content)}
            check(name, client.post(IMPORT, files=files, data=case.options, headers=headers).json())
