"""Files and folders: modes that exclude others, paths that stay inside, and things that are not files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shlex
import socket
import stat
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest

from schemas.csv_file import parse
from schemas.refusals import CSV_REQUIRED, NAME_NOT_UTF8, Refusal
from schemas.settings import Settings, SettingsError
from tasks.files.inbox import Folders, look, take
from tasks.files.private_files import private_folder, write_privately
from tasks.files.read_file import read_bytes
from tasks.files.report_file import NO_REPORT, REPORT_START, refuse_report
from tasks.files.safe_paths import OutsideError
from tasks.storage.database import database, key_file, url_of
from tests.conftest import write_csv
from tests.support.machine import free_port, wait_for
from tests.support.shell import LIMIT_SECONDS, PROJECT, SAMPLES, SCAN, Shell, on_sqlite

OUTSIDE = "The path is outside the folders in OUTLOOK_IMPORT_IMPORT_FOLDERS"
NO_FILE = Refusal(CSV_REQUIRED, "it is a folder, a device or a pipe, not a file")
SECRET = b"email,password\nann@contoso.com,b8a1-of-somebody-else\n"
NOWHERE = '{"*": {"smtp": "127.0.0.1:9", "imap": "127.0.0.1:9"}}'


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def run_remedy(sentence: object) -> None:
    """Run the command in a refusal, as its reader would."""
    command = re.search("`(.+?)`", str(sentence))
    assert command, sentence
    subprocess.run(shlex.split(command[1]), check=True)


@pytest.fixture
def fresh_database(tmp_path: Path) -> dict[str, str]:
    """Always SQLite, because a database server has no files to check."""
    return on_sqlite(tmp_path)


@pytest.fixture
def watched(shell: Shell) -> Shell:
    """A shell with its own watched folder, and servers that do not exist."""
    shell.environment |= {
        "OUTLOOK_IMPORT_WATCH_FOLDER": str(shell.folder / "watched"),
        "OUTLOOK_IMPORT_SETTLE_SECONDS": "0.2",
        "OUTLOOK_IMPORT_SERVERS": NOWHERE,
    }
    return shell


# --- What the program creates -----------------------------------------


@pytest.mark.parametrize("mask", [0, 0o022, 0o777])
def test_created_files_are_private_with_any_umask(settings: Settings, tmp_path: Path, mask: int) -> None:
    """Key, database with its journals, folders and outcomes are private, and usable by their owner."""
    with umask(mask), database(settings):
        folders = Folders(tmp_path)
        write_privately(folders.failed / "a.csv", b"email,password\n")
        made = {path.relative_to(tmp_path).as_posix(): mode(path) for path in tmp_path.rglob("*")}
    files = ("mailboxes.key", "mailboxes.db", "mailboxes.db-wal", "mailboxes.db-shm", "failed/a.csv")
    places = ("inbox", "processing", "processed", "failed", "rejected")
    assert made == dict.fromkeys(files, 0o600) | dict.fromkeys(places, 0o700)


@pytest.mark.slow
def test_scan_leaves_nothing_to_others(watched: Shell) -> None:
    """Without a umask, from files that are open to all, a scan leaves only private files."""
    inbox = watched.folder / "watched" / "inbox"
    with umask(0):
        inbox.mkdir(parents=True)
        inbox.parent.chmod(0o755)
        inbox.chmod(0o755)
        write_csv(inbox / "part.csv", [["ann@contoso.com", "p"], ["", "q"]])
        write_csv(inbox / "refused.csv", [])
        assert watched.scan() == "1 imported, 1 rejected"
    assert mode(inbox) == 0o750
    places = [watched.folder / "watched" / place for place in ("processed", "failed", "rejected")]
    left = [path for place in places for path in place.iterdir()]
    assert len(left) == 4
    made = [path for path in watched.folder.iterdir() if path.is_file()]
    assert {path.name for path in made} >= {"mailboxes.db", "mailboxes.key"}
    assert {mode(path) for path in (*left, *made)} == {0o600}
    assert {mode(place) for place in places} == {0o700}


# --- What the program finds -------------------------------------------


@pytest.mark.parametrize(
    ("name", "found", "sentence"),
    [
        ("mailboxes.key", 0o640, "mailboxes.key is open to other users of this machine: run `chmod 600 /"),
        ("mailboxes.key", 0o602, "mailboxes.key is open to other users of this machine: run `chmod 600 /"),
        ("mailboxes.db", 0o604, "mailboxes.db is open to every user of this machine: run `chmod o= /"),
        ("mailboxes.db", 0o662, "mailboxes.db is open to every user of this machine: run `chmod o= /"),
        ("mailboxes.db-wal", 0o644, "mailboxes.db-wal is open to every user of this machine: run `chmod o="),
        ("mailboxes.db-shm", 0o644, "mailboxes.db-shm is open to every user of this machine: run `chmod o="),
        (".", 0o777, "every user of this machine can replace files in /"),
    ],
)
def test_open_files_are_refused_until_they_are_closed(
    settings: Settings, tmp_path: Path, name: str, found: int, sentence: str
) -> None:
    """A file that others can use is refused by name, and the command in the refusal fixes it."""
    with database(settings):
        for journal in ("mailboxes.db-wal", "mailboxes.db-shm"):
            os.link(tmp_path / journal, tmp_path / f"kept {journal}")
    for journal in ("mailboxes.db-wal", "mailboxes.db-shm"):  # as a killed program leaves them
        (tmp_path / f"kept {journal}").rename(tmp_path / journal)
    (tmp_path / name).chmod(found)
    with pytest.raises(SettingsError, match=re.escape(sentence)) as refusal, database(settings):
        pass
    assert mode(tmp_path / name) == found
    run_remedy(refusal.value)
    with database(settings):
        pass


def test_group_may_share_the_database_on_purpose(settings: Settings, tmp_path: Path) -> None:
    """A database that its group may use can be opened; so can one in a folder like /tmp."""
    with database(settings):
        pass
    (tmp_path / "mailboxes.db").chmod(0o660)
    tmp_path.chmod(0o1777)
    with database(settings):
        assert mode(tmp_path / "mailboxes.db") == 0o660
        assert mode(tmp_path / "mailboxes.db-wal") == 0o660


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_key_file_of_another_user_is_refused(settings: Settings) -> None:
    """A key file that another user owns, and so can read, is refused with that user's name."""
    with database(settings):
        pass
    os.chown(key_file(url_of(settings)), 65534, -1)
    with pytest.raises(SettingsError, match=r"\.key belongs to user nobody: run the program as") as refusal:
        database(settings).__enter__()
    run_remedy(str(refusal.value).partition("or run")[2])
    with database(settings):
        pass


@pytest.mark.parametrize("name", ["mailboxes.key", "mailboxes.db"])
def test_pipes_for_key_or_database_are_refused_at_once(settings: Settings, name: str, tmp_path: Path) -> None:
    """A pipe in place of the key or the database is refused at once."""
    with database(settings):
        pass
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name, 0o600)
    with pytest.raises(SettingsError, match=f"{re.escape(name)} is not a regular file"):
        database(settings).__enter__()


@pytest.mark.parametrize("found", [0o700, 0o2770, 0o755, 0o2775])
def test_found_folder_is_closed_to_all_but_its_group(tmp_path: Path, found: int) -> None:
    """An inbox that others can list is closed to them, and its group keeps its rights."""
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox").chmod(found)
    private_folder(tmp_path / "inbox")
    assert mode(tmp_path / "inbox") == found & 0o7770


@pytest.mark.parametrize("place", ["inbox", "rejected"])
@pytest.mark.parametrize("found", [0o777, 0o1777, 0o702])
def test_folder_for_everybody_is_refused(tmp_path: Path, found: int, place: str) -> None:
    """A folder that everyone can write to is refused; the command in the refusal fixes it."""
    (tmp_path / place).mkdir()
    (tmp_path / place).chmod(found)
    with pytest.raises(SettingsError, match=rf"/{place} is open to every user .*`chmod o= /") as refusal:
        Folders(tmp_path)
    run_remedy(refusal.value)
    Folders(tmp_path)
    assert mode(tmp_path / place) & 0o777 == found & 0o770


@pytest.mark.parametrize("place", ["inbox", "processing", "failed"])
def test_place_that_is_no_folder_is_refused(tmp_path: Path, place: str) -> None:
    """A link in place of a folder is refused, and its target stays unchanged."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    elsewhere.chmod(0o755)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / place).symlink_to(elsewhere)
    with pytest.raises(SettingsError, match=f"/{place} must be a folder, not a link or a file"):
        Folders(tmp_path / "root")
    assert mode(elsewhere) == 0o755


@pytest.mark.slow
def test_every_way_in_refuses_an_open_key_with_one_sentence(watched: Shell, settings: Settings) -> None:
    """Commands and API end with code 2 and the message, and a scan keeps the file."""
    with database(settings):
        pass
    key = key_file(url_of(settings))
    key.chmod(0o644)
    sentence = f"{key} is open to other users of this machine: run `chmod 600 {key}`"
    watched.run(SAMPLES / "mailboxes.csv", "--no-test", code=2)
    assert f"Settings: {sentence}" in watched.last.stderr.replace("\n", " ").replace("  ", " ")
    for arguments, module in (
        (("keys", "list"), "flows.manage"),
        (("--port", str(free_port())), "flows.api"),
    ):
        watched.run(*arguments, module=module, code=2)
        assert f"Settings: {sentence}" in watched.last.stderr
    Folders(watched.folder / "watched")
    write_csv(watched.folder / "watched" / "inbox" / "a.csv", [["ann@contoso.com", "p"]])
    assert watched.scan().startswith("1 unfinished: processing/")
    assert sentence in watched.last.stderr
    key.chmod(0o600)
    assert watched.scan() == "1 imported"


# --- What is not a file -----------------------------------------------


def odd_things(folder: Path) -> Iterator[Path]:
    """One of each kind of object that is not a regular file."""
    (folder / "a folder.csv").mkdir()
    os.mkfifo(folder / "a pipe.csv")
    with chdir(folder), socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a socket.csv")  # the path of a socket must be short
    yield from (folder / f"a {kind}.csv" for kind in ("folder", "pipe", "socket"))
    yield from map(Path, ("/dev/zero", "/dev/tty", "/dev/stdin/"))


def test_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A file whose name is not UTF-8 is refused with our message, before a run is named after it."""
    file = tmp_path / os.fsdecode(b"a\xff.csv")
    file.write_bytes(b"email,password\nann@contoso.com,p\n")
    assert read_bytes(file, 100) == Refusal(NAME_NOT_UTF8)


@pytest.mark.parametrize("held", [False, True], ids=["anywhere", "in its folders"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, held: bool) -> None:
    """Folders, pipes, sockets and devices are refused with a message, at once."""
    within = [tmp_path, Path("/dev")] if held else None
    for thing in odd_things(tmp_path):
        refusal = read_bytes(thing, 100, within)
        assert isinstance(refusal, Refusal), thing
        assert refusal == NO_FILE or not thing.is_relative_to(tmp_path), thing


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("name", ["environ", "maps", "mem", "cmdline", "status"])
def test_kernel_files_give_no_mailboxes(name: str) -> None:
    """The command line refuses a file in /proc by its content, a deployment by its folder."""
    path = Path("/proc/self") / name
    data = read_bytes(path, 1_000_000)
    assert isinstance(data if isinstance(data, Refusal) else parse(data), Refusal)
    assert read_bytes(path, 1_000_000, [PROJECT]) == Refusal(OUTSIDE)


@pytest.mark.parametrize(
    ("pack", "what"),
    [
        (gzip.compress, "a gzip archive; unpack it first"),
        (bz2.compress, "a bzip2 archive; unpack it first"),
        (lzma.compress, "an xz archive; unpack it first"),
        # A Zstandard frame that stores the content uncompressed (RFC 8878).
        (
            lambda data: (
                b"\x28\xb5\x2f\xfd\x20" + bytes([len(data)]) + bytes([len(data) << 3 | 1, 0, 0]) + data
            ),
            "a Zstandard archive; unpack it first",
        ),
    ],
    ids=["gzip", "bzip2", "xz", "zstd"],
)
def test_nothing_is_unpacked(pack: Callable[[bytes], bytes], what: str) -> None:
    """A compressed CSV is refused by the name of its format."""
    assert parse(pack(b"email,password\na@b.co,p\n")) == Refusal(f"CSV file is {what}")


def test_size_is_known_before_anything_is_read(tmp_path: Path) -> None:
    """A file of one terabyte is refused before any of it is read."""
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(2**40)
    tracemalloc.start()
    refusal = read_bytes(tmp_path / "large.csv", 2**30)
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(refusal, Refusal)
    assert "larger than 1,073,741,824 bytes" in refusal.message
    assert highest < 100_000


def test_file_that_grows_is_never_taken_in_half(tmp_path: Path) -> None:
    """While a program writes a file, a read gives its state at one moment, or the refusal."""
    path = tmp_path / "growing.csv"
    path.touch()
    ended = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not ended.is_set():
                file.write(b"a@b.co,p\n")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        refused = False
        deadline = time.monotonic() + 20
        while not refused and time.monotonic() < deadline:
            data = read_bytes(path, 2**20)
            refused = data == Refusal("CSV file is still being written: import it again when it is complete")
            if isinstance(data, Refusal) and "larger" in data.message:
                os.truncate(path, 0)
    finally:
        ended.set()
        writer.join()
    assert refused


# --- Where the paths of a run lead ------------------------------------


@pytest.fixture
def fenced(tmp_path: Path) -> Path:
    """A folder that runs are limited to, with links out of it, and a secret outside."""
    inside = tmp_path / "inside"
    (inside / "deep" / "er").mkdir(parents=True)
    (inside / "deep" / "good.csv").write_bytes(b"email,password\n")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.csv").write_bytes(SECRET)
    (inside / "link.csv").symlink_to(tmp_path / "outside" / "secret.csv")
    (inside / "link").symlink_to(tmp_path / "outside")
    (inside / "to link.csv").symlink_to("link.csv")
    (inside / "up").symlink_to("..")
    (inside / "loop.csv").symlink_to("loop.csv")
    (inside / "inner.csv").symlink_to("deep/good.csv")
    return inside


@pytest.mark.parametrize(
    "path",
    [
        *("link.csv", "link/secret.csv", "to link.csv", "up/outside/secret.csv", "../outside/secret.csv"),
        *(
            "deep/../../outside/secret.csv",
            "../outside/none.csv",
            "../insider.csv",
            "..",
            "/proc/self/environ",
        ),
    ],
)
def test_paths_out_of_the_folders_are_refused(fenced: Path, path: str) -> None:
    """No path out of the folders can read a file, reveal that it exists, or write a report."""
    (fenced.parent / "insider.csv").touch()
    assert read_bytes(fenced / path, 100, [fenced]) == Refusal(OUTSIDE)
    if not path.endswith("link.csv"):  # a report does not follow a link with its own name
        with pytest.raises(OutsideError):
            write_privately(fenced / path, b"", [fenced])
    assert (fenced.parent / "outside" / "secret.csv").read_bytes() == SECRET


def test_paths_within_the_folders_are_read(fenced: Path) -> None:
    """Links and dots that stay inside are allowed, also if a link leads to the folder itself."""
    (fenced.parent / "alias").symlink_to(fenced)
    alias = fenced.parent / "alias"
    for path in (
        fenced / "deep/good.csv",
        fenced / "inner.csv",
        fenced / "deep/er/../good.csv",
        alias / "inner.csv",
    ):
        assert read_bytes(path, 100, [fenced.parent / "outside", alias]) == b"email,password\n"
    assert read_bytes(fenced / "none.csv", 100, [fenced]) == Refusal(
        CSV_REQUIRED, "there is no file with this name"
    )
    for name in ("loop.csv", "a\0b.csv", "deep/good.csv/x.csv"):
        refusal = read_bytes(fenced / name, 100, [fenced])
        assert isinstance(refusal, Refusal)
        assert refusal.detail.startswith("it cannot be read: ")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_link_that_appears_during_a_read_is_not_followed(fenced: Path, what: str) -> None:
    """While a name or its folder keeps changing between a file and a link, nothing outside is read."""
    place = fenced / "place"
    real, lure = fenced / "deep" / "good.csv", fenced.parent / "outside" / "secret.csv"
    path = place if what == "file" else place / "x.csv"
    (fenced / "spare").mkdir()
    (fenced / "spare" / "x.csv").write_bytes(b"email,password\n")
    (fenced.parent / "outside" / "x.csv").write_bytes(SECRET)
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            if what == "file":
                for make in (lambda new: os.link(real, new), lambda new: new.symlink_to(lure)):
                    make(fenced / "new")
                    (fenced / "new").replace(place)
            else:
                (fenced / "spare").rename(place)
                place.rename(fenced / "spare")
                place.symlink_to(lure.parent)
                place.unlink()

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        started = time.monotonic()
        found: set[object] = set()
        both = {b"email,password\n", OUTSIDE}
        # For two seconds, or longer on a busy machine, until both have occurred.
        while (seconds := time.monotonic() - started) < 2 or (seconds < 60 and not both <= found):
            data = read_bytes(path, 1000, [fenced])
            found.add(data if isinstance(data, bytes) else data.message)
    finally:
        ended.set()
        swapper.join()
    assert SECRET not in found
    assert both <= found


def test_report_overwrites_no_other_file(fenced: Path) -> None:
    """A report may overwrite a report or an empty file, but no mailbox file, database, device or link."""
    (fenced / "report.csv").write_bytes(REPORT_START + b",status\n")
    (fenced / "empty.csv").touch()
    for name in ("report.csv", "empty.csv", "new.csv", "deep/er/new.csv"):
        assert refuse_report(fenced / name, [fenced]) is None
    (fenced / "database.csv").write_bytes(b"SQLite format 3\0")
    os.mkfifo(fenced / "pipe.csv")
    for name in ("deep/good.csv", "database.csv", "link.csv", "inner.csv", "loop.csv", "pipe.csv"):
        assert refuse_report(fenced / name, [fenced]) == Refusal(NO_REPORT)
        assert refuse_report(fenced / name, None) == Refusal(NO_REPORT)
    assert refuse_report(Path("/dev/null"), None) == Refusal(NO_REPORT)
    assert refuse_report(fenced / "deep", None) == Refusal(NO_REPORT)
    assert refuse_report(fenced / "link" / "new.csv", [fenced]) == Refusal(OUTSIDE)
    assert refuse_report(fenced / "new.txt", [fenced]) == Refusal(
        "The report must be a separate .csv, .xlsx or .html file"
    )
    assert refuse_report(fenced / "new.txt", None) is None


@pytest.mark.slow
def test_command_line_keeps_what_a_report_would_replace(shell: Shell) -> None:
    """`--report` with the name of the imported file is refused before anything is stored."""
    file = write_csv(shell.folder / "mailboxes.csv", [["ann@contoso.com", "p"]])
    before = file.read_bytes()
    shell.run(file, "--no-test", "--report", file, code=1)
    assert NO_REPORT in shell.last.stderr
    assert file.read_bytes() == before
    assert shell.is_untouched()


# --- The inbox -------------------------------------------------------


def test_inbox_leaves_what_is_no_file_alone(tmp_path: Path) -> None:
    """Links, pipes, sockets and files in a linked folder are neither listed nor taken."""
    folders = Folders(tmp_path / "watched")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.csv").write_bytes(SECRET)
    (folders.inbox / "spring").mkdir()
    for folder in (folders.inbox, folders.inbox / "spring"):
        list(odd_things(folder))
        (folder / "a link.csv").symlink_to(outside / "secret.csv")
        (folder / "a linked folder").symlink_to(outside)
        (folder / "good.csv").write_bytes(SECRET)
    seen = look(folders.inbox)
    assert sorted(path.relative_to(folders.inbox).as_posix() for path in seen) == [
        "good.csv",
        "spring/good.csv",
    ]
    assert take(folders.inbox / "a linked folder" / "secret.csv", folders) is None
    assert (outside / "secret.csv").read_bytes() == SECRET
    assert list(folders.processing.iterdir()) == []


@pytest.mark.slow
def test_link_in_place_of_a_taken_file_is_rejected(watched: Shell) -> None:
    """A file that becomes a link before it is taken is rejected, and its target stays unchanged."""
    folders = Folders(watched.folder / "watched")
    target = watched.folder / "target.csv"
    target.write_bytes(SECRET)
    target.chmod(0o644)
    (folders.inbox / "link.csv").symlink_to(target)
    (folders.inbox / "to a folder.csv").symlink_to(watched.folder)
    os.mkfifo(folders.inbox / "pipe.csv")
    for path in list(folders.inbox.iterdir()):
        taken = take(path, folders)
        assert taken is not None
        os.close(taken.lock)
    assert watched.scan() == "3 rejected"
    assert list(folders.processing.iterdir()) == []
    (link,) = folders.rejected.glob("link.*.csv")
    assert link.is_symlink()
    (reason,) = folders.rejected.glob("link.*.error.txt")
    assert "a link, a folder or a pipe has replaced it" in reason.read_text()
    assert (target.read_bytes(), mode(target)) == (SECRET, 0o644)
    assert watched.is_untouched()


@pytest.mark.slow
def test_hard_link_in_the_inbox_is_handled_like_a_file(watched: Shell) -> None:
    """A hard link in the inbox is handled like any file; its other name keeps content and mode."""
    folders = Folders(watched.folder / "watched")
    for name, content in (("good.csv", SECRET), ("bad.csv", b"email,password\n")):
        (watched.folder / name).write_bytes(content)
        (watched.folder / name).chmod(0o644)
        os.link(watched.folder / name, folders.inbox / name)
    assert watched.scan() == "1 imported, 1 rejected"
    assert (watched.folder / "good.csv").read_bytes() == SECRET
    assert mode(watched.folder / "bad.csv") == 0o644
    assert mode(folders.rejected) == 0o700
    assert list(folders.inbox.iterdir()) == []


STORED = "SELECT email FROM mailbox ORDER BY id"


@pytest.mark.slow
def test_rows_that_are_written_meanwhile_are_not_lost(watched: Shell) -> None:
    """A file that grows while it is imported is imported again, with all its rows."""
    folders = Folders(watched.folder / "watched")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        port = silent.getsockname()[1]
        watched.environment |= {
            "OUTLOOK_IMPORT_SERVERS": NOWHERE.replace(":9", f":{port}"),
            "OUTLOOK_IMPORT_PROBE_TIMEOUT": "3",
        }
        path = write_csv(folders.inbox / "a.csv", [["ann@contoso.com", "p"]])
        with path.open("a") as file, watched.start_program(SCAN) as scan:
            wait_for("a stored mailbox", lambda: watched.rows(STORED), LIMIT_SECONDS)
            file.write("bob@contoso.com,q\n")
            file.flush()
            message = scan.communicate(timeout=LIMIT_SECONDS)[0].strip()
            assert message.startswith("1 unfinished: ")
            assert message.endswith("/a.csv was changed during its import")
        assert watched.scan() == "1 imported"
    assert watched.rows(STORED) == [("ann@contoso.com",), ("bob@contoso.com",)]
    assert list(folders.processing.iterdir()) == []


GIB = 2**30
SCAN_AND_MEASURE = """
import asyncio
from pathlib import Path
from flows.watch_inbox import watch_inbox
print(asyncio.run(watch_inbox(return_state=True)).message)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_ten_files_of_a_gigabyte_take_no_memory(watched: Shell) -> None:
    """A scan rejects ten files of 1 GB and one long real one by size, and stays under 300 MB."""
    folders = Folders(watched.folder / "watched")
    for number in range(10):
        with (folders.inbox / f"sparse {number}.csv").open("wb") as file:
            file.write(b"email,password\n")
            file.truncate(GIB)
    with (folders.inbox / "real.csv").open("wb") as file:
        file.write(b"email,password\n")
        for number in range(200):
            file.write(
                b"".join(b"user%d@contoso.com,p\n" % n for n in range(number * 40_000, (number + 1) * 40_000))
            )
    before = {path.stat().st_ino for path in folders.inbox.iterdir()}
    with watched.start_program(SCAN_AND_MEASURE) as scan:
        message, highest = scan.communicate(timeout=LIMIT_SECONDS)[0].splitlines()
    assert message == "11 rejected"
    rejected = list(folders.rejected.glob("*.csv"))
    assert {path.stat().st_ino for path in rejected} == before  # renamed, not copied
    reasons = {path.read_text() for path in folders.rejected.glob("*.error.txt")}
    assert reasons == {
        "CSV file is larger than 10,485,760 bytes: split it into files of at most 500 mailboxes\n"
    }
    assert int(highest) < 300 * 1024
