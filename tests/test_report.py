"""The CSV report: one line per row, safe to open, private, complete or absent, and without secrets."""

from __future__ import annotations

import csv
import stat
from pathlib import Path

import pytest

from sandbox.outlook import Account
from schemas.outcomes import Document, Outcome
from schemas.report_csv import COLUMNS
from schemas.row_reasons import RowError, RowReason, SkipReason
from schemas.settings import Settings
from tasks.files.report_file import write_report_file
from tasks.probe import Probing
from tasks.report import write_report
from tasks.storage.database import database
from tests.conftest import StartOutlook, import_file, probe_targets, with_servers, write_csv
from tests.support.outcomes import document


def rows_of_report(*emails: str, errors: tuple[RowError, ...] = ()) -> tuple[Document, list[Outcome]]:
    """Imported rows that wait for their test, then failed ones."""
    imported = [Outcome(n, email, None, "imported", status="pending") for n, email in enumerate(emails, 2)]
    failed = [Outcome(e.line, e.email, None, "failed", e.reason, e.message, e.reason.remedy) for e in errors]
    return document([*imported, *failed]), [*imported, *failed]


def written(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        assert tuple(reader.fieldnames or ()) == COLUMNS
        return list(reader)


async def test_a_line_for_each_row(settings: Settings, start: StartOutlook, tmp_path: Path) -> None:
    """Every row of the file has its line, in order, with its result, its reason and its mailbox's verdict."""
    words = '535 5.7.139 "no", really'
    outlook = await start({"anna@outlook.com": Account("pw", smtp=words)})
    settings = with_servers(settings, outlook)
    rows = [("anna@outlook.com", "pw"), ("old@outlook.com", "pw"), ("anna@outlook.com", "pw"), ("", "pw")]
    with database(settings) as db:
        import_file(db, settings, write_csv(tmp_path / "old.csv", [("old@outlook.com", "pw")]), test=False)
        file = write_csv(tmp_path / "mailboxes.csv", [*rows, ("bert@outlook.com", "it’s N/A")])
        stored = import_file(db, settings, file)
        probing = Probing(db, settings, [target.mailbox_id for target in stored.targets])
        await probe_targets(probing, stored.targets[:1])
        write_report.fn(tmp_path / "report.csv", db, stored.summary)
    found = written(tmp_path / "report.csv")
    assert [(row["line"], row["email"], row["result"], row["status"]) for row in found] == [
        ("2", "anna@outlook.com", "imported", "partial"),
        ("3", "old@outlook.com", "skipped", ""),
        ("4", "anna@outlook.com", "skipped", ""),
        ("5", "unknown", "failed", ""),
        ("6", "bert@outlook.com", "imported", "pending"),
    ]
    assert found[0]["smtp"].endswith(f": {words}")
    assert found[1]["reason"] == SkipReason.ALREADY_STORED.message
    assert found[3]["reason"] == "Missing email or password"
    assert (found[3]["code"], found[3]["remedy"]) == ("missing", "fill in both cells")
    assert "typographic quotes" in found[4]["reason"]


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n"])
def test_no_cell_is_a_formula(tmp_path: Path, first: str) -> None:
    """A cell that a spreadsheet would run as a formula starts with an apostrophe, and stays readable."""
    email = f"{first}cmd|'/c calc'!A1@outlook.com"
    errors = (RowError(92, email, RowReason.INVALID_EMAIL),)
    write_report_file(tmp_path / "report.csv", *rows_of_report(errors=errors))
    shown = written(tmp_path / "report.csv")[-1]["email"]
    assert shown == (email.strip() if first.isspace() else f"'{email}")


def test_excel_reads_it_as_utf8(tmp_path: Path) -> None:
    """The file starts with the byte order mark that makes Excel read UTF-8."""
    write_report_file(tmp_path / "report.csv", *rows_of_report("größe@outlook.com"))
    data = (tmp_path / "report.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbfline,email,")
    assert "größe".encode() in data


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    """The report is private, even if it replaces one that was not."""
    path = tmp_path / "report.csv"
    path.write_text("old")
    path.chmod(0o644)
    write_report_file(path, *rows_of_report("anna@outlook.com"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert written(path)[0]["email"] == "anna@outlook.com"
    assert [each.name for each in tmp_path.iterdir()] == ["report.csv"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A report in a missing folder raises an error."""
    with pytest.raises(FileNotFoundError):
        write_report_file(tmp_path / "missing" / "report.csv", *rows_of_report("anna@outlook.com"))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken(tmp_path: Path) -> None:
    """A report that cannot be moved into place leaves no temporary file, and the old content is unchanged."""
    path = tmp_path / "report.csv"
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(OSError, match=r"report\.csv"):
        write_report_file(path, *rows_of_report("anna@outlook.com"))
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
        write_report.fn(tmp_path / "report.csv", db, stored.summary)
    text = (tmp_path / "report.csv").read_text()
    assert "wrong: anna@outlook.com / …" in text
    assert "JBSWY3DPEHPK3PXP" not in text
    assert "hunter2" not in text.replace(",unknown,", "")
