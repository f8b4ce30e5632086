"""The retest finishes what a killed or stopped run left, and never tests a mailbox twice at once."""

from __future__ import annotations

import pytest

from sandbox.outlook import running
from sandbox.script import Account
from tests.conftest import write_csv
from tests.support.shell import LIMIT_SECONDS, Shell, at

MAILBOXES = 200


def let_time_pass(shell: Shell) -> None:
    """Make every claim expire, and every pending mailbox with a next attempt due."""
    shell.change("UPDATE mailbox SET claimed_until = '2020-01-01' WHERE claimed_until IS NOT NULL")
    shell.change("UPDATE mailbox SET next_attempt_at = '2020-01-01' WHERE next_attempt_at IS NOT NULL")


def statuses(shell: Shell) -> dict[object, object]:
    return dict(shell.rows("SELECT status, count(*) FROM mailbox GROUP BY status"))  # type: ignore[arg-type]


@pytest.mark.slow
def test_killed_run_is_finished_by_retests_without_double_logins(shell: Shell) -> None:
    """After kill -9 amid 200 mailboxes, two retests at once give all a verdict, one login at a time."""
    rows = [[f"user{n}@contoso.com", f"p{n}"] for n in range(MAILBOXES)]
    accounts = {email: Account(password) for email, password in rows}
    with running(accounts, folder=shell.folder, delay=0.05) as outlook:
        shell.environment |= at(outlook)
        with shell.start(write_csv(shell.folder / "in.csv", rows)) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            while not line.startswith("60/"):
                assert line
                line = process.stderr.readline()
            process.kill()
            process.communicate()
        left = statuses(shell)
        assert 60 <= int(str(left["active"])) < MAILBOXES

        let_time_pass(shell)
        retests = [shell.start(module="flows.retest_pending") for _ in range(2)]
        for retest in retests:
            with retest:
                _, errors = retest.communicate(timeout=LIMIT_SECONDS)
                assert retest.returncode == 0, errors
        assert statuses(shell) == {"active": MAILBOXES}
        assert set(outlook.seen.mailbox_logins_at_once.values()) == {1}
        # The killed run's own logins were repeated at most once, and those with a verdict not at all.
        assert max(outlook.seen.logins.values()) <= 2
    assert shell.rows("SELECT count(*) FROM mailbox WHERE claimed_until IS NOT NULL") == [(0,)]


@pytest.mark.slow
def test_retest_during_an_import_finds_nothing_due(shell: Shell) -> None:
    """A retest during an import finds nothing due, and each mailbox gets one login."""
    rows = [[f"user{n}@contoso.com", f"p{n}"] for n in range(100)]
    with running({e: Account(p) for e, p in rows}, folder=shell.folder, delay=0.1) as outlook:
        shell.environment |= at(outlook)
        with shell.start(write_csv(shell.folder / "in.csv", rows)) as process:
            assert process.stderr is not None
            while not process.stderr.readline().startswith("1/"):
                pass
            assert "no mailbox to test" in shell.run(module="flows.retest_pending")
            output, _ = process.communicate(timeout=LIMIT_SECONDS)
        assert "100 active" in output
        assert set(outlook.seen.logins.values()) == {1}


@pytest.mark.slow
def test_retest_skips_untested_imports_by_default(shell: Shell) -> None:
    """A retest skips mailboxes imported with --no-test, unless it has --held."""
    with running({"ann@contoso.com": Account("p")}, folder=shell.folder) as outlook:
        shell.environment |= at(outlook)
        shell.run(write_csv(shell.folder / "in.csv", [["ann@contoso.com", "p"]]), "--no-test")
        assert "no mailbox to test" in shell.run(module="flows.retest_pending")
        assert "1 active" in shell.run("--held", module="flows.retest_pending")


@pytest.mark.slow
def test_guard_holds_the_rest_back_from_later_retests(shell: Shell) -> None:
    """Once the lockout guard has tripped, neither the run nor a later retest tries another password."""
    rows = [[f"user{n}@contoso.com", "wrong"] for n in range(60)]
    with running({email: Account("right") for email, _ in rows}, folder=shell.folder) as outlook:
        shell.environment |= at(outlook) | {
            "OUTLOOK_IMPORT_PROBE_CONCURRENCY": "5",
            "OUTLOOK_IMPORT_PROBE_GROUP_SIZE": "5",
        }
        output = shell.run(write_csv(shell.folder / "in.csv", rows))
        assert "Stopped by the lockout guard" in output
        tried = outlook.seen.passwords_received
        assert 20 <= tried < 30
        let_time_pass(shell)
        shell.run(module="flows.retest_pending")
        assert outlook.seen.passwords_received == tried
    held = shell.rows("SELECT count(*) FROM mailbox WHERE diagnosis LIKE 'Held back%' AND status = 'pending'")
    assert held == [(60 - tried,)]


@pytest.mark.slow
def test_failed_mailbox_is_tested_again_on_request(shell: Shell) -> None:
    """A failed mailbox stays failed until `mailboxes retest` tests it again."""
    folder = shell.folder
    file = write_csv(folder / "in.csv", [["ann@contoso.com", "p"]])
    with running(
        {"ann@contoso.com": Account("p", "smtp-auth-disabled-tenant", "basic-auth-disabled")}, folder=folder
    ) as outlook:
        shell.environment |= at(outlook)
        assert "1 failed" in shell.run(file)
    with running({"ann@contoso.com": Account("p")}, folder=folder) as outlook:
        # The administrator has fixed it; the mailbox keeps the address of its servers.
        ports = {"smtp": outlook.smtp_port, "imap": outlook.imap_port}
        shell.change("UPDATE mailbox SET smtp_port = :smtp, imap_port = :imap", **ports)
        shell.environment |= at(outlook)
        assert "no mailbox to test" in shell.run(module="flows.retest_pending")
        assert "1 active" in shell.run("mailboxes", "retest", "Ann@contoso.com", module="flows.manage")
