"""The key file beside the embedded database. It changes in one step, and every process notices the change."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.sealing import parse_keys


class Watch:
    """Reads a key file again whenever it has changed.

    While the file cannot be read, a process goes on with the keys that it has.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._look()

    def changed(self) -> list[bytes]:
        """Return the keys of the file if it has changed since the last call, otherwise an empty list."""
        seen = self._look()
        if seen == self._seen:
            return []
        try:
            keys = parse_keys(self._path.read_text())
        except (OSError, ValueError):
            return []
        self._seen = seen
        return keys

    def _look(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns


@contextmanager
def changing(path: Path) -> Iterator[list[str]]:
    """Change a key file: change the list that this yields, and the file gets the new list at the end.

    Another process that wants to change the file waits. One that reads it finds the old keys or the new ones.

    Yields:
        The keys, in base64.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # not the file itself, because it is replaced
        keys = path.read_text().replace(",", " ").split()
        yield keys
        _replace(path, "".join(f"{key}\n" for key in keys))
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    owner = path.stat()
    with private_draft(path) as draft:
        draft.write_text(text)
        os.chown(draft, owner.st_uid, owner.st_gid)  # root may run this for the user of the service
        sync(draft)
        draft.replace(path)


@contextmanager
def private_draft(path: Path) -> Iterator[Path]:
    """Make an empty private file beside a path; fill and sync it, and put it there by a rename or a link.

    At the end the draft is gone, and the list of names in the folder is on disk.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    draft.touch(mode=0o600, exist_ok=False)
    draft.chmod(0o600)  # the umask may have taken the owner's rights, too
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
