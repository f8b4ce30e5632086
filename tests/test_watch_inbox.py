"""The inbox, scanned as on schedule: in a separate process with a real Prefect server."""

from __future__ import annotations

import csv
import os
import stat
from pathlib import Path

import httpx
import pytest

from schemas.refusals import Refusal
from tasks.files.inbox import Folders, left_behind, look, reject, settled, take
from tests.conftest import write_csv
from tests.support.shell import SAMPLES, Shell


@pytest.fixture
def watched(shell: Shell) -> Shell:
    """A shell with its own watched folder, with mailboxes on a server that does not exist."""
    nowhere = '{"*": {"smtp": "127.0.0.1:9", "imap": "127.0.0.1:9"}}'
    shell.environment |= {
        "OUTLOOK_IMPORT_WATCH_FOLDER": str(shell.folder),
        "OUTLOOK_IMPORT_SETTLE_SECONDS": "0.2",
        "OUTLOOK_IMPORT_SERVERS": nowhere,
    }
    Folders(shell.folder)
    return shell


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_each_file_leaves_for_its_place(watched: Shell) -> None:
    """Good, partly bad, refused, tagged and oddly named files reach their places; unfinished ones stay."""
    inbox = watched.folder / "inbox"
    for name in ("Ännchens boxes.csv", "spring/tagged.csv", "b@d!/no tag.csv"):
        (inbox / name).parent.mkdir(exist_ok=True)
        write_csv(inbox / name, [[f"user@{abs(hash(name))}.com", "p"]])
    (inbox / "part.csv").write_bytes((SAMPLES / "mailboxes.csv").read_bytes())
    (inbox / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    (inbox / os.fsdecode(b"caf\xe9.csv")).write_text("email,password\n")
    (inbox / "download.csv.part").write_text("email,password\n")
    (inbox / ".hidden.csv").write_text("email,password\n")
    (inbox / "a link.csv").symlink_to(SAMPLES / "mailboxes.csv")
    os.mkfifo(inbox / "pipe.csv")

    counts, _, said = watched.scan().partition(": ")
    assert sorted(counts.split(", ")) == ["2 skipped", "3 imported", "3 rejected"]
    assert said == "inbox/a link.csv is a link; inbox/pipe.csv is not a file"

    left = ["inbox/.hidden.csv", "inbox/a link.csv", "inbox/download.csv.part"]
    assert files(inbox.parent / "inbox") == sorted(name.removeprefix("inbox/") for name in left)
    assert files(watched.folder / "processing") == []
    reports = sorted((watched.folder / "processed").iterdir())
    assert [path.name.split(".")[0] for path in reports] == ["part", "tagged", "Ännchens boxes"]
    (failed,) = (watched.folder / "failed").iterdir()
    with failed.open(newline="", encoding="utf-8-sig") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "error": "line 17: Missing email or password; fill in both cells (missing)",
        "Email": "",
        "App Password": "qzkvhwmpltxrbncd",
        "Display Name": "No Address",
        "2FA Secret": "",
    }
    rejected = sorted((watched.folder / "rejected").iterdir())
    names = [path.name.split(".", 1)[0] for path in rejected]
    assert names == ["caf�", "caf�", "no tag", "no tag", "photo", "photo"]
    assert "not UTF-8" in rejected[1].read_text()
    assert "cannot be a tag" in rejected[3].read_text()
    assert rejected[4].read_bytes().startswith(b"\x89PNG")
    assert {mode(path) for path in (*reports, failed, *rejected)} == {0o600}
    tags = watched.rows("SELECT tag, count(*) FROM mailbox GROUP BY tag")
    assert set(tags) == {(None, 21), ("spring", 1)}
    secret = b"qzkvhwmpltxrbncd"
    assert not [path for path in reports if secret in path.read_bytes()]


@pytest.mark.slow
def test_fixed_rows_are_imported_when_dropped_in_again(watched: Shell) -> None:
    """The file of failed rows, fixed and dropped in again, is imported; its error column is ignored."""
    inbox = watched.folder / "inbox"
    write_csv(inbox / "a.csv", [["ann@contoso.com", "p"], ["bob@contoso", "q"]])
    assert watched.scan() == "1 imported"
    (failed,) = (watched.folder / "failed").iterdir()
    (inbox / "fixed.csv").write_bytes(failed.read_bytes().replace(b"bob@contoso", b"bob@contoso.com"))
    assert watched.scan() == "1 imported"
    assert watched.rows("SELECT email FROM mailbox ORDER BY id") == [
        ("ann@contoso.com",),
        ("bob@contoso.com",),
    ]
    assert watched.open_password("bob@contoso.com") == "q"


@pytest.mark.slow
def test_files_left_by_a_crash_are_picked_up_again(watched: Shell) -> None:
    """A file in processing/ without a living owner is imported by the next scan, and others are not."""
    folders = Folders(watched.folder)
    for name in ("dead.csv", "alive.csv"):
        write_csv(folders.inbox / name, [[f"{name[:4]}@contoso.com", "p"]])
        taken = take(folders.inbox / name, folders)
        assert taken is not None
        if name == "dead.csv":
            os.close(taken.lock)
    assert watched.scan() == "1 imported"
    assert [Path(name).name for name in files(folders.processing)] == ["alive.csv"]
    assert watched.rows("SELECT email FROM mailbox") == [("dead@contoso.com",)]


@pytest.mark.slow
def test_file_that_breaks_off_stays_for_the_next_scan(watched: Shell) -> None:
    """If an outcome cannot be written, its file is kept, the others go on, and a later scan finishes it."""
    folders = Folders(watched.folder)
    write_csv(folders.inbox / "a.csv", [["ann@contoso.com", "p"], ["", "q"]])
    write_csv(folders.inbox / "b.csv", [["bob@contoso.com", "p"]])
    taken = take(folders.inbox / "a.csv", folders)
    assert taken is not None
    os.close(taken.lock)  # as a dead process leaves it, with the names of its outcome known
    failed = taken.outcome(folders.failed, "csv")
    report = taken.outcome(folders.processed, "report.csv")
    draft = report.with_name(f".{report.name}.tmp")
    file = taken.path.relative_to(watched.folder)
    for place, said in (
        (failed, f"1 imported, 1 unfinished: {file} is unfinished (Is a directory)"),
        (draft, f"1 unfinished: {file} is unfinished: see its run"),
    ):
        place.mkdir()
        assert watched.scan() == said
        assert [Path(name).name for name in files(folders.processing)] == ["a.csv"]
        place.rmdir()
    assert watched.scan() == "1 imported"
    assert files(folders.processing) == []
    assert watched.rows("SELECT email FROM mailbox") == [("ann@contoso.com",), ("bob@contoso.com",)]
    assert [name.split(".")[0] for name in files(folders.processed)] == ["a", "b"]


@pytest.mark.slow
def test_import_runs_hang_under_the_scan(watched: Shell, prefect_server: str) -> None:
    """The run of each file is a child of the scan's run, and its artifact names the report."""
    write_csv(watched.folder / "inbox" / "child of a scan.csv", [["ann@contoso.com", "p"]])
    watched.scan()
    with httpx.Client(base_url=prefect_server) as client:
        wanted = {"flow_runs": {"name": {"any_": ["child of a scan.csv to default"]}}}
        (run,) = client.post("/flow_runs/filter", json=wanted).json()
        of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        artifacts = {a["key"]: a["data"] for a in client.post("/artifacts/filter", json=of_run).json()}
    assert run["parent_task_run_id"] is not None
    (report,) = (watched.folder / "processed").iterdir()
    assert str(report) in artifacts["import-summary"]


def test_growing_and_freshly_empty_files_are_not_settled(tmp_path: Path) -> None:
    """A file that changes between two checks, or that is new and empty, is left for later."""
    inbox = Folders(tmp_path).inbox
    for name in ("growing.csv", "still.csv", "empty.csv", "old empty.csv"):
        (inbox / name).write_text("" if "empty" in name else "email")
    os.utime(inbox / "old empty.csv", (0, 0))
    before = look(inbox)
    (inbox / "growing.csv").write_text("email,password")
    (inbox / "new.csv").write_text("email")
    assert [path.name for path in settled(before)] == ["still.csv", "old empty.csv"]


def test_file_is_taken_once(tmp_path: Path) -> None:
    """Of two scans that take one file, one gets it, and a file in use is not picked up by others."""
    folders = Folders(tmp_path)
    path = write_csv(folders.inbox / "a.csv", [])
    first = take(path, folders)
    assert first is not None
    assert take(path, folders) is None
    assert list(left_behind(folders)) == []
    reject(first, folders, Refusal("no"))
    first.release()
    assert list(left_behind(folders)) == []
    assert list(folders.processing.iterdir()) == []


def test_same_name_twice_gives_two_outcomes(tmp_path: Path) -> None:
    """Two files with one long name, dropped in one after the other, leave two outcomes."""
    folders = Folders(tmp_path)
    name = "ä" * 120 + ".csv"
    for text in ("first", "second"):
        (folders.inbox / name).write_text(text)
        taken = take(folders.inbox / name, folders)
        assert taken is not None
        with taken:
            reject(taken, folders, Refusal("no"))
    assert {path.read_text() for path in folders.rejected.glob("*.csv")} == {"first", "second"}
    assert len(list(folders.rejected.iterdir())) == 4
