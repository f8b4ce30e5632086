"""The command line, as its users run it: a separate process, a real server, a real sandbox."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest

from flows.cli.app import main
from sandbox.outlook import running
from sandbox.script import Account
from tests.conftest import write_csv
from tests.support.shell import LIMIT_SECONDS, PROJECT, SAMPLES, Shell, at, environment, on_sqlite

ODD_PASSWORD = ' 0"quo""ted", back\\slash, größe ñ€ '


def test_sample_gives_the_contracts_example_and_nothing_new_the_second_time(shell: Shell) -> None:
    """The sample file gives exactly the contract's envelope, and a second run skips every mailbox."""
    errors = [{"email": "unknown", "error": "Missing email or password"}]
    first = shell.run(SAMPLES / "mailboxes.csv", "--json", "--no-test")
    assert json.loads(first) == {
        "success": True,
        "data": {"imported": 20, "skipped": 2, "failed": 1, "errors": errors},
    }
    second = json.loads(shell.run(SAMPLES / "mailboxes.csv", "--json", "--no-test"))
    assert second["data"] == {"imported": 0, "skipped": 22, "failed": 1, "errors": errors}


@pytest.mark.parametrize("name", ["mailboxes-excel-semicolon.csv", "mailboxes-excel-unicode.csv"])
def test_samples_saved_by_excel_give_the_same_counts(offline: Shell, name: str) -> None:
    """The sample as Excel saves it gives the same counts as the plain file."""
    data = json.loads(offline.run(SAMPLES / name, "--check", "--json"))["data"]
    assert (data["imported"], data["skipped"], data["failed"]) == (20, 2, 1)


def refused_files(folder: Path) -> Iterator[tuple[str, Path | None]]:
    yield "CSV file is required", None
    yield "CSV file is required", folder / "missing.csv"
    for message, content in (
        ("CSV file is empty", b""),
        ("CSV file is empty", b"email,password\n"),
        ("CSV must have email and password columns", b"name,phone\nAnn,1\n"),
        (
            "Maximum 500 mailboxes per import",
            b"email,password\n" + b"".join(b"u%d@b.co,p\n" % n for n in range(501)),
        ),
        (
            "Two columns are named “Email”: rename or remove one of them",
            b"email,Email,password\na@b.co,a@b.co,p\n",
        ),
    ):
        path = folder / f"{abs(hash((message, content)))}.csv"
        path.write_bytes(content)
        yield message, path


def test_each_refusal_says_its_message_and_changes_nothing(offline: Shell) -> None:
    """A refused file gives its message and exit code 1, contacts no server and creates no database."""
    for message, path in refused_files(offline.folder):
        arguments = [path] if path else []
        envelope = {"success": False, "error": {"code": "VALIDATION_ERROR", "message": message}}
        answer = json.loads(offline.run(*arguments, "--json", code=1))
        answer["error"].pop("details", None)
        assert answer == envelope
        assert offline.is_untouched()
    offline.run(offline.folder / "missing.csv", code=1)
    assert "Refused: CSV file is required\nThere is no file with this name." in offline.last.stderr


@pytest.mark.slow
def test_refusal_leaves_a_filled_database_as_it_is(shell: Shell) -> None:
    """A refused file leaves the stored mailboxes unchanged, byte for byte."""
    shell.run(SAMPLES / "mailboxes.csv", "--no-test")
    tables = "SELECT mailbox.*, import.* FROM mailbox JOIN import ON true ORDER BY mailbox.id"
    before = shell.rows(tables)
    for _, path in refused_files(shell.folder):
        shell.run(*([path] if path else []), code=1)
    assert shell.rows(tables) == before


@pytest.mark.slow
def test_prefect_server_that_does_not_answer_is_not_a_refusal(offline: Shell) -> None:
    """If Prefect's server is down, an import ends with exit code 3 and a message, and stores nothing."""
    output = offline.run(SAMPLES / "mailboxes.csv", "--json", code=3)
    assert json.loads(output)["error"]["code"] == "INTERNAL_ERROR"
    assert "Prefect failed with RuntimeError" in offline.last.stderr
    assert "Traceback" not in offline.last.stderr
    offline.run(module="flows.retest_pending", code=3)
    assert offline.is_untouched()


@pytest.mark.sqlite
def test_check_imports_neither_prefect_nor_sqlalchemy(offline: Shell) -> None:
    """Without a database `--check` imports neither Prefect nor the database modules, and creates no file."""
    program = (
        "import sys; from flows.cli.app import main; "
        f"code = main(['import', {str(SAMPLES / 'mailboxes.csv')!r}, '--check']); "
        "print({name.partition('.')[0] for name in sys.modules} & {'prefect', 'sqlalchemy', 'alembic'}, code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env=offline.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("set() 0\n"), done.stdout
    assert list(offline.folder.iterdir()) == []


@pytest.mark.slow
def test_500_mailboxes_with_300_duplicates_are_imported(shell: Shell) -> None:
    """The limit of 500 counts mailboxes, not rows."""
    rows = [[f"user{n % 500}@contoso.com", f"password {n}"] for n in range(800)]
    data = json.loads(shell.run(write_csv(shell.folder / "many.csv", rows), "--json", "--no-test"))["data"]
    assert (data["imported"], data["skipped"], data["failed"]) == (500, 300, 0)
    assert shell.open_password("user7@contoso.com") == "password 7"


@pytest.mark.slow
def test_odd_password_comes_out_as_it_went_in_and_logs_in(shell: Shell) -> None:
    """Passwords with quotes, commas, backslashes, non-ASCII letters or edge spaces log in unchanged."""
    email = "odd@contoso.com"
    file = write_csv(shell.folder / "odd.csv", [[email, ODD_PASSWORD]])
    with running({email: Account(ODD_PASSWORD)}, folder=shell.folder) as outlook:
        shell.environment |= at(outlook)
        output = shell.run(file)
        assert outlook.seen.passwords == {
            ("smtp", email): ODD_PASSWORD.encode(),
            ("imap", email): ODD_PASSWORD.encode(),
        }
    assert "1 active" in output
    assert shell.open_password(email) == ODD_PASSWORD
    assert "1 Password begins or ends with a space" in re.sub(r"[\s│]+", " ", output)


@pytest.mark.slow
def test_report_has_a_line_per_row_with_the_verdict(shell: Shell) -> None:
    """`--report` writes the result of each row and the reply of each protocol."""
    report = shell.folder / "report.csv"
    rows = [["good@contoso.com", "right"], ["bad@contoso.com", "wrong"], ["", "x"], ["GOOD@contoso.com", "y"]]
    with running(
        {"good@contoso.com": Account("right"), "bad@contoso.com": Account("other")}, folder=shell.folder
    ) as outlook:
        shell.environment |= at(outlook)
        shell.run(write_csv(shell.folder / "in.csv", rows), "--report", report)
    with report.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file))
    assert [(line["line"], line["email"], line["result"], line["status"]) for line in lines] == [
        ("2", "good@contoso.com", "imported", "active"),
        ("3", "bad@contoso.com", "imported", "failed"),
        ("4", "unknown", "failed", ""),
        ("5", "GOOD@contoso.com", "skipped", ""),
    ]
    assert "the user credentials were incorrect" in lines[1]["smtp"]
    assert lines[1]["imap"] == "not tried"


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_stored_and_leaves_the_rest_pending(shell: Shell) -> None:
    """Ctrl-C ends the run with 130 and a message; verdicts stay, and the rest is pending and unclaimed."""
    rows = [[f"user{n}@contoso.com", "p"] for n in range(12)]
    accounts = {email: Account("p", smtp="ok" if n < 4 else "hang:auth") for n, (email, _) in enumerate(rows)}
    with running(accounts, folder=shell.folder) as outlook:
        shell.environment |= at(outlook)
        with shell.start(write_csv(shell.folder / "in.csv", rows)) as process:
            assert process.stderr is not None
            seen = [process.stderr.readline()]
            while "4/12" not in seen[-1]:
                seen.append(process.stderr.readline())
                assert seen[-1], "".join(seen)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 130, errors
    assert "Stopped by you" in output
    assert "4 active" in output
    assert "8 not tested" in output
    counts = shell.rows("SELECT status, count(*), count(claimed_until) FROM mailbox GROUP BY status")
    assert counts == [("active", 4, 0), ("pending", 8, 0)]


def test_flow_run_is_found_by_name_tags_and_artifacts(shell: Shell, prefect_server: str) -> None:
    """The Prefect server has the run with its state message, tags, groups and artifacts."""
    email = "one@contoso.com"
    with running({email: Account("p", imap="login-failed")}, folder=shell.folder) as outlook:
        shell.environment |= at(outlook)
        shell.run(
            write_csv(shell.folder / "found me.csv", [[email, "p"]]),
            "--tag",
            "spring",
            "--workspace",
            "sales",
        )
    with httpx.Client(base_url=prefect_server) as client:
        (run,) = client.post(
            "/flow_runs/filter", json={"flow_runs": {"name": {"any_": ["found me.csv to sales"]}}}
        ).json()
        of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        artifacts = {a["key"]: a for a in client.post("/artifacts/filter", json=of_run).json()}
        deadline = monotonic() + 20
        while True:  # the server records task runs after the run ends
            tasks = client.post("/task_runs/filter", json=of_run).json()
            if any(task["name"] == "localhost 1-1" and task["state_type"] == "COMPLETED" for task in tasks):
                break
            assert monotonic() < deadline, [task["name"] for task in tasks]
            sleep(0.2)
    assert set(run["tags"]) == {"spring", "workspace:sales", "file:found me.csv"}
    assert run["state"]["message"] == "imported 1, skipped 0, failed 0; 1 can only send, 0 active, 0 failed"
    # A run that takes longer also has a progress artifact.
    assert set(artifacts) - {"login-progress"} == {"import-summary", "login-results", "tested-mailboxes"}
    assert "imported 1, skipped 0, failed 0" in artifacts["import-summary"]["data"]
    (row,) = json.loads(artifacts["tested-mailboxes"]["data"])
    assert row["status"] == "partial"
    assert row["diagnosis"].startswith("Can only send: SMTP accepted the password.")
    assert artifacts["import-summary"]["created"] < min(
        task["created"] for task in tasks if task["name"].startswith("localhost")
    )


def test_flow_run_of_a_refused_file_fails_with_the_message(shell: Shell, prefect_server: str) -> None:
    """When Prefect starts the flow, a refused file fails its run with the message and leaves an artifact."""
    file = write_csv(shell.folder / "refused.csv", [])
    program = (
        "import asyncio; from pathlib import Path; from flows.import_outlook import import_outlook; "
        f"asyncio.run(import_outlook(Path({str(file)!r}), return_state=True))"
    )
    subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, env=shell.environment, capture_output=True, check=True
    )
    with httpx.Client(base_url=prefect_server) as client:
        (run,) = client.post(
            "/flow_runs/filter", json={"flow_runs": {"name": {"any_": ["refused.csv to default"]}}}
        ).json()
        of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        (artifact,) = client.post("/artifacts/filter", json=of_run).json()
    assert (run["state"]["type"], run["state"]["message"]) == ("FAILED", "CSV file is empty")
    assert "refused" in artifact["data"]
    assert "CSV file is empty" in artifact["data"]
    assert shell.is_untouched()


def test_wrong_settings_are_named_and_change_nothing(offline: Shell) -> None:
    """An invalid setting ends the command with 2 and its name, and never shows its value."""
    offline.environment |= {
        "OUTLOOK_IMPORT_ENCRYPTION_KEYS": "topsecretvalue",
        "OUTLOOK_IMPORT_GUARD_SHARE": "7",
    }
    offline.run(SAMPLES / "mailboxes.csv", code=2)
    assert "OUTLOOK_IMPORT_GUARD_SHARE" in offline.last.stderr
    assert "topsecretvalue" not in offline.last.stderr


def test_report_without_a_folder_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report path in a missing folder ends the command with 2, before it does anything."""
    words = ["import", str(SAMPLES / "mailboxes.csv"), "--report", str(tmp_path / "missing" / "report.csv")]
    assert main(words) == 2
    assert "Its folder does not exist." in capsys.readouterr().err


@pytest.mark.slow
def test_without_a_server_one_is_started_and_ends_with_the_command(tmp_path: Path) -> None:
    """Without a Prefect server, a run starts its own, records its task runs, and stops it at the end."""
    home = tmp_path / "prefect"
    shell = Shell(tmp_path, environment(PREFECT_HOME=str(home), **on_sqlite(tmp_path)))
    output = shell.run(SAMPLES / "mailboxes.csv", "--no-test")
    assert "Missing email or password" in output
    connection = sqlite3.connect(home / "prefect.db")
    states = connection.execute("SELECT name, state_type FROM task_run").fetchall()
    connection.close()
    steps = {re.sub(r"-\w+$", "", str(name)): state for name, state in states}
    assert steps == dict.fromkeys(["prepare", "store", "publish_summary"], "COMPLETED")
    assert not _processes_with(str(home))


def _processes_with(text: str) -> list[str]:
    """Processes whose environment contains `text`; Linux only, an empty list elsewhere."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (entry / "environ").read_bytes() and int(entry.name) != os.getpid():
                found.append(entry.name)
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_delete_makes_room_for_new_credentials(shell: Shell) -> None:
    """A deleted mailbox can be imported again with another password; an unknown address is reported."""
    shell.run(write_csv(shell.folder / "a.csv", [["ann@contoso.com", "old"]]), "--no-test")
    shell.run("mailboxes", "delete", "Ann@contoso.com", module="flows.manage")
    shell.run("mailboxes", "delete", "ann@contoso.com", module="flows.manage", code=1)
    shell.run(write_csv(shell.folder / "b.csv", [["ann@contoso.com", "new"]]), "--no-test")
    assert shell.open_password("ann@contoso.com") == "new"
