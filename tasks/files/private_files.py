"""Files and folders that keep other users of the machine out, whatever the umask is.

What is made here is made private. What is found open is refused with the command that closes it; only a
folder that others may merely look into, as `mkdir` leaves it, is closed without a word.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from pwd import getpwuid

from schemas.settings import SettingsError
from tasks.files.safe_paths import folder_of, open_to_read

LONGEST_KEY_FILE = 64 * 1024


def write_privately(path: Path, data: bytes, within: Sequence[Path] | None = None) -> None:
    """Write a file for its owner only, in place as a whole or not at all; a link in its place is replaced.

    Raises:
        OutsideError: When it does not lie within one of these folders.
        OSError: When it cannot be written.
    """
    with folder_of(path, within) as (folder, name):
        draft = f".{name}.tmp"
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)  # of a run that was killed
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o600, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(draft, dir_fd=folder)
            raise


def read_key_file(path: Path) -> str:
    """Read a file of keys; bytes that are no text become �.

    Raises:
        SettingsError: When somebody else owns it or may look into it.
        OSError: When it cannot be read.
    """
    descriptor = open_to_read(path)
    try:
        status = os.fstat(descriptor)  # of what is open, whatever lies at the path by now
        if not stat.S_ISREG(status.st_mode):
            raise SettingsError(f"{path} is no regular file")
        if status.st_uid not in (os.geteuid(), 0):
            raise SettingsError(
                f"{path} belongs to user {_user(status.st_uid)}: run this as that user, or run "
                f"`chown {_user(os.geteuid())} {_quoted(path)}`"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise SettingsError(
                f"{path} is open to other users of this machine: run `chmod 600 {_quoted(path)}`, and if "
                "one of them may have read the key, change it"
            )
        return os.read(descriptor, LONGEST_KEY_FILE).decode(errors="replace")
    finally:
        os.close(descriptor)


def refuse_open_database(path: Path) -> None:
    """Hold an embedded database to its owner and, where somebody wants that, a group.

    Raises:
        SettingsError: When every user may use one of its files, or put other ones in their place.
    """
    refuse_open_to_change(path.parent)
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with suppress(FileNotFoundError):
            mode = file.stat().st_mode
            if not stat.S_ISREG(mode):
                raise SettingsError(f"{file} is no regular file")
            if mode & stat.S_IRWXO:
                raise _open_to_all(file)


def refuse_open_to_change(folder: Path) -> None:
    """Raise `SettingsError` for a folder in which every user may replace what is not theirs."""
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise SettingsError(
            f"every user of this machine can replace files in {folder}: run `chmod o-w {_quoted(folder)}`"
        )


def private_folder(path: Path) -> None:
    """Make a folder for its owner only, or close a found one to all but its owner and its group.

    Raises:
        SettingsError: When it is a link or no folder, when it is open to everybody's files, on purpose as it
            seems, or when it is open and somebody else's.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        path.chmod(0o700)  # the umask may have kept out its owner, too
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise SettingsError(f"{path} is a link or no folder: it has to be a folder") from None
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & stat.S_IWOTH:
            raise _open_to_all(path)
        if mode & stat.S_IRWXO:
            os.fchmod(descriptor, mode & ~stat.S_IRWXO)
    except PermissionError:
        raise _open_to_all(path) from None
    finally:
        os.close(descriptor)


def make_private(path: Path) -> None:
    """Close a file to others where that may be done; a link, or a file of several names, stays as it is."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)


def _open_to_all(path: Path) -> SettingsError:
    return SettingsError(f"{path} is open to every user of this machine: run `chmod o= {_quoted(path)}`")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _user(number: int) -> str:
    try:
        return getpwuid(number).pw_name
    except KeyError:
        return str(number)
