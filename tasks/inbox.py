"""The watched folder: files are claimed by a lock and a rename, and leave for exactly one place.

    inbox/NAME, inbox/TAG/NAME   what somebody drops
    processing/TIME-ID/…         claimed; locked as long as its process lives
    processed/NAME.TIME.report.csv
    failed/NAME.TIME.csv         the rows that failed, as they came
    rejected/NAME.TIME.csv       a refused file, untouched, and NAME.TIME.error.txt

A claim is held by a lock (flock) on the file itself, so it ends with its process however that ends: whatever
lies in `processing/` without a lock was left behind by a crash and is taken up again. What follows a claim may
be done twice: the names of a file's outcome come from its claim, and stored rows are not stored again.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from schemas.csv_file import Refusal, extract_rows
from schemas.summary import Summary
from schemas.tables import now
from tasks.report import write_privately

UNFINISHED_SUFFIXES = (".tmp", ".part", ".crdownload")
# An empty file is often one whose writer has only just opened it.
EMPTY_FILE_SECONDS = 60
LONGEST_STEM = 200  # bytes; with its time and ending the name still fits a file system


class Folders:
    """The places of the watched folder, made where missing, all but the inbox for their owner only."""

    def __init__(self, root: Path) -> None:
        self.inbox = root / "inbox"
        self.processing = root / "processing"
        self.processed = root / "processed"
        self.failed = root / "failed"
        self.rejected = root / "rejected"
        self.inbox.mkdir(parents=True, exist_ok=True)
        for folder in (self.processing, self.processed, self.failed, self.rejected):
            folder.mkdir(mode=0o700, exist_ok=True)


class Look(NamedTuple):
    """What tells whether a file has changed."""

    inode: int
    size: int
    modified_ns: int


def look(inbox: Path) -> dict[Path, Look]:
    """See what lies in the inbox: regular files, in it or one folder down, neither hidden nor unfinished."""
    seen = {}
    for path in (*inbox.glob("*"), *inbox.glob("*/*")):
        if any(part.startswith(".") for part in path.relative_to(inbox).parts):
            continue
        try:
            status = path.lstat()
        except FileNotFoundError:  # taken by another worker
            continue
        if stat.S_ISREG(status.st_mode) and path.suffix.lower() not in UNFINISHED_SUFFIXES:
            seen[path] = Look(status.st_ino, status.st_size, status.st_mtime_ns)
    return seen


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
        return self.path.name

    def outcome(self, folder: Path, ending: str) -> Path:
        stem = self.path.stem.encode()[:LONGEST_STEM].decode(errors="ignore")
        return folder / f"{stem}.{self.time}.{ending}"

    def release(self) -> None:
        """End the claim; removes its folder once the file is gone."""
        os.close(self.lock)
        for folder in self.path.parents:
            try:
                folder.rmdir()
            except OSError:
                return
            if folder.name == self.time:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def claim(path: Path, folders: Folders) -> Claim | None:
    """Take a file from the inbox; None where another worker was faster or the file is gone."""
    try:
        lock = _lock(path)
    except PermissionError:
        lock = os.open(os.devnull, os.O_RDONLY)  # whoever renames it has it; the import will say why it fails
    if lock is None:
        return None
    place = path.relative_to(folders.inbox)
    claimed_at = f"{now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    target = folders.processing / claimed_at / place
    target.parent.mkdir(parents=True, mode=0o700)
    claimed = Claim(target, _tag(place), claimed_at, lock)
    try:
        path.rename(target)
    except FileNotFoundError:
        claimed.release()
        return None
    return claimed


def left_behind(folders: Folders) -> Iterator[Claim]:
    """Take up what a dead process has left in `processing/`."""
    for folder in sorted(folders.processing.iterdir()):
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in files:
            try:
                lock = _lock(path)
            except PermissionError:
                continue
            if lock is not None:
                yield Claim(path, _tag(path.relative_to(folder)), folder.name, lock)


def _tag(place: Path) -> str | None:
    return place.parts[0] if len(place.parts) > 1 else None


def _lock(path: Path) -> int | None:
    """Lock a file for this process; None where somebody else has it, or has moved it meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def finish(claimed: Claim, folders: Folders, summary: Summary) -> None:
    """Leave the failed rows of an imported file, to be mended and dropped again, then remove the file."""
    if summary.errors:
        errors = {error.line: error.reason.message for error in summary.errors}
        failed = extract_rows(claimed.path.read_bytes(), errors)
        write_privately(claimed.outcome(folders.failed, "csv"), failed)
    claimed.path.unlink()


def reject(claimed: Claim, folders: Folders, refusal: Refusal) -> None:
    """Move a refused file away, untouched, with the reason beside it."""
    write_privately(claimed.outcome(folders.rejected, "error.txt"), f"{refusal}\n".encode())
    claimed.path.chmod(0o600)
    claimed.path.rename(claimed.outcome(folders.rejected, "csv"))
