"""The key file beside the embedded database: changed in one step, and noticed by whoever holds its keys."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.sealing import parse_keys


class Watch:
    """Gives the keys of a key file whenever it has changed since the last look.

    A process that has its keys goes on with them where the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._look()

    def changed(self) -> list[bytes]:
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
    """Change a key file: what the list of its keys in base64 holds at the end takes the file's place.

    Whoever else changes it waits meanwhile; whoever reads it finds the old keys or the new ones.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # not the file itself: it is another one afterwards
        keys = path.read_text().replace(",", " ").split()
        yield keys
        _replace(path, "".join(f"{key}\n" for key in keys))
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    owner = path.stat()
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    draft.touch(mode=0o600, exist_ok=False)
    try:
        draft.write_text(text)
        os.chown(draft, owner.st_uid, owner.st_gid)  # root may do this for the service's own user
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
