"""From a file with many failures to working mailboxes: four commands, and one file to fill in."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.outlook import running
from sandbox.script import Account
from tests.conftest import write_csv
from tests.support.shell import Shell, at, environment, on_sqlite

OFF = {"smtp": "smtp-auth-disabled-tenant", "imap": "basic-auth-disabled"}
NO_PASSWORDS = {"smtp": "basic-auth-disabled", "imap": "basic-auth-disabled"}


def mailboxes() -> Iterator[tuple[str, str, Account]]:
    """400 addresses, their passwords in the file, and what the servers make of them."""
    for n in range(190):
        yield f"good{n}@contoso.com", f"right{n}", Account(f"right{n}")
    for n in range(90):
        domain = "contoso.com" if n < 65 else "fabrikam.com"
        yield f"off{n}@{domain}", f"right{n}", Account(f"right{n}", **OFF)
    for n in range(60):
        yield f"person{n}@outlook.com", f"right{n}", Account(f"right{n}", **NO_PASSWORDS)
    for n in range(60):
        yield f"wrong{n}@contoso.com", f"old{n}", Account(f"new{n}")


@pytest.mark.slow
def test_from_a_file_with_many_failures_to_working_mailboxes(tmp_path: Path) -> None:
    """After import, hand-over, report and update, every mailbox that a password can open is active."""
    rows = [(email, password) for email, password, _ in mailboxes()]
    accounts = {email: account for email, _, account in mailboxes()}
    file = write_csv(tmp_path / "mailboxes.csv", rows)
    with running(accounts, folder=tmp_path) as outlook:
        shell = Shell(tmp_path, environment(**on_sqlite(tmp_path), **at(outlook)))
        told = shell.run("import", file, module="flows.cli")
        next_steps = shell.last.stderr
        assert "400 rows" in told
        assert "190 active" in told
        act = next(line for line in told.splitlines() if "need" in line and "admin" in line)
        for part in ("90 need", "contoso.com 65", "fabrikam.com 25", "60 "):
            assert part in act
        for action in ("imports handover 1", "imports report 1"):  # what comes next is named
            assert action in next_steps

        shell.run("imports", "handover", "1", "--to", tmp_path / "handover", module="flows.cli")
        shell.run("imports", "report", "1", "--to", tmp_path / "report.html", module="flows.cli")
        assert "190" in (tmp_path / "report.html").read_text("utf-8")
        assert {path.name for path in (tmp_path / "handover").iterdir()} >= {
            *("contoso.com", "fabrikam.com", "fix-passwords.csv", "letters", "personal.csv"),
        }
        fixed = fill_in(tmp_path / "handover" / "fix-passwords.csv", accounts)
        assert fixed == 60

        told = shell.run(
            "import", tmp_path / "handover" / "fix-passwords.csv", "--update", module="flows.cli"
        )
        assert re.search(r"60 active", told)
    found = shell.rows("SELECT status, count(*) FROM mailbox GROUP BY status ORDER BY status")
    assert found == [("active", 250), ("failed", 150)]


def fill_in(path: Path, accounts: dict[str, Account]) -> int:
    """Write the right passwords into the file, as a spreadsheet would; return how many."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["password"] = accounts[row["email"]].password or ""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)
