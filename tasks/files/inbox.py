"""The watched folder: take a file with a lock and a rename, then write its outcome to exactly one place.

    inbox/NAME, inbox/TAG/NAME       files that you drop
    processing/TIME-ID/…             files that are taken, in a folder that their process locks
    processed/NAME.TIME.report.csv   the report of an import
    failed/NAME.TIME.csv             the rows that failed, unchanged
    rejected/NAME.TIME.csv           a refused file, unchanged, with NAME.TIME.error.txt

The lock (flock) ends with its process, however the process ends. A file in `processing/` without a lock was
left by a crash, and the next scan continues it. Everything after taking a file can run twice: the names of
its outcome come from its folder in `processing/`, and rows that are already stored are not stored again.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from schemas.csv_file import extract_rows
from schemas.refusals import Refusal
from schemas.summary import Summary
from schemas.tables import now
from tasks.crash import unquoted
from tasks.files.private_files import make_private, private_folder, refuse_open_to_change, write_privately
from tasks.files.safe_paths import OutsideError, folder_of

PLACES = ("inbox", "processing", "processed", "failed", "rejected")
UNFINISHED_SUFFIXES = (".tmp", ".part", ".crdownload")
# An empty file may be one that another program has just opened for writing.
EMPTY_FILE_SECONDS = 60
# Bytes of UTF-8. With the time and the ending, a name then fits into the 143 bytes of an encrypted folder.
LONGEST_STEM = 100


class Folders:
    """The folders of the watched folder. Creates missing ones, and closes all of them to other users.

    Args:
        root: The watched folder.

    Raises:
        SettingsError: If every user can put files into a folder, or a folder is a link.
    """

    def __init__(self, root: Path) -> None:
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


def look(inbox: Path) -> dict[Path, Look]:
    """List the regular files in the inbox and its folders, except hidden and unfinished ones.

    Links are not followed, neither to files nor to folders.

    Returns:
        Path → state of the file.
    """
    found = _entries(inbox)
    folders = [path for path, status in found.items() if stat.S_ISDIR(status.st_mode)]
    for folder in folders:
        found |= _entries(folder)
    return {
        path: _look_of(status)
        for path, status in found.items()
        if stat.S_ISREG(status.st_mode) and path.suffix.lower() not in UNFINISHED_SUFFIXES
    }


def _entries(folder: Path) -> dict[Path, os.stat_result]:
    found = {}
    with suppress(FileNotFoundError, NotADirectoryError):  # removed or replaced since
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # taken by another worker
                if not path.name.startswith("."):
                    found[path] = path.lstat()
    return found


def _look_of(status: os.stat_result) -> Look:
    return Look(status.st_ino, status.st_size, status.st_mtime_ns)


def settled(before: dict[Path, Look], after: dict[Path, Look]) -> list[Path]:
    """The files that did not change between two calls of `look`, the oldest first."""
    still = [path for path, seen in after.items() if before.get(path) == seen]
    born = time.time_ns() - EMPTY_FILE_SECONDS * 10**9
    ready = [path for path in still if after[path].size or after[path].modified_ns < born]
    return sorted(ready, key=lambda path: (after[path].modified_ns, path))


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


def take(path: Path, folders: Folders) -> TakenFile | None:
    """Take a file from the inbox; None if another worker was faster or the file is gone."""
    time_and_id = f"{now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    folder = folders.processing / time_and_id
    folder.mkdir(mode=0o700)
    lock = _lock(folder)
    if lock is None:
        return None
    taken = _taken_in(folder, folder / path.relative_to(folders.inbox), lock)
    try:
        if taken.tag is not None:
            taken.path.parent.mkdir(mode=0o700)
        with folder_of(path, [folders.inbox]) as (source, name):
            os.rename(name, taken.path, src_dir_fd=source)
    except (FileNotFoundError, NotADirectoryError, OutsideError):  # a link has replaced its folder
        taken.release()
        return None
    except OSError:
        taken.release()
        raise
    return taken


def left_behind(folders: Folders) -> Iterator[TakenFile]:
    """Take the files that dead processes left in `processing/`."""
    for folder in sorted(folders.processing.iterdir()):
        lock = _lock(folder)
        if lock is None:
            continue
        files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
        for path in files[:1]:
            yield _taken_in(folder, path, lock)
        if not files:  # the process died before it moved the file, or after it wrote the outcome
            _end(folder, lock)


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
        errors = {error.line: error.reason.message for error in summary.errors}
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
    taken.path.rename(taken.outcome(folders.rejected, "csv"))
