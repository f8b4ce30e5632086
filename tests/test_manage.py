"""The commands for mailboxes and imports, as a person at a terminal or a script sees them."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyotp.totp import TOTP
from sqlalchemy import delete, insert, text, update
from sqlmodel import col

import tasks.storage.mailboxes
from flows import manage
from sandbox.outlook import Account
from schemas.csv_file import CsvTable, parse
from schemas.reasons import Reason
from schemas.sealing import Owner, new_key
from schemas.settings import PREFIX, Settings
from schemas.standing import MailboxStatus
from schemas.tables import ImportRow, Mailbox, ProbeResult, now
from tasks.probe import Probing
from tasks.storage.database import Database
from tasks.storage.mailbox_changes import delete_mailboxes
from tasks.storage.mailboxes import Filters, choose_mailboxes
from tests.conftest import StartOutlook, import_file, probe_targets, rows_of, with_servers, write_csv
from tests.support.shell import PROJECT

ANN, BOB, CAT, DAN = "Ann@contoso.com", "bob@contoso.com", "cat_1@mail.example.com", "dan@example.com"
SECRET = "JBSWY3DPEHPK3PXP"
OTHER_SECRET = "otpauth://totp/x?secret=GEZDGNBVGY3TQOJQ&digits=8&period=60&algorithm=SHA256"
ROWS = [
    [ANN, "pw-ann", "Ann \x1b[31mRed", SECRET],
    [BOB, "pw-bob", "", OTHER_SECRET],
    [CAT, "pw-cat", "", ""],
    [DAN, "pw-dan", "", ""],
    ["", "pw-nobody", "", ""],
    ["=cmd@contoso.com", "", "", ""],
]
ACCOUNTS = {
    ANN: Account("pw-ann"),
    BOB: Account("pw-bob", smtp="wrong-credentials"),
    CAT: Account("pw-cat", smtp="throttled-backoff"),
    DAN: Account("pw-dan", "smtp-auth-disabled-mailbox", "basic-auth-disabled"),
}


@dataclass
class Desk:
    """Runs `python -m flows.manage` in this process, with its output in a pipe or on a terminal."""

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    said: str = field(init=False, default="")

    def run(self, *arguments: str | Path, code: int = 0) -> str:
        """Check that the exit code is `code` and return standard output; standard error is in `said`."""
        self.capsys.readouterr()
        assert exit_code(*arguments) == code
        output, self.said = self.capsys.readouterr()
        return output

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code))

    def emails(self, *arguments: str, code: int = 0) -> list[str]:
        return [row["email"] for row in self.json("mailboxes", "list", *arguments, code=code)]

    def on_terminal(self, *arguments: str, typed: str = "", code: int = 0, columns: int = 80) -> str:
        """What a terminal of this width shows, without its colours."""
        near, far = pty.openpty()
        os.write(near, typed.encode())
        with (
            self.monkeypatch.context() as patch,
            os.fdopen(far) as keyboard,
            os.fdopen(os.dup(far), "w", buffering=1) as screen,
        ):
            patch.setenv("COLUMNS", str(columns))
            patch.setenv("TERM", "xterm")
            for name, stream in (("stdin", keyboard), ("stdout", screen), ("stderr", screen)):
                patch.setattr(sys, name, stream)
            assert exit_code(*arguments) == code
        shown = b""
        try:
            while part := os.read(near, 65536):
                shown += part
        except OSError:  # Linux reports this for a terminal that is not open
            pass
        os.close(near)
        return re.sub(r"\x1b\[[\d;]*m", "", shown.decode()).replace("\r\n", "\n")


def exit_code(*arguments: str | Path) -> int:
    try:
        return manage.main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # from argparse
        return int(stopped.code or 0)


@pytest.fixture
def desk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(capsys, monkeypatch)


@pytest.fixture
async def tested(db: Database, either_settings: Settings, start: StartOutlook, tmp_path: Path) -> None:
    """Import 1 with four tested mailboxes and two row errors, and an untested one in another workspace."""
    settings = with_servers(either_settings, await start(ACCOUNTS), guard_after=1000)
    header = ("email", "password", "name", "totpsecret")
    targets = import_file(db, settings, write_csv(tmp_path / "in.csv", ROWS, header), tag="demo").targets
    import_file(db, settings, write_csv(tmp_path / "b.csv", [[ANN, "pw"]]), "other", test=False)
    await probe_targets(Probing(db, settings, [target.mailbox_id for target in targets]), targets)


def change(db: Database, email: str, **values: object) -> None:
    with db.engine.begin() as connection:
        connection.execute(update(Mailbox).where(col(Mailbox.email) == email).values(values))


@pytest.mark.usefixtures("tested")
def test_database_that_fails_ends_a_command_with_a_sentence(desk: Desk, db: Database) -> None:
    """A database error is one line on standard error, without a traceback, and the exit code is 3."""
    with db.engine.begin() as connection:
        connection.execute(text("DROP TABLE probe_result"))
    desk.run("mailboxes", "show", ANN, code=3)
    assert desk.said.startswith("The database failed: ")
    assert "probe_result" in desk.said
    assert desk.said.count("\n") == 1


@pytest.mark.parametrize("number", ["0", "-1", "x", "9" * 30])
def test_number_too_large_for_an_import_is_wrong_usage(desk: Desk, number: str) -> None:
    """A number that is too large for the database is refused before the database is read."""
    for arguments in (("imports", "list", "--limit"), ("mailboxes", "list", "--import"), ("imports", "show")):
        desk.run(*arguments, number, code=2)
        assert re.search("positive integer|into int|Unknown option|requires", desk.said), desk.said


# --- Mailboxes -------------------------------------------------------


@pytest.mark.usefixtures("tested")
def test_filters_choose_mailboxes_and_narrow_each_other_down(desk: Desk) -> None:
    """Each option matches exactly, options combine, and only one workspace is searched."""
    everybody = [ANN, BOB, CAT, DAN]
    cases: dict[tuple[str, ...], list[str]] = {
        (): everybody,
        ("--status", "active"): [ANN],
        ("--status", "failed"): [BOB, DAN],
        ("--status", "pending"): [CAT],
        ("--tag", "demo"): everybody,
        ("--tag", "dem"): [],
        ("--import", "1"): everybody,
        ("--import", "2"): [],  # this is in the other workspace
        ("--reason", "wrong_credentials"): [BOB],
        ("--reason", "throttled"): [CAT],
        ("--reason", "timed_out"): [],
        ("--domain", "CONTOSO.com"): [ANN, BOB],
        ("--domain", "@example.com"): [DAN],
        ("--email", "ANN@"): [ANN],
        ("--email", "cat_"): [CAT],
        ("--email", "n_@"): [],
        ("--email", "%"): [],
        ("--status", "failed", "--domain", "contoso.com"): [BOB],
        ("--workspace", "other"): [ANN],
    }
    for options, expected in cases.items():
        assert desk.emails(*options, code=0 if expected else 1) == expected, options
    assert desk.run("mailboxes", "list", "--workspace", "none", code=1) == ""
    assert desk.said == "There is no workspace 'none'. There is: default, other\n"
    desk.run("mailboxes", "list", "--tag", "unknown", code=1)
    assert desk.said == "No mailbox of workspace 'default' matches these options.\n"


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    "options", [["--status", "well"], ["--reason", "bad"], ["--domain", "x y"], ["--email", " "]]
)
def test_an_invalid_filter_is_wrong_usage(desk: Desk, options: list[str]) -> None:
    """An unknown status or reason, a malformed domain, and an empty search are refused."""
    desk.run("mailboxes", "delete", "--yes", *options, code=2)


@pytest.mark.usefixtures("tested")
def test_a_list_says_how_many_more_there_are(desk: Desk) -> None:
    """A shortened list says how many more there are, on standard error."""
    assert len(desk.json("mailboxes", "list", "--limit", "3")) == 3
    assert desk.said == "… and 1 more: --limit 4 lists them all.\n"
    desk.run("mailboxes", "list", "--limit", "4")
    assert desk.said == ""


@pytest.mark.usefixtures("tested")
def test_a_pipe_gets_whole_lines_and_a_terminal_what_fits(desk: Desk) -> None:
    """In a pipe a mailbox is one line with its whole diagnosis; a terminal of 80 columns gets what fits."""
    (line,) = [line for line in desk.run("mailboxes", "list").splitlines() if line.startswith(BOB)]
    assert line.rstrip().endswith("or use “mailboxes password”.")
    assert re.search(r"bob@contoso\.com +failed +demo +20\d\d-\d\d-\d\d \d\d:\d\d ", line)
    shown = desk.on_terminal("mailboxes", "list")
    assert max(map(len, shown.splitlines())) <= 80
    for email in (ANN, BOB, CAT, DAN):
        assert f"{email} " in shown
    assert "  Wrong password. Create a new app password," in shown


@pytest.mark.usefixtures("tested")
def test_nothing_shown_holds_a_secret_or_steers_the_terminal(desk: Desk) -> None:
    """Lists and records show no password, TOTP secret or sealed bytes, and no control characters."""
    shown = desk.on_terminal("mailboxes", "show", ANN) + desk.on_terminal("mailboxes", "list")
    for form in ((), ("--json",)):
        shown += desk.run("mailboxes", "list", *form) + desk.run("mailboxes", "show", ANN, *form)
        shown += desk.run("imports", "show", "1", *form) + desk.run("imports", "errors", "1", *form)
    assert not [secret for secret in ("pw-", SECRET, '"password"', '"totp"', "x01") if secret in shown]
    assert "\x1b" not in shown
    assert "Ann  [31mRed" in shown


@pytest.mark.usefixtures("tested")
def test_show_has_the_last_answer_of_each_protocol(desk: Desk, db: Database) -> None:
    """A record has title, meaning, remedy and the server's text, and says if a run claims the mailbox."""
    change(db, DAN, claimed_until=now() + timedelta(minutes=1))
    change(db, CAT, claimed_until=now() - timedelta(minutes=1))
    record = desk.json("mailboxes", "show", DAN.upper())
    smtp, imap = record["results"]
    assert (record["status"], smtp["reason"], imap["protocol"]) == (
        *("failed", "smtp_auth_off_mailbox", "imap"),
    )
    assert imap["remedy"] == Reason(imap["reason"]).explanation.remedy
    assert record["claimed_until"]
    assert not desk.json("mailboxes", "show", CAT)["claimed_until"]
    shown = " ".join(desk.on_terminal("mailboxes", "show", DAN).split())
    for words in (imap["title"], imap["meaning"], imap["remedy"], imap["server_text"], "In a test now yes"):
        assert " ".join(words.split()) in shown
    assert "TOTP secret none" in shown
    assert "TOTP secret stored" in " ".join(desk.run("mailboxes", "show", ANN).split())
    desk.run("mailboxes", "show", "eve@contoso.com", code=1)
    assert desk.said == "eve@contoso.com is not in workspace 'default'.\n"


@pytest.mark.usefixtures("tested")
def test_the_last_answer_is_the_latest_one(desk: Desk, db: Database) -> None:
    """After `retest`, which restarts the count of attempts, the newest answer counts as the last one."""
    (bob,) = [row["id"] for row in rows_of(db, Mailbox) if row["email"] == BOB]
    (answer,) = [row for row in rows_of(db, ProbeResult) if row["mailbox_id"] == bob]
    older = answer | {"attempt": 3, "reason": Reason.THROTTLED, "at": now() - timedelta(days=1)}
    with db.engine.begin() as connection:
        connection.execute(insert(ProbeResult), older)
    (last,) = desk.json("mailboxes", "show", BOB)["results"]
    assert (last["attempt"], last["reason"]) == (1, "wrong_credentials")
    assert desk.emails("--reason", "throttled") == [CAT]


@pytest.mark.usefixtures("tested")
def test_delete_by_filter_asks_first(desk: Desk, db: Database) -> None:
    """Without a terminal or --yes nothing is deleted; “no” keeps all, and “yes” deletes what was named."""
    desk.monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert desk.run("mailboxes", "delete", "--status", "failed", code=2) == ""
    assert desk.said.startswith("2 mailboxes of workspace 'default' will be deleted")
    shown = desk.on_terminal("mailboxes", "delete", "--status", "failed", typed="\n", code=1)
    assert "Go on? [y/N]" in shown
    assert "Nothing was changed." in shown
    assert len(desk.emails()) == 4
    shown = desk.on_terminal("mailboxes", "delete", "--status", "failed", typed="y\n")
    assert shown.endswith(f"Deleted: {BOB}\nDeleted: {DAN}\n")
    assert desk.emails() == [ANN, CAT]
    left = {row["id"] for row in rows_of(db, Mailbox)}
    assert {row["mailbox_id"] for row in rows_of(db, ProbeResult)} <= left
    assert desk.emails("--workspace", "other") == [ANN]


@pytest.mark.usefixtures("tested")
def test_addresses_are_changed_without_a_question_and_the_missing_are_named(desk: Desk) -> None:
    """Named mailboxes are deleted at once; a missing one is named and makes the exit code 1."""
    assert desk.run("mailboxes", "delete", ANN.lower(), "eve@contoso.com", code=1) == f"Deleted: {ANN}\n"
    assert "eve@contoso.com" in desk.said
    # Of the named mailboxes, only those that match the filters.
    assert (
        desk.run("mailboxes", "delete", BOB, CAT, "--status", "failed", "--yes", code=1)
        == f"Deleted: {BOB}\n"
    )
    assert desk.emails() == [CAT, DAN]


@pytest.mark.usefixtures("tested")
def test_a_change_needs_mailboxes_filters_or_all(desk: Desk) -> None:
    """A change needs mailboxes, filters or --all; an empty address is not a mailbox."""
    commands = (["tag", "vip"], ["retest", "--later"], ["delete"])
    for command in commands:
        desk.run("mailboxes", *command, "--yes", code=2)
        desk.run("mailboxes", *command, "", "--yes", code=1)
    listed = desk.json("mailboxes", "list", "--tag", "demo")
    assert [row["status"] for row in listed] == ["active", "failed", "pending", "failed"]
    for command in commands:
        assert len(desk.run("mailboxes", *command, "--all", "--yes").splitlines()) == 4
    assert desk.emails("--workspace", "other") == [ANN]


@pytest.mark.usefixtures("tested")
def test_changes_are_made_in_parts(desk: Desk, db: Database) -> None:
    """A change of many mailboxes uses several transactions, and each mailbox is changed and listed once."""
    desk.monkeypatch.setattr(tasks.storage.mailboxes, "AT_ONCE", 3)
    chosen = choose_mailboxes(db, "default", Filters())
    parts = delete_mailboxes(db, chosen, Filters())
    assert next(parts) == [ANN, BOB, CAT]
    assert desk.emails() == [DAN]
    assert desk.run("mailboxes", "delete", DAN, *(f"x{n}@contoso.com" for n in range(7)), code=1) == (
        f"Deleted: {DAN}\n"
    )
    assert list(parts) == [[]]


@pytest.mark.usefixtures("tested")
def test_a_mailbox_that_no_longer_matches_is_not_changed(desk: Desk, db: Database) -> None:
    """A mailbox that became active between question and answer is not deleted as a failed one."""
    failed = Filters(status=MailboxStatus.FAILED)
    chosen = choose_mailboxes(db, "default", failed)
    change(db, BOB, status=MailboxStatus.ACTIVE)
    assert list(delete_mailboxes(db, chosen, failed)) == [[DAN]]
    assert desk.emails() == [ANN, BOB, CAT]


@pytest.mark.usefixtures("tested")
def test_retest_by_reason_withdraws_the_verdicts(desk: Desk) -> None:
    """Mailboxes with a reason become due, and no longer have the reason until they are tested."""
    words = ("mailboxes", "retest", "--reason", "wrong_credentials", "--yes", "--later")
    assert desk.run(*words) == f"Due: {BOB}\n"
    (row,) = desk.json("mailboxes", "list", "--email", "bob")
    assert (row["status"], row["attempts"], row["diagnosis"]) == ("pending", 0, "")
    assert desk.emails("--reason", "wrong_credentials", code=1) == []
    assert "wrong_credentials" not in desk.run("imports", "show", "1")
    assert "due now" in desk.on_terminal("mailboxes", "show", BOB)
    assert "Wrong password" in desk.run("mailboxes", "show", BOB)


@pytest.mark.usefixtures("tested")
def test_tags_are_set_and_taken_away(desk: Desk) -> None:
    """A tag replaces another; --no-tag or an empty one removes it; an invalid one is refused."""
    assert desk.run("mailboxes", "tag", "vip", ANN, BOB) == f"Tagged: {ANN}\nTagged: {BOB}\n"
    assert desk.emails("--tag", "vip") == [ANN, BOB]
    assert desk.run("mailboxes", "tag", "--no-tag", ANN) == f"Untagged: {ANN}\n"
    assert desk.run("mailboxes", "tag", "", "--tag", "vip", "--yes") == f"Untagged: {BOB}\n"
    assert [row["tag"] for row in desk.json("mailboxes", "list")] == [None, None, "demo", "demo"]
    desk.run("mailboxes", "tag", "<b>", CAT, code=2)
    desk.run("mailboxes", "tag", code=2)
    assert desk.emails("--tag", "demo") == [CAT, DAN]


# --- TOTP ------------------------------------------------------------


@pytest.mark.usefixtures("tested")
def test_a_terminal_gets_the_current_code(desk: Desk) -> None:
    """The code is that of the stored secret, with its digits, period and algorithm, and its seconds left."""
    known = {
        ANN: TOTP(SECRET),
        BOB: TOTP("GEZDGNBVGY3TQOJQ", digits=8, interval=60, digest=hashlib.sha256),
    }
    for email, totp in known.items():
        before = now()
        words = desk.on_terminal("totp", email).split()
        after = now()
        assert words[0] in {totp.at(before), totp.at(after)}
        ends = {
            int(at.timestamp()) // totp.interval * totp.interval + totp.interval for at in (before, after)
        }
        moment = int(before.timestamp())
        assert any(moment + int(words[3]) in range(end - 1, end + 5) for end in ends)


@pytest.mark.usefixtures("tested")
def test_a_code_is_shown_on_a_terminal_only(desk: Desk) -> None:
    """A pipe gets exit code 2 and no code; a mailbox that is missing or has no secret gets a message."""
    assert desk.run("totp", ANN, code=2) == ""
    assert "on a terminal only" in desk.said
    assert desk.on_terminal("totp", CAT, code=1) == f"{CAT} has no TOTP secret.\n"
    assert desk.on_terminal("totp", "eve@contoso.com", code=1) == (
        "eve@contoso.com is not in workspace 'default'.\n"
    )
    desk.monkeypatch.setenv(f"{PREFIX}ENCRYPTION_KEYS", new_key())
    assert "no encryption key" in desk.on_terminal("totp", ANN, code=2)


# --- Imports ---------------------------------------------------------


@pytest.mark.usefixtures("tested")
def test_imports_are_listed_with_rows_and_progress(desk: Desk, db: Database, tmp_path: Path) -> None:
    """Imports are listed newest first, with the counts of their rows and of their mailboxes."""
    file = write_csv(tmp_path / "later.csv", [["new@contoso.com", "p"], [ANN, "p"]])
    import_file(db, Settings(), file, test=False)
    newest, first = desk.json("imports", "list")
    assert (newest["file"], newest["tag"], newest["imported"], newest["skipped"]) == ("later.csv", None, 1, 1)
    assert newest["progress"] == {
        "mailboxes": 1,
        "tested": 0,
        "active": 0,
        "partial": 0,
        "failed": 0,
        "pending": 1,
    }
    assert (first["id"], first["failed"], first["tag"]) == (1, 2, "demo")
    assert first["progress"] == {
        "mailboxes": 4,
        "tested": 4,
        "active": 1,
        "partial": 0,
        "failed": 2,
        "pending": 1,
    }
    shown = desk.on_terminal("imports", "list")
    assert max(map(len, shown.splitlines())) <= 80
    assert "6 rows: 4 imported, 0 skipped, 2 failed" in shown
    assert "4 of 4 tested: 1 active, 2 failed, 1 pending" in shown
    assert "in.csv" in desk.run("imports", "list")
    desk.json("imports", "list", "--limit", "1")
    assert desk.said == "… and 1 more: --limit 2 lists them all.\n"
    assert desk.json("imports", "list", "--workspace", "none", code=1) == []


@pytest.mark.usefixtures("tested")
def test_an_import_shows_its_reasons_with_remedies(desk: Desk) -> None:
    """Each reason has its remedy and as many mailboxes as the list filtered by that reason."""
    found = desk.json("imports", "show", "1")
    assert {reason["reason"] for reason in found["reasons"]} >= {"wrong_credentials", "throttled"}
    for reason in found["reasons"]:
        assert len(desk.emails("--import", "1", "--reason", reason["reason"])) == reason["mailboxes"]
    assert found["row_errors"][0]["rows"] == 2
    shown = desk.on_terminal("imports", "show", "1")
    commands = [line for line in shown.splitlines() if "outlook-import" in line]
    assert max(len(line) for line in shown.splitlines() if line not in commands) <= 80
    for reason in found["reasons"]:
        assert reason["reason"] in shown
    piped = desk.run("imports", "show", "1")
    assert all(reason["remedy"] in piped for reason in found["reasons"])
    desk.run("imports", "show", "2", code=1)  # from the other workspace
    assert desk.said == "There is no import 2 in workspace 'default'.\n"
    assert "1 row: 1 imported" in desk.run("imports", "show", "2", "--workspace", "other")


@pytest.mark.usefixtures("tested")
def test_row_errors_are_listed_by_line(desk: Desk, db: Database) -> None:
    """Every failed row is listed, in CSV that is safe to open; for removed row errors the number is shown."""
    lines = [(error["line"], error["error"]) for error in desk.json("imports", "errors", "1")]
    assert lines == [(6, "Missing email or password"), (7, "Missing email or password")]
    table = list(csv.reader(io.StringIO(desk.run("imports", "errors", "1", "--csv"))))
    assert table[0] == ["line", "email", "error", "code"]
    assert [row[:2] for row in table[1:]] == [["6", "unknown"], ["7", "'=cmd@contoso.com"]]
    assert "=cmd@contoso.com" in desk.run("imports", "errors", "1")
    with db.engine.begin() as connection:
        connection.execute(delete(ImportRow))
    assert desk.run("imports", "errors", "1") == ""
    assert desk.said == "2 rows failed; the errors are no longer kept.\n"
    desk.run("imports", "errors", "2", "--workspace", "other")
    assert desk.said == "No row failed.\n"
    desk.run("imports", "errors", "99", code=1)


@pytest.mark.usefixtures("tested")
def test_lists_for_programs_have_reason_codes(desk: Desk) -> None:
    """Mailboxes and imports are listed as CSV or JSON, with the codes of reasons."""
    table = list(csv.DictReader(io.StringIO(desk.run("mailboxes", "list", "--csv"))))
    listed = desk.json("mailboxes", "list")
    assert [row["email"] for row in table] == [row["email"] for row in listed]
    (bob,) = (row for row in table if row["email"] == BOB)
    assert (bob["status"], bob["smtp_reason"]) == ("failed", "wrong_credentials")
    assert next(row for row in listed if row["email"] == BOB)["smtp_reason"] == "wrong_credentials"
    (one,) = csv.DictReader(io.StringIO(desk.run("imports", "list", "--csv")))
    assert (one["id"], one["imported"]) == ("1", "4")
    for area in ("mailboxes", "imports"):
        desk.run(area, "list", "--csv", "--json", code=2)
        assert desk.said == "Choose one of --csv and --json.\n"


def test_nothing_has_three_reasons(desk: Desk, db: Database, settings: Settings, tmp_path: Path) -> None:
    """An empty database, an unknown workspace, and an empty workspace are three different sentences."""
    for area in ("mailboxes", "imports"):
        desk.run(area, "list", code=1)
        assert desk.said.startswith("Nothing is stored yet. To import a file: ")
    import_file(db, settings, write_csv(tmp_path / "first.csv", [("ann@contoso.com", "pw")]), test=False)
    for area in ("mailboxes", "imports"):
        desk.run(area, "list", "--workspace", "Default", code=1)
        assert desk.said == "There is no workspace 'Default'. There is: default\n"
    desk.run("mailboxes", "delete", "--all", "--yes")
    desk.run("mailboxes", "list", "--status", "failed", code=1)
    assert desk.said == "Workspace 'default' is empty.\n"


# --- Reports and the hand-over ---------------------------------------


@pytest.mark.usefixtures("tested")
def test_a_report_of_a_past_import(desk: Desk, tmp_path: Path) -> None:
    """A report can be written at any time in three formats; it overwrites a report and no other file."""
    for name in ("report.csv", "report.xlsx", "report.html"):
        desk.run("imports", "report", "1", "--to", tmp_path / name)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    rows = list(csv.DictReader((tmp_path / "report.csv").read_text("utf-8-sig").splitlines()))
    assert [row["email"] for row in rows] == [ANN, BOB, CAT, DAN, "unknown", "'=cmd@contoso.com"]
    page = (tmp_path / "report.html").read_text()
    assert all(email in page for email in (ANN, BOB, CAT, DAN))
    assert not any(secret in page for secret in ("pw-ann", "pw-bob", SECRET))
    desk.run("imports", "report", "1", "--to", tmp_path / "report.csv")
    desk.run("imports", "report", "1", "--to", tmp_path / "report.html")
    desk.run("imports", "report", "1", "--to", tmp_path / "report.xlsx", code=1)
    mine = tmp_path / "mine.csv"
    mine.write_text("mine")
    desk.run("imports", "report", "1", "--to", mine, code=1)
    assert (mine.read_text(), "overwrites only" in desk.said) == ("mine", True)
    desk.run("imports", "report", "1", "--to", tmp_path / "report.pdf", code=2)
    desk.run("imports", "report", "9", "--to", tmp_path / "nine.csv", code=1)
    assert desk.said == "There is no import 9 in workspace 'default'.\n"


@pytest.mark.usefixtures("tested")
def test_a_hand_over_of_a_past_import(desk: Desk, tmp_path: Path) -> None:
    """The hand-over has a file for each person who has to act, and no secret; it overwrites nothing."""
    out = tmp_path / "out"
    said = desk.run("imports", "handover", "1", "--to", out)
    assert "a new app password from its owner" in said
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"README.txt", "fix-passwords.csv", "fix-rows.csv", "example.com/enable-smtp-auth.ps1"} <= files
    for path in out.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
        if path.is_file():
            text = path.read_text("utf-8-sig")
            assert not any(secret in text for secret in ("pw-ann", "pw-bob", "pw-cat", "pw-dan", SECRET))
    desk.run("imports", "handover", "1", "--to", out, code=2)
    desk.run("imports", "handover", "1", "--zip", tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert set(archive.namelist()) == files
    desk.run("imports", "handover", "1", "--zip", tmp_path / "one.zip", "--domain", "contoso.com")
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert set(archive.namelist()) == {"README.txt", "fix-passwords.csv", "letters/bob@contoso.com.txt"}
    desk.run("imports", "handover", "1", code=2)


# --- A new password --------------------------------------------------


@pytest.mark.usefixtures("tested")
def test_a_new_password_for_one_mailbox(desk: Desk, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password is read from standard input or typed twice, checked like a row, and makes it due."""

    def give(text: str, email: str = BOB, code: int = 0) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{text}\n"))
        return desk.run("mailboxes", "password", email, "--later", code=code)

    said = give("Canary-n3w")
    assert said == f"Replaced: {BOB}.\n"
    (bob,) = (row for row in rows_of(db, Mailbox) if row["email"] == BOB)
    assert db.sealer.open(bob["password"], Owner("default", BOB, "password")) == "Canary-n3w"
    assert (bob["status"], bob["smtp_state"]) == ("pending", "untested")
    give("Canary-n3w", code=1)
    assert "Already stored with this very password" in desk.said
    give("••••••", code=2)
    assert "dots or stars" in desk.said
    give("", code=2)
    give("pw", "nobody@contoso.com", code=1)
    assert "Canary" not in said + desk.said
    typed = iter(["one", "other", "Typed-1", "Typed-1"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("flows.cli.mailboxes.getpass", lambda _prompt: next(typed))
    desk.run("mailboxes", "password", BOB, "--later", code=2)
    assert "Typed-1" not in desk.run("mailboxes", "password", BOB, "--later")


# --- Check ---------------------------------------------------------


def test_check_counts_as_the_import_will(
    desk: Desk, db: Database, settings: Settings, tmp_path: Path
) -> None:
    """`check` counts mailboxes that the workspace has as skipped, as the import does, and stores nothing."""
    import_file(db, settings, write_csv(tmp_path / "first.csv", [("ann@contoso.com", "pw")]), test=False)
    rows = [("ANN@contoso.com", "pw2"), ("bob@contoso.com", "pw"), ("bob@contoso.com", "pw"), ("", "")]
    file = write_csv(tmp_path / "second.csv", [*rows, ("x", "pw")])
    told = desk.json("check", file)
    elsewhere = desk.json("check", file, "--workspace", "other")
    assert len(rows_of(db, Mailbox)) == 1
    stored = import_file(db, settings, file, test=False)
    assert told == stored.summary.envelope()
    assert [told["data"][result] for result in ("imported", "skipped", "failed")] == [1, 2, 1]
    assert elsewhere["data"]["imported"] == 2


@pytest.mark.sqlite
def test_check_without_a_database_it_can_read(desk: Desk, settings: Settings, tmp_path: Path) -> None:
    """`check` creates no database, and says so if it cannot read the one that there is."""
    file = write_csv(tmp_path / "mailboxes.csv", [("ann@contoso.com", "pw")])
    database_file = Path(settings.database_url.get_secret_value().removeprefix("sqlite:///"))
    assert desk.json("check", file)["data"]["imported"] == 1
    assert not database_file.exists()
    database_file.write_bytes(b"no database")
    assert desk.json("check", file)["data"]["imported"] == 1
    assert desk.said == (
        "The database cannot be read: mailboxes that are stored already are counted as imported.\n"
    )


# --- Template --------------------------------------------------------


@pytest.mark.usefixtures("settings")
def test_the_template_can_be_filled_in_and_imported(desk: Desk, tmp_path: Path) -> None:
    """The template is private, begins with the byte order mark for Excel, and has the importer's columns."""
    path = tmp_path / "new.csv"
    desk.run("import-template", path)
    assert path.stat().st_mode & 0o777 == 0o600
    data = path.read_bytes()
    assert data.startswith(codecs.BOM_UTF8)
    table = parse(data + "ann@contoso.com,größe,Ann,x\r\n".encode())
    assert isinstance(table, CsvTable)
    assert table.frame.select("email", "password", "name", "totpsecret").row(0) == (
        *("ann@contoso.com", "größe", "Ann", "x"),
    )
    assert table.ignored == ()


@pytest.mark.usefixtures("settings")
def test_the_template_overwrites_nothing(desk: Desk, tmp_path: Path) -> None:
    """An existing file, a dangling link and a missing folder are refused and left unchanged."""
    path, link = tmp_path / "mine.csv", tmp_path / "link.csv"
    path.write_text("mine")
    link.symlink_to(tmp_path / "nowhere.csv")
    for taken in (path, link, tmp_path / "no folder" / "x.csv", tmp_path):
        assert desk.run("import-template", taken, code=2) == ""
        assert desk.said.count("\n") == 1
    assert path.read_text() == "mine"
    assert not (tmp_path / "nowhere.csv").exists()


@pytest.mark.usefixtures("settings")
def test_a_closed_pipe_is_no_fault() -> None:
    """A reader that closes the pipe early causes no traceback."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "flows.manage", "import-template"]
    done = subprocess.run(command, cwd=PROJECT, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
