"""Bad items in the inbox: each is named once and left where it is, and the rest is imported."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from schemas.findings import Health
from schemas.refusals import Refusal
from schemas.settings import Settings
from tasks.doctor.installation import check_folders
from tasks.files import inbox, skipped
from tasks.files.inbox import Folders, left_behind, look, reject, settled, take
from tasks.files.skipped import NOT_YET, RECORD_BYTES, Skipped, listed, note, read_record
from tests.conftest import write_csv
from tests.support.machine import webhook_listening
from tests.support.postgresql import folder_of_nobody
from tests.support.shell import LIMIT_SECONDS, PROJECT, SCAN, Shell

NOBODY = 65534
TEXT = "email,password\nann@contoso.com,p\n"
datetime.strptime("2026", "%Y")  # noqa: DTZ007  imports a module that the ordinary user may not read
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can create another user's files")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Give this process the permissions of an ordinary user: root can read and move everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def root() -> Iterator[Path]:
    """A watched folder of the user that `unprivileged` becomes."""
    with folder_of_nobody("watched-") as folder:
        with unprivileged():
            Folders(folder / "data")
        yield folder / "data"


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "data")


def drop(folders: Folders, *names: str) -> list[Path]:
    paths = [folders.inbox / name for name in names]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(TEXT)
    return paths


def take_all(folders: Folders) -> tuple[list[str], dict[str, str]]:
    """Take what can be taken, as a scan does: the names of these files, and what is skipped, and why."""
    found: Skipped = {}
    seen = look(folders.inbox, found)
    taken = [take(path, folders, seen[path], found) for path in settled(seen)]
    names = [f"{file.tag}/{file.name}" if file.tag else file.name for file in taken if file is not None]
    for file in taken:
        if file is not None:
            file.release()
    return sorted(names), {str(path.relative_to(folders.root)): why for path, why in found.items()}


def leave_behind(folders: Folders, name: str) -> Path:
    """Take a file and die; returns its folder in `processing/`."""
    (path,) = drop(folders, name)
    taken = take(path, folders)
    assert taken is not None
    os.close(taken.lock)
    return folders.processing / taken.time


def continued(folders: Folders) -> tuple[list[str], dict[str, str]]:
    found: Skipped = {}
    names = []
    for taken in left_behind(folders, found):
        names.append(taken.name)
        taken.release()
    return names, {str(path.relative_to(folders.root)): why for path, why in found.items()}


# --- Items that cannot be taken --------------------------------------


def test_items_without_permission_are_skipped_one_by_one(root: Path) -> None:
    """Folders and files that the worker cannot enter, read or move are named; all others are taken."""
    with unprivileged():
        folders = Folders(root)
        drop(folders, "good.csv", "spring/good.csv", "locked.csv")
        drop(folders, "closed/a.csv", "listed/a.csv", "stuck/a.csv", "stuck/b.csv")
        modes = {"closed": 0, "listed": 0o400, "stuck": 0o500, "locked.csv": 0}
        for name, bits in modes.items():
            (folders.inbox / name).chmod(bits)
        (root / "elsewhere").mkdir()
        (root / "elsewhere" / "a.csv").write_text(TEXT)
        (folders.inbox / "summer").symlink_to(root / "elsewhere")
        os.mkfifo(folders.inbox / "pipe.csv")
        os.mkfifo(folders.inbox / ".hidden")
        (folders.inbox / "spring" / "deeper").mkdir()
        (folders.inbox / "spring" / ".hidden").mkdir()
        assert take_all(folders) == (
            ["good.csv", "spring/good.csv"],
            {
                "inbox/closed": "cannot be read (Permission denied)",
                "inbox/listed": "cannot be read (Permission denied)",
                "inbox/locked.csv": "cannot be read (its owner or its mode does not allow it)",
                "inbox/pipe.csv": "is not a file",
                "inbox/spring/deeper": "is a folder in a folder: its files are not read",
                "inbox/stuck": "does not let its files be moved (Permission denied)",
                "inbox/summer": "is a link",
            },
        )
        for name in modes:
            (folders.inbox / name).chmod(0o700)
    left = {str(path.relative_to(folders.inbox)) for path in folders.inbox.rglob("*.csv")}
    assert left == {"closed/a.csv", "listed/a.csv", "locked.csv", "pipe.csv", "stuck/a.csv", "stuck/b.csv"}
    assert len(list(folders.processing.iterdir())) == 2  # only those of the taken files


@only_root
def test_items_of_other_users_are_skipped_one_by_one(root: Path) -> None:
    """Another user's unreadable file, closed folder and file in a sticky folder stay; readable ones go."""
    folders = Folders(root)
    drop(folders, "readable.csv", "secret.csv", "theirs/a.csv", "sticky/a.csv")
    (folders.inbox / "secret.csv").chmod(0o600)
    (folders.inbox / "theirs").chmod(0o755)
    (folders.inbox / "sticky").chmod(0o1777)
    with unprivileged():
        assert take_all(folders) == (
            ["readable.csv"],
            {
                "inbox/secret.csv": "cannot be read (its owner or its mode does not allow it)",
                "inbox/sticky/a.csv": "cannot be moved (Operation not permitted)",
                "inbox/theirs": "does not let its files be moved (Permission denied)",
            },
        )


def test_unreadable_entries_of_processing_are_skipped(root: Path) -> None:
    """A folder in processing/ that cannot be read, or whose tag folder cannot, does not stop the others."""
    with unprivileged():
        folders = Folders(root)
        closed, inner, good = (leave_behind(folders, name) for name in ("a.csv", "spring/b.csv", "c.csv"))
        (folders.processing / "not a folder").touch()
        closed.chmod(0)
        (inner / "spring").chmod(0)
        names, found = continued(folders)
        closed.chmod(0o700)
        (inner / "spring").chmod(0o700)
        assert names == ["c.csv"]
        assert found == {
            f"processing/{closed.name}": "cannot be continued (Permission denied)",
            f"processing/{inner.name}": "cannot be continued (Permission denied)",
        }
        assert continued(folders)[0] == ["a.csv", "b.csv", "c.csv"]
    assert good.exists()


def test_folder_that_vanishes_ends_nothing(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder or a file that is removed during the look, or before it is taken, is passed over."""
    drop(folders, "gone/a.csv", "good.csv", "late/a.csv", "missing.csv")
    read = inbox._entries

    def removing(folder: Path, found: Skipped) -> object:
        if folder.name == "gone":
            (folder / "a.csv").unlink()
            folder.rmdir()
        return read(folder, found)

    monkeypatch.setattr(inbox, "_entries", removing)
    found: Skipped = {}
    seen = look(folders.inbox, found)
    ready = settled(seen)
    (folders.inbox / "late" / "a.csv").unlink()
    (folders.inbox / "late").rmdir()
    (folders.inbox / "missing.csv").unlink()
    taken = [file for path in ready if (file := take(path, folders, seen[path], found)) is not None]
    assert [file.name for file in taken] == ["good.csv"]
    assert found == {}


class Mount:
    """An entry that cannot be looked at, such as a mount of another user: only a name."""

    name = "mount"

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), follow_symlinks)


def test_entry_that_cannot_be_looked_at_hides_no_other(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry whose state the system refuses to tell is skipped alone."""
    drop(folders, "a.csv", "b.csv")
    scan = os.scandir

    @contextmanager
    def with_mount(descriptor: int) -> Iterator[Iterator[object]]:
        with scan(descriptor) as entries:
            yield iter([Mount(), *entries])

    monkeypatch.setattr(os, "scandir", with_mount)
    found: Skipped = {}
    assert sorted(path.name for path in look(folders.inbox, found)) == ["a.csv", "b.csv"]
    assert found == {folders.inbox / "mount": "cannot be read (Permission denied)"}


@pytest.mark.parametrize("stem", [b"\xff" * 120, b"\xff" * 250, "ä".encode() * 125, "€".encode() * 83])
def test_outcomes_of_long_names_can_be_written(folders: Folders, stem: bytes) -> None:
    """Names that get longer when their bytes are replaced by � leave outcomes of at most 143 bytes."""
    path = folders.inbox / os.fsdecode(stem + b".csv")
    path.write_text(TEXT)
    taken = take(path, folders)
    assert taken is not None
    with taken:
        reject(taken, folders, Refusal("no"))
    names = [os.fsencode(path.name) for path in folders.rejected.iterdir()]
    assert len(names) == 2
    assert max(len(b"." + name + b".tmp") for name in names) <= 143
    assert list(folders.processing.iterdir()) == []


# --- Files that change -----------------------------------------------


def grow(path: Path) -> None:
    with path.open("a") as file:
        file.write("bob@contoso.com,q\n")


def replace(path: Path) -> None:
    path.with_suffix(".new").write_text(TEXT)
    path.with_suffix(".new").replace(path)


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent)


@pytest.mark.parametrize("change", [grow, replace, link])
def test_file_that_changes_before_it_is_taken_stays(folders: Folders, change: Callable[[Path], None]) -> None:
    """A file that grows or is replaced after it settled is left for the next scan, which waits again."""
    (path,) = drop(folders, "a.csv")
    seen = look(folders.inbox)
    assert settled(seen) == [path]
    change(path)
    assert take(path, folders, seen[path]) is None
    assert path.is_symlink() or path.is_file()
    assert list(folders.processing.iterdir()) == []


def test_file_that_changes_while_it_is_taken_is_continued_later(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is replaced between the last check and the move is not imported by this scan."""
    (path,) = drop(folders, "a.csv")
    seen = look(folders.inbox)
    rename = os.rename

    def replace_first(name: str, target: Path, *, src_dir_fd: int) -> None:
        monkeypatch.undo()
        grow(path)
        rename(name, target, src_dir_fd=src_dir_fd)

    monkeypatch.setattr(os, "rename", replace_first)
    assert take(path, folders, seen[path]) is None
    (taken,) = left_behind(folders)
    assert taken.path.read_text() == f"{TEXT}bob@contoso.com,q\n"


def test_two_names_of_one_file_are_two_files(folders: Folders) -> None:
    """A file with two names in the inbox is taken once by each, and the end of one leaves the other."""
    (first,) = drop(folders, "a.csv")
    first.chmod(0o640)
    (folders.inbox / "spring").mkdir()
    os.link(first, folders.inbox / "spring" / "b.csv")
    seen = look(folders.inbox)
    one, two = (take(path, folders, seen[path]) for path in sorted(seen))
    assert one is not None
    assert two is not None
    with one, two:
        reject(one, folders, Refusal("no"))
        assert two.path.read_text() == TEXT
        assert stat.S_IMODE(two.path.stat().st_mode) == 0o640
        reject(two, folders, Refusal("no"))
    assert len(list(folders.rejected.iterdir())) == 4


# --- Clocks ----------------------------------------------------------


@pytest.mark.parametrize("days", [-400, -1, 1, 400])
def test_clock_that_jumps_keeps_no_file(folders: Folders, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Whatever the clock says now, or said then, files in the inbox and in processing/ are taken."""
    paths = drop(folders, "a.csv", "empty.csv")
    (folders.inbox / "empty.csv").write_text("")
    folder = leave_behind(folders, "b.csv")
    wrong = time.time() + timedelta(days=days).total_seconds()
    seen = look(folders.inbox)
    monkeypatch.setattr(time, "time_ns", lambda: int(wrong * 10**9))
    monkeypatch.setattr(time, "time", lambda: wrong)
    assert sorted(settled(seen)) == sorted(paths)
    assert continued(folders) == (["b.csv"], {})
    monkeypatch.undo()
    for path in (*paths, folder):
        os.utime(path, (wrong, wrong))
    assert sorted(settled(look(folders.inbox))) == sorted(paths)
    assert continued(folders) == (["b.csv"], {})


def test_files_are_taken_in_the_order_in_which_they_came(folders: Folders) -> None:
    """The time that a program gives its file, such as that of an archive, lets it overtake no other."""
    for name, modified in (("first.csv", 2**31), ("second.csv", 0), ("third.csv", 1)):
        (path,) = drop(folders, name)
        os.utime(path, (modified, modified))
        time.sleep(0.02)
    assert [path.name for path in settled(look(folders.inbox))] == ["first.csv", "second.csv", "third.csv"]


def test_file_that_never_finishes_is_tried_less_and_less_often(folders: Folders) -> None:
    """It is tried by every scan for ten minutes, then after pauses of at most 15, and after all others."""

    def tried(taken: float, last: float) -> str:
        """The name of a file that was taken and last tried that many minutes ago."""
        then = datetime.now(UTC) - timedelta(minutes=taken)
        folder = leave_behind(folders, f"{taken:g}, {last:g}.csv")
        moved = folder.rename(folders.processing / f"{then:%Y%m%dT%H%M%SZ}-{folder.name[-6:]}")
        moved.chmod(0o700 | inbox.TRIED)
        os.utime(moved, times=(time.time() - 60 * last,) * 2)
        return f"{taken:g}, {last:g}.csv"

    ready = [tried(10_000, 16), tried(20, 6), tried(9, 0.1), tried(0, 0)]
    waiting = {tried(10_000, 14), tried(20, 4)}
    names, found = continued(folders)
    assert names == ready
    assert {Path(place).name for place in found} == waiting
    assert set(found.values()) == {NOT_YET}
    assert continued(folders)[0] == ready[2:]  # the others wait again


# --- Bounds ----------------------------------------------------------


def test_look_is_bounded(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a huge folder a scan reads a part and says so; of many folders each gets its turn."""
    monkeypatch.setattr(inbox, "MOST_IN_FOLDER", 5)
    drop(folders, *(f"huge/{n}.csv" for n in range(8)), "small/a.csv")
    found: Skipped = {}
    seen = look(folders.inbox, found)
    assert sorted(path.parent.name for path in seen) == ["huge"] * 5 + ["small"]
    assert found == {folders.inbox / "huge": "has over 5 entries: a scan reads only so many"}
    monkeypatch.setattr(inbox, "MOST_ENTRIES", 3)
    parts = [look(folders.inbox) for _ in range(100)]
    assert max(map(len, parts)) == 1
    assert {path.parent.name for part in parts for path in part} == {"huge", "small"}


@pytest.mark.slow
def test_look_at_10_000_folders_takes_seconds(folders: Folders) -> None:
    """The files of 10,000 folders are found, and 100,000 entries of one are not all read."""
    for number in range(9_990):
        (folders.inbox / f"{number}").mkdir()
        (folders.inbox / f"{number}" / "a.csv").touch()
    started = time.monotonic()
    assert len(look(folders.inbox)) == 9_990
    (folders.inbox / "huge").mkdir()
    for number in range(100_000):
        (folders.inbox / "huge" / f"{number}").touch()
    read = time.monotonic()
    assert len(look(folders.inbox)) == 9_990 + inbox.MOST_IN_FOLDER
    assert time.monotonic() - read < 10
    assert read - started < 60


# --- Named once ------------------------------------------------------


def test_item_is_new_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item is new in one scan, also if scans of another worker, which can import it, lie between."""
    a, b = tmp_path / "inbox" / "a", tmp_path / "inbox" / "b"
    assert [str(item) for item in note(tmp_path, {a: "is a link"}).new] == ["inbox/a is a link"]
    assert note(tmp_path, {a: "is not a file"}).new == []
    assert note(tmp_path, {}) == ([], [])
    assert read_record(tmp_path).of_last_scan() == []
    both = note(tmp_path, {a: "is a link", b: "is a link"})
    assert ([item.place for item in both.items], [item.place for item in both.new]) == (
        ["inbox/a", "inbox/b"],
        ["inbox/b"],
    )
    assert read_record(tmp_path).of_last_scan() == both.items
    for days in (2, -2):
        later = datetime.now(UTC) + timedelta(days=days)
        monkeypatch.setattr(skipped, "now", lambda later=later: later)
        assert [item.place for item in note(tmp_path, {a: "is a link"}).new] == ["inbox/a"]


def test_item_that_waits_keeps_its_reason(tmp_path: Path) -> None:
    """An unfinished file that is not tried by this scan is listed with what stopped it before."""
    path = tmp_path / "processing" / "x" / "a.csv"
    note(tmp_path, {path: "is unfinished (No space left on device)"})
    noted = note(tmp_path, {path: NOT_YET})
    assert listed(noted.items) == "processing/x/a.csv is unfinished (No space left on device)"
    assert noted.new == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff" * 10, b'{"items": [1]}', b"[" * 300_000])
def test_damaged_record_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    """A record that makes no sense is replaced, and everything is named once more."""
    (tmp_path / "skipped.json").write_bytes(content)
    path = tmp_path / "inbox" / "a"
    assert len(note(tmp_path, {path: "is a link"}).new) == 1
    if len(content) <= RECORD_BYTES:
        assert note(tmp_path, {path: "is a link"}).new == []


def test_record_follows_no_link(tmp_path: Path) -> None:
    """A link in the place of the record is not followed."""
    (tmp_path / "target").write_text("keep")
    (tmp_path / "skipped.json").symlink_to(tmp_path / "target")
    assert len(note(tmp_path, {tmp_path / "inbox": "is a link"}).new) == 1
    assert (tmp_path / "target").read_text() == "keep"


def test_thousands_of_items_are_counted(tmp_path: Path) -> None:
    """The record and every text have a bounded length, whatever the names; 100 items are named, once."""
    name = os.fsdecode(b"\n\xff" * 100) + "\u202e'\"\\" + "😀" * 10
    many: Skipped = {tmp_path / "inbox" / f"{n:04}{name}": "w" * 1000 for n in range(3000)}
    noted = note(tmp_path, many)
    assert (len(noted.items), len(noted.new)) == (3000, 100)
    assert note(tmp_path, many).new == []
    assert (tmp_path / "skipped.json").stat().st_size == RECORD_BYTES
    text = listed(noted.items)
    assert text.endswith("; and 2,997 more")
    assert text.isprintable()
    assert len(text) < 1000
    assert len(read_record(tmp_path).of_last_scan()) == 100


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted: only root can, and not in every container")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return folder / "filler"


def test_record_is_kept_on_a_full_disk(tmp_path: Path) -> None:
    """Once the record exists, an item is named once even when the disk is full."""
    root = tmp_path / "disk"
    with small_disk(root):
        note(root, {})
        fill(root)
        assert len(note(root, {root / "a": "is a link"}).new) == 1
        assert note(root, {root / "a": "is a link"}).new == []


# --- Whole scans -----------------------------------------------------


def at(shell: Shell, root: Path, **more: str) -> None:
    shell.environment |= {
        "OUTLOOK_IMPORT_WATCH_FOLDER": str(root),
        "OUTLOOK_IMPORT_SETTLE_SECONDS": "0.1",
        "OUTLOOK_IMPORT_SERVERS": '{"*": {"smtp": "127.0.0.1:9", "imap": "127.0.0.1:9"}}',
    } | {f"OUTLOOK_IMPORT_{name}": value for name, value in more.items()}


# Root's own rights to files that do not let it. It stays root, because its Python may lie in a closed folder.
RIGHTS = "-dac_override,-dac_read_search,-fowner"


def scan_unprivileged(shell: Shell) -> tuple[str, str]:
    """Scan with the permissions of an ordinary user; returns the state's message and the log."""
    prefix = ["setpriv", f"--bounding-set={RIGHTS}"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*prefix, sys.executable, "-c", SCAN],
        cwd=PROJECT,
        env=shell.environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root needs setpriv")
def test_scan_imports_the_rest_and_names_bad_items_once(shell: Shell) -> None:
    """State, log, one notice and the doctor name the bad items; the second scan sends no notice."""
    root = shell.folder / "data"
    inbox = Folders(root).inbox
    write_csv(inbox / "good.csv", [["ann@contoso.com", "p"]])
    (inbox / os.fsdecode(b"\xff" * 120 + b".csv")).write_text(TEXT)
    (inbox / "closed").mkdir(mode=0)
    (inbox / "locked.csv").write_text(TEXT)
    (inbox / "locked.csv").chmod(0)
    whole = (
        "inbox/closed cannot be read (Permission denied); "
        "inbox/locked.csv cannot be read (its owner or its mode does not allow it)"
    )
    logged = "WARNING | Flow run 'scan of the inbox' - inbox/closed cannot be read"
    with webhook_listening() as webhook:
        at(shell, root, NOTIFY_WEBHOOK=webhook.address)
        message, log = scan_unprivileged(shell)
        assert message == f"1 imported, 1 rejected, 2 skipped: {whole}"
        assert logged in log
        message, log = scan_unprivileged(shell)
        assert message == f"2 skipped: {whole}"
        assert logged not in log
    assert [text for text in webhook.texts if "refused" not in text] == [
        f"Not imported from {root}: {whole}."
    ]
    found = [
        finding for finding in check_folders(Settings(watch_folder=root)) if str(root) not in finding.text
    ]
    assert [finding.health for finding in found if finding.about == "watch folder"] == [Health.WARNING] * 2
    assert "did not import this: inbox/closed cannot be read (Permission denied): fix or" in found[0].text
    assert {path.name for path in inbox.iterdir()} == {"closed", "locked.csv"}


@pytest.mark.slow
def test_full_disk_loses_nothing_and_is_told_once(shell: Shell) -> None:
    """Files whose outcomes do not fit on the disk are kept and told once, and finish when there is space."""
    root = shell.folder / "disk"
    with small_disk(root), webhook_listening() as webhook:
        at(shell, root, NOTIFY_WEBHOOK=webhook.address)
        inbox = Folders(root).inbox
        assert shell.scan() == "no file"
        write_csv(inbox / "a.csv", [["ann@contoso.com", "p"], ["", "q"]])
        write_csv(inbox / "b.csv", [["bob@contoso.com", "p"]])
        filler = fill(root)
        for _ in range(2):
            said = shell.scan()
            assert said.startswith("2 unfinished: processing/")
            assert said.count(".csv is unfinished: see its run") == 2
        filler.unlink()
        assert shell.scan() == "2 imported"
        assert [path.name[0] for path in sorted((root / "processed").iterdir())] == ["a", "b"]
        assert [path.name[0] for path in (root / "failed").iterdir()] == ["a"]
        assert sum("Not imported from" in text for text in webhook.texts) == 1
    assert shell.rows("SELECT count(*) FROM mailbox") == [(2,)]


@pytest.mark.slow
def test_scan_imports_a_limited_number_of_files(shell: Shell) -> None:
    """A scan ends after its number of files, or after its time but at least one file; the next continues."""
    at(shell, shell.folder, WATCH_FILES_PER_SCAN="2")
    inbox = Folders(shell.folder).inbox
    for number in range(6):
        write_csv(inbox / f"{number}.csv", [[f"user{number}@contoso.com", "p"]])
        time.sleep(0.02)
    assert shell.scan() == "2 imported, 4 left for the next scan"
    shell.environment["OUTLOOK_IMPORT_WATCH_SECONDS_PER_SCAN"] = "0.01"
    assert shell.scan() == "1 imported, 3 left for the next scan"
    shell.environment |= {
        "OUTLOOK_IMPORT_WATCH_SECONDS_PER_SCAN": "60",
        "OUTLOOK_IMPORT_WATCH_FILES_PER_SCAN": "50",
    }
    assert shell.scan() == "3 imported"
    emails = shell.rows("SELECT email FROM mailbox ORDER BY id")
    assert emails == [(f"user{number}@contoso.com",) for number in range(6)]


@pytest.mark.slow
def test_unfinished_files_leave_room_for_new_ones(shell: Shell) -> None:
    """Files that never finish take at most half of a scan, by turns, and new files are imported."""
    at(shell, shell.folder, WATCH_FILES_PER_SCAN="2")
    folders = Folders(shell.folder)
    stuck = [leave_behind(folders, f"stuck {number}.csv") for number in range(2)]
    for folder in stuck:
        (folders.processed / f".stuck {stuck.index(folder)}.{folder.name}.report.csv.tmp").mkdir()
    names = set()
    for number in range(2):
        write_csv(folders.inbox / "new.csv", [[f"user{number}@contoso.com", "p"]])
        said = shell.scan()
        assert said.startswith("1 imported, 1 unfinished: processing/")
        names.add(said.partition("stuck ")[2][0])
    assert names == {"0", "1"}
