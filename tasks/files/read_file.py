"""Read a regular file from disk, with a size limit, and only from allowed folders."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from schemas.refusals import CSV_REQUIRED, NAME_NOT_UTF8, NO_FILE, Refusal, too_large
from tasks.files.safe_paths import OutsideError, open_to_read


def read_bytes(path: Path, limit: int, within: Sequence[Path] | None = None) -> bytes | Refusal:
    """Read a regular file of at most `limit` bytes. Never blocks on a pipe or a device.

    Args:
        within: Folders that may contain the file after links are resolved; None for any folder.

    Returns:
        The whole file, or a refusal if it cannot be read, is too large or is still being written.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:  # Prefect cannot store it in the name of a run
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
        return Refusal(CSV_REQUIRED, "there is no file with this name")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENXIO:  # a socket
            return Refusal(CSV_REQUIRED, NO_FILE)
        reason = error.strerror if isinstance(error, OSError) else None
        return Refusal(CSV_REQUIRED, f"it cannot be read: {reason or 'invalid file name'}")


def _read_regular(descriptor: int, limit: int) -> bytes | Refusal:
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        return Refusal(CSV_REQUIRED, NO_FILE)
    if before.st_size > limit:
        return too_large(limit)
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        # The file may have grown. Files in /proc may be endless, or may have no data at the moment (None).
        data: bytes | None = file.read(limit + 1)
    if data is None:
        return Refusal(CSV_REQUIRED, NO_FILE)
    if len(data) > limit:
        return too_large(limit)
    after = os.fstat(descriptor)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        return Refusal("CSV file is still being written: import it again when it is complete")
    return data
