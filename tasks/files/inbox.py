"""The watched folder: files are claimed by a lock and a rename, and leave for exactly one place.

    inbox/NAME, inbox/TAG/NAME   what somebody drops
    processing/TIME-ID/…         claimed; locked as long as its process lives
    processed/NAME.TIME.report.csv
    failed/NAME.TIME.csv         the rows that failed, as they came
    rejected/NAME.TIME.csv       a refused file, untouched, and NAME.TIME.error.txt

A claim is held by a lock (flock) on its folder, so it ends with its process however that ends: whatever lies
in `processing/` without a lock was left behind by a crash and is taken up again. What follows a claim may be
done twice: the names of a file's outcome come from its claim, and stored rows are not stored again.
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
# An empty file is often one whose writer has only just opened it.
EMPTY_FILE_SECONDS = 60
LONGEST_STEM = 200  # bytes; with its time and ending the name still fits a file system


class Folders:
    """The places of the watched folder, made where missing, and closed to all but their owner and its group.

    Raises:
        SettingsError: When every user may put files into one of them, or one is a link.
    """

    def __init__(self, root: Path) -> None:
        folders = [root / name for name in PLACES]
        self.inbox, self.processing, self.processed, self.failed, self.rejected = folders
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_open_to_change(root)
        for folder in folders:
            private_folder(folder)


class Look(NamedTuple):
    """What tells whether a file has changed."""

    inode: int
    size: int
    modified_ns: int


def look(inbox: Path) -> dict[Path, Look]:
    """See what lies in the inbox: regular files, in it or one folder down, neither hidden nor unfinished.

    No link is followed, neither to a file nor to a folder.
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
    with suppress(FileNotFoundError, NotADirectoryError):  # gone, or another thing by now
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # taken by another worker
                if not path.name.startswith("."):
                    found[path] = path.lstat()
    return found


def _look_of(status: os.stat_result) -> Look:
    return Look(status.st_ino, status.st_size, status.st_mtime_ns)


def settled(before: dict[Path, Look], after: dict[Path, Look]) -> list[Path]:
    """The files that stayed the same between two looks, the oldest first."""
    still = [path for path, seen in after.items() if before.get(path) == seen]
    born = time.time_ns() - EMPTY_FILE_SECONDS * 10**9
    ready = [path for path in still if after[path].size or after[path].modified_ns < born]
    return sorted(ready, key=lambda path: (after[path].modified_ns, path))


@dataclass(frozen=True)
class Claim:
    """A file in `processing/` that this process alone works on, until `release`.

    Attributes:
        path: Where it lies now.
        tag: The folder within the inbox that it was dropped into.
        time: What its outcome's names carry: the time of the claim, and letters that keep two apart.
    """

    path: Path
    tag: str | None
    time: str
    lock: int

    @property
    def name(self) -> str:
        """The file's name as text; bytes in it that are no text show as �."""
        return os.fsencode(self.path.name).decode(errors="replace")

    def outcome(self, folder: Path, ending: str) -> Path:
        stem = os.fsencode(self.path.stem)[:LONGEST_STEM].decode(errors="replace")
        return folder / f"{stem}.{self.time}.{ending}"

    def is_file(self) -> bool:
        """Whether it is a file: until it was claimed, something else could be put in its place."""
        return stat.S_ISREG(self.path.lstat().st_mode)

    def look(self) -> Look:
        return _look_of(self.path.lstat())

    def release(self) -> None:
        """End the claim; removes its folder once the file is gone."""
        _end(self.path.parent if self.tag is None else self.path.parent.parent, self.lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def claim(path: Path, folders: Folders) -> Claim | None:
    """Take a file from the inbox; None where another worker was faster or the file is gone."""
    claimed_at = f"{now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    folder = folders.processing / claimed_at
    folder.mkdir(mode=0o700)
    lock = _lock(folder)
    if lock is None:
        return None
    claimed = _claim_in(folder, folder / path.relative_to(folders.inbox), lock)
    try:
        if claimed.tag is not None:
            claimed.path.parent.mkdir(mode=0o700)
        with folder_of(path, [folders.inbox]) as (source, name):
            os.rename(name, claimed.path, src_dir_fd=source)
    except (FileNotFoundError, NotADirectoryError, OutsideError):  # a link where its folder was
        claimed.release()
        return None
    except OSError:
        claimed.release()
        raise
    return claimed


def left_behind(folders: Folders) -> Iterator[Claim]:
    """Take up what a dead process has left in `processing/`."""
    for folder in sorted(folders.processing.iterdir()):
        lock = _lock(folder)
        if lock is None:
            continue
        files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
        for path in files[:1]:
            yield _claim_in(folder, path, lock)
        if not files:  # it ended before it had moved the file, or behind the outcome
            _end(folder, lock)


def _claim_in(folder: Path, path: Path, lock: int) -> Claim:
    tag, *rest = path.relative_to(folder).parts
    return Claim(path, tag if rest else None, folder.name, lock)


def _lock(folder: Path) -> int | None:
    """Lock a claim's folder for this process; None where somebody else has it, or has removed it."""
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
    with suppress(OSError):  # a file is in it still
        for inner in folder.iterdir():
            inner.rmdir()
        folder.rmdir()
    os.close(lock)


def finish(claimed: Claim, folders: Folders, summary: Summary) -> None:
    """Leave the failed rows of an imported file, to be mended and dropped again, then remove the file."""
    if summary.errors:
        errors = {error.line: error.reason.message for error in summary.errors}
        with unquoted():
            failed = extract_rows(claimed.path.read_bytes(), errors)
        write_privately(claimed.outcome(folders.failed, "csv"), failed)
    claimed.path.unlink()


def reject(claimed: Claim, folders: Folders, refusal: Refusal) -> None:
    """Move a refused file away, untouched, with the reason beside it.

    A link in its place is moved as a link. Of a file that has other names too only this one goes away.
    """
    write_privately(claimed.outcome(folders.rejected, "error.txt"), f"{refusal}\n".encode())
    make_private(claimed.path)
    claimed.path.rename(claimed.outcome(folders.rejected, "csv"))
