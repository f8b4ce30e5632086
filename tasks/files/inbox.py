"""The watched folder: take a file with a lock and a rename, then write its outcome to exactly one place.

    inbox/NAME, inbox/TAG/NAME       files that you drop
    processing/TIME-ID/…             files that are taken, in a folder that their process locks
    processed/NAME.TIME.report.csv   the report of an import
    failed/NAME.TIME.csv             the rows that failed, unchanged; those of a workbook as CSV
    rejected/NAME.TIME.csv           a refused file (or .xlsx), unchanged, with NAME.TIME.error.txt

The lock (flock) ends with its process, however the process ends. A file in `processing/` without a lock was
left by a crash, and the next scan continues it. Everything after taking a file can run twice: the names of
its outcome come from its folder in `processing/`, and rows that are already stored are not stored again.
"""

from __future__ import annotations

import fcntl
import os
import random
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self

from schemas.prepare import extract_rows
from schemas.refusals import Refusal
from schemas.summary import Summary
from schemas.tables import now
from tasks.crash import unquoted
from tasks.files.private_files import make_private, private_folder, refuse_open_to_change, write_privately
from tasks.files.safe_paths import OutsideError, folder_of
from tasks.files.skipped import NOT_YET, Skipped

PLACES = ("inbox", "processing", "processed", "failed", "rejected")
SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")  # a refused one keeps its ending
UNFINISHED_SUFFIXES = (".tmp", ".part", ".crdownload")
# An empty file may be one that another program has just opened for writing.
EMPTY_FILE_SECONDS = 60
# Bytes of UTF-8. With the time and the ending, a name then fits into the 143 bytes of an encrypted folder.
LONGEST_STEM = 100
MOST_IN_FOLDER, MOST_ENTRIES = 10_000, 50_000
TIME_FORMAT = "%Y%m%dT%H%M%SZ"
# A file that does not finish is tried by every scan at first, then after pauses that grow up to the longest.
EVERY_SCAN_SECONDS, LONGEST_PAUSE_SECONDS = 600, 900
# Marks a folder in `processing/` whose time is that of the last attempt. A full disk does not prevent it, and
# it is there even if the attempt kills the process.
TRIED = stat.S_ISVTX


class Folders:
    """The folders of the watched folder. Creates missing ones, and closes all of them to other users.

    Args:
        root: The watched folder.

    Raises:
        SettingsError: If every user can put files into a folder, or a folder is a link.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        folders = [root / name for name in PLACES]
        self.inbox, self.processing, self.processed, self.failed, self.rejected = folders
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_open_to_change(root)
        for folder in folders:
            private_folder(folder)


class Look(NamedTuple):
    """The state of a file, to detect changes."""

    inode: int
    size: int
    modified_ns: int


def look(inbox: Path, skipped: Skipped | None = None) -> dict[Path, Look]:
    """List the regular files in the inbox and its folders, except hidden and unfinished ones.

    Links are not followed, neither to files nor to folders. At most MOST_IN_FOLDER entries of a folder and
    MOST_ENTRIES in all are read.

    Args:
        inbox: The inbox.
        skipped: Takes what cannot be imported.

    Returns:
        Path → state of the file.
    """
    skipped = {} if skipped is None else skipped
    found = {}
    for path, status in islice(_inbox_entries(inbox, skipped), MOST_ENTRIES):
        if path.name.startswith(".") or path.suffix.lower() in UNFINISHED_SUFFIXES:
            continue
        if stat.S_ISREG(status.st_mode):
            found[path] = _look_of(status)
        elif not stat.S_ISDIR(status.st_mode):
            skipped[path] = "is a link" if stat.S_ISLNK(status.st_mode) else "is not a file"
        elif path.parent != inbox:
            skipped[path] = "is a folder in a folder: its files are not read"
    return found


def _inbox_entries(inbox: Path, skipped: Skipped) -> Iterator[tuple[Path, os.stat_result]]:
    folders = []
    for path, status in _entries(inbox, skipped):
        if stat.S_ISDIR(status.st_mode) and not path.name.startswith("."):
            folders.append(path)
        yield path, status
    random.shuffle(folders)  # if not all fit into one look, each gets its turn
    for folder in folders:
        yield from _entries(folder, skipped)


def _entries(folder: Path, skipped: Skipped) -> Iterator[tuple[Path, os.stat_result]]:
    """Read a folder. Skips it, or the rest of it, if that is not possible."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with os.scandir(descriptor) as entries:
                for entry in islice(entries, MOST_IN_FOLDER):
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:  # taken by another worker
                        continue
                    except OSError as error:  # for example a mount of another user
                        if not os.access(".", os.X_OK, dir_fd=descriptor, effective_ids=True):
                            raise
                        skipped[folder / entry.name] = f"cannot be read ({error.strerror})"
                        continue
                    yield folder / entry.name, status
                if next(entries, None) is not None:
                    skipped[folder] = f"has over {MOST_IN_FOLDER:,} entries: a scan reads only so many"
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):  # removed or replaced since
        pass
    except OSError as error:
        skipped[folder] = f"cannot be read ({error.strerror})"


def _look_of(status: os.stat_result) -> Look:
    return Look(status.st_ino, status.st_size, status.st_mtime_ns)


def settled(seen: Mapping[Path, Look]) -> list[Path]:
    """The files that have not changed since `look`, in the order in which they came."""
    time_ns = time.time_ns()
    ready = {}
    for path, before in seen.items():
        with suppress(OSError):  # moved since; if it cannot be reached, the next look says so
            status = path.lstat()
            fresh = abs(time_ns - status.st_mtime_ns) < EMPTY_FILE_SECONDS * 10**9
            if _look_of(status) == before and (status.st_size or not fresh):
                # Only the clock sets this time. If it was wrong then, the file need not wait for it.
                came = status.st_ctime_ns
                ready[path] = came if came <= time_ns else 0
    return sorted(ready, key=lambda path: (ready[path], path))


@dataclass(frozen=True)
class TakenFile:
    """A file in `processing/` that belongs to this process until `release`.

    Attributes:
        path: Its path in `processing/`.
        tag: Name of the folder in the inbox that it was dropped into; None for the inbox itself.
        time: When it was taken, with random letters that make it unique. Part of the names of its outcome.
        lock: Descriptor of its locked folder.
    """

    path: Path
    tag: str | None
    time: str
    lock: int

    @property
    def name(self) -> str:
        """The file name as text, with � for bytes that are not UTF-8."""
        return os.fsencode(self.path.name).decode(errors="replace")

    def outcome(self, folder: Path, ending: str) -> Path:
        """The path of an outcome of this file in `folder`."""
        stem = os.fsencode(self.path.stem).decode(errors="replace").encode()[:LONGEST_STEM]
        return folder / f"{stem.decode(errors='ignore')}.{self.time}.{ending}"

    def is_file(self) -> bool:
        """Whether it is still a regular file: something may have replaced it before it was taken."""
        return stat.S_ISREG(self.path.lstat().st_mode)

    def look(self) -> Look:
        """The state of the file now."""
        return _look_of(self.path.lstat())

    def release(self) -> None:
        """Unlock the folder of the file, and remove the folder if the file is gone."""
        _end(self.path.parent if self.tag is None else self.path.parent.parent, self.lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def take(
    path: Path, folders: Folders, seen: Look | None = None, skipped: Skipped | None = None
) -> TakenFile | None:
    """Take a file from the inbox.

    Args:
        path: The file.
        folders: The folders of the watched folder.
        seen: The state that it must have; None for any state.
        skipped: Takes the file, or the folder that is to blame, if it cannot be taken.

    Returns:
        The taken file; None if another worker was faster, or it is gone, has changed or is skipped.
    """
    skipped = {} if skipped is None else skipped
    try:
        with folder_of(path, [folders.inbox]) as (source, name):
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            if seen not in (None, _look_of(status)):
                return None
            if not os.access(name, os.R_OK, dir_fd=source, effective_ids=True):
                skipped[path] = "cannot be read (its owner or its mode does not allow it)"
                return None
            return _move(path, source, folders, seen, skipped)
    except (FileNotFoundError, NotADirectoryError, OutsideError):  # a link has replaced its folder
        return None
    except OSError as error:
        skipped[path] = f"cannot be reached ({error.strerror})"
        return None


def _move(path: Path, source: int, folders: Folders, seen: Look | None, skipped: Skipped) -> TakenFile | None:
    """Move a file out of the folder with the descriptor `source` into a new, locked folder."""
    folder = folders.processing / f"{now():{TIME_FORMAT}}-{secrets.token_hex(3)}"
    try:
        folder.mkdir(mode=0o700)
        lock = _lock(folder)
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        skipped[folders.processing] = f"cannot be written ({error.strerror})"
        return None
    if lock is None:
        return None
    taken = _taken_in(folder, folder / path.relative_to(folders.inbox), lock)
    try:
        if taken.tag is not None:
            taken.path.parent.mkdir(mode=0o700)
        os.rename(path.name, taken.path, src_dir_fd=source)
        if seen in (None, taken.look()):
            return taken
        taken.release()  # replaced at the last moment: the next scan continues it
    except FileNotFoundError:
        taken.release()
    except OSError as error:
        taken.release()
        if os.access(".", os.W_OK | os.X_OK, dir_fd=source, effective_ids=True):
            skipped[path] = f"cannot be moved ({error.strerror})"
        else:
            skipped[path.parent] = f"does not let its files be moved ({error.strerror})"
    return None


def left_behind(folders: Folders, skipped: Skipped | None = None) -> Iterator[TakenFile]:
    """Take the files in `processing/` that no process works on, the least recently tried first.

    A file that does not finish for minutes is tried less and less often.

    Args:
        folders: The folders of the watched folder.
        skipped: Takes what cannot be continued, or not yet.
    """
    skipped = {} if skipped is None else skipped
    found = dict(_entries(folders.processing, skipped))
    for folder in sorted(found, key=lambda folder: (found[folder].st_mtime_ns, folder)):
        try:
            taken = _left_in(folder)
        except OSError as error:
            skipped[folder] = f"cannot be continued ({error.strerror})"
            continue
        if taken is None:
            continue
        if _must_wait(folder, found[folder]):
            skipped[taken.path] = NOT_YET
            taken.release()
            continue
        with suppress(OSError):  # of another user
            os.utime(taken.lock)
            os.fchmod(taken.lock, 0o700 | TRIED)
        yield taken


def _left_in(folder: Path) -> TakenFile | None:
    """Lock a folder in `processing/` and find its file. A folder without one is removed."""
    lock = _lock(folder)
    if lock is None:
        return None
    try:
        path = next(_files_in(folder), None)
    except OSError:
        os.close(lock)
        raise
    if path is None:  # the process died before it moved the file, or after it wrote the outcome
        _end(folder, lock)
        return None
    return _taken_in(folder, path, lock)


def _files_in(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if stat.S_ISDIR(path.lstat().st_mode):
            yield from path.iterdir()
        else:
            yield path


def _must_wait(folder: Path, status: os.stat_result) -> bool:
    if not status.st_mode & TRIED:
        return False
    try:
        taken = datetime.strptime(folder.name.partition("-")[0], TIME_FORMAT).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return False
    pause = min(status.st_mtime - taken - EVERY_SCAN_SECONDS, LONGEST_PAUSE_SECONDS)
    return 0 <= time.time() - status.st_mtime < pause


def _taken_in(folder: Path, path: Path, lock: int) -> TakenFile:
    tag, *rest = path.relative_to(folder).parts
    return TakenFile(path, tag if rest else None, folder.name, lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder in `processing/`; None if another process has locked or removed it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _end(folder: Path, lock: int) -> None:
    with suppress(OSError):  # the file is still in it
        for inner in folder.iterdir():
            inner.rmdir()
        folder.rmdir()
    os.close(lock)


def finish(taken: TakenFile, folders: Folders, summary: Summary) -> None:
    """Write the failed rows of an imported file to `failed/`, then remove the file.

    The user can fix the rows and drop the file in again.

    Raises:
        OSError: If the rows cannot be written.
        StepError: If the rows cannot be copied.
    """
    if summary.errors:
        errors = {error.line: str(error) for error in summary.errors}
        with unquoted():
            failed = extract_rows(taken.path.read_bytes(), errors)
        write_privately(taken.outcome(folders.failed, "csv"), failed)
    taken.path.unlink()


def reject(taken: TakenFile, folders: Folders, refusal: Refusal) -> None:
    """Move a refused file to `rejected/`, unchanged, and write the reason next to it.

    A link is moved as a link. If the file has other hard links, they stay.

    Raises:
        OSError: If the file cannot be moved or the reason cannot be written.
    """
    write_privately(taken.outcome(folders.rejected, "error.txt"), f"{refusal}\n".encode())
    make_private(taken.path)
    ending = taken.path.suffix.lower()
    taken.path.rename(taken.outcome(folders.rejected, ending[1:] if ending in SPREADSHEETS else "csv"))
