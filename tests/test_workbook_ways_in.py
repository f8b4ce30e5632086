"""A workbook at every way in: command line, flow's tasks, HTTP API and watched folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from schemas.row_reasons import RowError, RowReason
from schemas.settings import Settings
from schemas.tables import Mailbox
from tasks.files.inbox import Folders
from tasks.storage.database import Database
from tests.conftest import import_file, rows_of
from tests.support.shell import Shell
from tests.support.workbooks import workbook_of
from tests.test_api import api_with, data_of, send
from tests.test_watch_inbox import watched as watched

ROWS: list[list[object]] = [
    ["Phone", "email", "password"],
    ["1", "ann@contoso.com", "00123"],
    ["2", "bob@contoso.com", 123],
    ["3", "", "pw"],
]
ERRORS = [
    {"email": "bob@contoso.com", "error": RowReason.NOT_TEXT.message},
    {"email": "unknown", "error": RowReason.MISSING.message},
]


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    """A workbook under the name of a CSV."""
    file = tmp_path / "mailboxes.csv"
    file.write_bytes(workbook_of(ROWS))
    return file


def test_check(offline: Shell, workbook: Path) -> None:
    """`check` shows the counts, the row of each failure and the columns that are not used."""
    data = json.loads(offline.run("check", workbook, "--json", module="flows.cli"))["data"]
    assert (data["imported"], data["failed"], data["errors"]) == (1, 2, ERRORS)
    shown = offline.run("check", workbook, module="flows.cli")
    assert f"line 3: bob@contoso.com: {RowReason.NOT_TEXT.message}" in " ".join(shown.split())
    assert "Columns not used: Phone" in shown


def test_tasks(db: Database, either_settings: Settings, workbook: Path) -> None:
    """The tasks of the flow store the mailboxes of a workbook."""
    stored = import_file(db, either_settings, workbook, test=False)
    assert stored.summary.envelope()["data"]["errors"] == ERRORS
    assert [row["email"] for row in rows_of(db, Mailbox)] == ["ann@contoso.com"]


def test_over_http(settings: Settings) -> None:
    """An uploaded workbook is imported like a CSV."""
    with api_with(settings) as api, api.client() as client:
        data = data_of(send(client, workbook_of(ROWS)))
        assert (data["imported"], data["failed"], data["errors"]) == (1, 2, ERRORS)


@pytest.mark.slow
def test_watched_folder(watched: Shell) -> None:
    """The failed rows of a dropped workbook become a CSV, which is imported once it is fixed."""
    folders = Folders(watched.folder)
    (folders.inbox / "mailboxes.xlsx").write_bytes(workbook_of(ROWS))
    assert watched.scan() == "1 imported"
    (failed,) = folders.failed.iterdir()
    assert failed.name.startswith("mailboxes.")
    assert failed.suffix == ".csv"
    with failed.open(newline="", encoding="utf-8-sig") as file:
        assert list(csv.reader(file)) == [
            ["error", "Phone", "email", "password"],
            [str(RowError(3, "bob@contoso.com", RowReason.NOT_TEXT)), "2", "bob@contoso.com", ""],
            [str(RowError(4, "unknown", RowReason.MISSING)), "3", "", "pw"],
        ]
    fixed = failed.read_bytes().replace(b"bob@contoso.com,", b"bob@contoso.com,0123")
    failed.unlink()
    (folders.inbox / "fixed.csv").write_bytes(fixed)
    assert watched.scan() == "1 imported"
    assert watched.open_password("bob@contoso.com") == "0123"


def test_refused_workbook(watched: Shell) -> None:
    """A refused workbook keeps its ending, so that it still opens in Excel."""
    folders = Folders(watched.folder)
    (folders.inbox / "mailboxes.XLSX").write_bytes(workbook_of([["name"], ["Ann"]]))
    assert watched.scan() == "1 rejected"
    assert sorted(path.name.rpartition(".")[2] for path in folders.rejected.iterdir()) == ["txt", "xlsx"]
