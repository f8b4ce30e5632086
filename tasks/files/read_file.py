"""Read one file from disk: regular, bounded, and inside the folders that it has to be in."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from schemas.refusals import CSV_REQUIRED, NAME_NOT_UTF8, NO_FILE, Refusal, too_large
from tasks.files.safe_paths import OutsideError, open_to_read


def read_bytes(path: Path, limit: int, within: Sequence[Path] | None = None) -> bytes | Refusal:
    """Read a regular file of at most `limit` bytes; anything else is a refusal, and waited for is nothing.

    Args:
        within: Folders of which one has to hold the file, wherever links lead; None for any place.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:  # no run could be named after it
        return Refusal(NAME_NOT_UTF8)
    try:
        descriptor = open_to_read(path, within)
        try:
            return _read_regular(descriptor, limit)
        finally:
            os.close(descriptor)
    except OutsideError as error:
        return Refusal(str(error))
    except FileNotFoundError:
        return Refusal(CSV_REQUIRED, "there is no file of that name")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENXIO:  # a socket
            return Refusal(CSV_REQUIRED, NO_FILE)
        reason = error.strerror if isinstance(error, OSError) else None
        return Refusal(CSV_REQUIRED, f"it cannot be read: {reason or 'not a file name'}")


def _read_regular(descriptor: int, limit: int) -> bytes | Refusal:
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        return Refusal(CSV_REQUIRED, NO_FILE)
    if before.st_size > limit:
        return too_large(limit)
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        # The file may have grown since. Some of the kernel's have no end, and nothing to give just now.
        data: bytes | None = file.read(limit + 1)
    if data is None:
        return Refusal(CSV_REQUIRED, NO_FILE)
    if len(data) > limit:
        return too_large(limit)
    after = os.fstat(descriptor)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        return Refusal("CSV file is still being written: import it once that is done")
    return data
