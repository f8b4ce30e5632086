"""The CSV report: one line per row, safe to open, private, complete or absent, and without secrets."""

from __future__ import annotations

import csv
import stat
from pathlib import Path

import pytest

from sandbox.outlook import Account
from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason, Stage
from schemas.rows import Duplicate, RowError, RowReason, SkipReason
from schemas.settings import Settings
from schemas.summary import Summary
from schemas.verdicts import Answer, ProbeReport, decide_verdict
from tasks.files.report_file import REPORT_COLUMNS
from tasks.probe import Probing
from tasks.report import write_report
from tasks.storage.database import database
from tests.conftest import StartOutlook, import_file, probe_targets, with_servers, write_csv
from tests.support.rows import summary_of

MAIL = Endpoint("mail", 1)


def summary(*imported: str, errors: tuple[RowError, ...] = ()) -> Summary:
    new = [(line, email, "") for line, email in enumerate(imported, start=2)]
    old, twice = [(90, "old@outlook.com")], [Duplicate(91, "twice@outlook.com")]
    return summary_of("mailboxes.csv", "default", None, new, old, twice, errors, import_id=1)


def answer(protocol: Protocol, reason: Reason, text: str = "") -> Answer:
    return Answer(protocol, MAIL, reason, Stage.LOGIN, text, 1)


def report_of(*verdicts: tuple[str, str]) -> ProbeReport:
    """Failed mailboxes: address and SMTP's reply."""
    return ProbeReport(
        tuple(
            decide_verdict(1, email, 1, 5, (answer(Protocol.SMTP, Reason.WRONG_CREDENTIALS, text),))
            for email, text in verdicts
        ),
        0,
    )


def written(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        assert tuple(reader.fieldnames or ()) == REPORT_COLUMNS
        return list(reader)


def test_a_line_for_each_row(tmp_path: Path) -> None:
    """Every row of the file has its line, in order, with its result, its reason and its mailbox's verdict."""
    errors = (RowError(92, "unknown", RowReason.MISSING),)
    words = '535 5.7.139 "no", really'
    path = tmp_path / "report.csv"
    write_report.fn(
        path,
        summary("anna@outlook.com", "bert@outlook.com", errors=errors),
        report_of(("anna@outlook.com", words)),
    )
    rows = written(path)
    assert [(row["line"], row["email"], row["result"], row["status"]) for row in rows] == [
        ("2", "anna@outlook.com", "imported", "failed"),
        ("3", "bert@outlook.com", "imported", "pending"),
        ("90", "old@outlook.com", "skipped", ""),
        ("91", "twice@outlook.com", "skipped", ""),
        ("92", "unknown", "failed", ""),
    ]
    assert rows[0]["smtp"] == f"Wrong password: {words}"
    assert rows[0]["imap"] == "not tried"
    assert rows[0]["diagnosis"].startswith("Wrong password. ")
    assert rows[2]["reason"] == SkipReason.ALREADY_STORED.message
    assert rows[4]["reason"] == "Missing email or password"


def test_a_report_without_tests(tmp_path: Path) -> None:
    """If no mailbox was tested, imported ones are pending and their connection columns are empty."""
    write_report.fn(tmp_path / "report.csv", summary("anna@outlook.com"), None)
    assert written(tmp_path / "report.csv")[0] | {"reason": ""} == {
        "line": "2",
        "email": "anna@outlook.com",
        "result": "imported",
        "reason": "",
        "status": "pending",
        "diagnosis": "",
        "smtp": "",
        "imap": "",
    }


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n"])
def test_no_cell_is_a_formula(tmp_path: Path, first: str) -> None:
    """A cell that a spreadsheet would run as a formula starts with an apostrophe, and stays readable."""
    email = f"{first}cmd|'/c calc'!A1@outlook.com"
    errors = (RowError(92, email, RowReason.INVALID_EMAIL),)
    write_report.fn(tmp_path / "report.csv", summary(errors=errors), None)
    assert written(tmp_path / "report.csv")[-1]["email"] == f"'{email}"


def test_excel_reads_it_as_utf8(tmp_path: Path) -> None:
    """The file starts with the byte order mark that makes Excel read UTF-8."""
    write_report.fn(tmp_path / "report.csv", summary("größe@outlook.com"), None)
    data = (tmp_path / "report.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbfline,email,")
    assert "größe".encode() in data


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    """The report is private, even if it replaces one that was not."""
    path = tmp_path / "report.csv"
    path.write_text("old")
    path.chmod(0o644)
    write_report.fn(path, summary("anna@outlook.com"), None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert written(path)[0]["email"] == "anna@outlook.com"
    assert [each.name for each in tmp_path.iterdir()] == ["report.csv"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A report in a missing folder raises an error."""
    with pytest.raises(FileNotFoundError):
        write_report.fn(tmp_path / "missing" / "report.csv", summary("anna@outlook.com"), None)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken(tmp_path: Path) -> None:
    """A report that cannot be moved into place leaves no temporary file, and the old content is unchanged."""
    path = tmp_path / "report.csv"
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(OSError, match=r"report\.csv"):
        write_report.fn(path, summary("anna@outlook.com"), None)
    assert [each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*")] == [
        "report.csv",
        "report.csv/inside",
    ]


async def test_no_secret_is_in_it(settings: Settings, start: StartOutlook, tmp_path: Path) -> None:
    """A report on real verdicts contains no password or TOTP secret, even if a server repeats one."""
    echo = "535 5.7.8 wrong: anna@outlook.com / hunter2hunter2"
    outlook = await start({"anna@outlook.com": Account("hunter2hunter2", smtp=echo)})
    settings = with_servers(settings, outlook)
    rows = [("anna@outlook.com", "hunter2hunter2", "JBSWY3DPEHPK3PXP"), ("hunter2hunter2", "pw", "")]
    file = write_csv(tmp_path / "mailboxes.csv", rows, ("email", "password", "totp"))
    with database(settings) as db:
        stored = import_file(db, settings, file)
        probing = Probing(db, settings, [target.mailbox_id for target in stored.targets])
        await probe_targets(probing, stored.targets)
    write_report.fn(tmp_path / "report.csv", stored.summary, probing.report())
    text = (tmp_path / "report.csv").read_text()
    assert "wrong: anna@outlook.com / …" in text
    assert "JBSWY3DPEHPK3PXP" not in text
    assert "hunter2" not in text.replace(",unknown,", "")
