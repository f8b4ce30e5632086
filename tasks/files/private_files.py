"""Files and folders that other users of the machine cannot access, regardless of the umask.

New files and folders are created private. If an existing one is open, an error names the command that closes
it. A folder that others can only read, as `mkdir` creates it, is closed without an error.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from pwd import getpwuid

from schemas.settings import SettingsError
from tasks.files.safe_paths import folder_of, open_to_read

LONGEST_SECRET_FILE = 64 * 1024


def write_privately(path: Path, data: bytes, within: Sequence[Path] | None = None) -> None:
    """Write a file that only its owner can read. The write is atomic. A link at the path is replaced.

    Args:
        within: Folders that may contain the file; None for any folder.

    Raises:
        OutsideError: If the file is outside these folders.
        OSError: If it cannot be written.
    """
    with folder_of(path, within) as (folder, name):
        draft = f".{name}.tmp"
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)  # left by a run that was killed
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


def write_folder(place: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder that is new or empty: all of them or, after a fault, none.

    Args:
        files: Content by path in the folder.

    Raises:
        SettingsError: If the folder is a link, or open to other users.
        OSError: If it cannot be written.
    """
    with ExitStack() as undo:
        for name, content in files.items():
            path = place / name
            for folder in reversed([path.parent, *path.parent.parents][: len(Path(name).parts)]):
                if not folder.exists():
                    undo.callback(_remove, folder)
                private_folder(folder)
            undo.callback(_remove, path)
            write_privately(path, content)
        undo.pop_all()


def _remove(path: Path) -> None:
    with suppress(OSError):  # it was not made, or another program has put something into it
        path.rmdir() if path.is_dir() else path.unlink()


def read_secret_file(path: Path) -> str:
    """Read a file of keys or passwords, with � for bytes that are not UTF-8.

    Raises:
        SettingsError: If it is not a regular file, or another user owns it or can access it.
        OSError: If it cannot be read.
    """
    descriptor = open_to_read(path)
    try:
        status = os.fstat(descriptor)  # of the open file, because the path may have changed
        if not stat.S_ISREG(status.st_mode):
            raise SettingsError(f"{path} is not a regular file")
        if status.st_uid not in (os.geteuid(), 0):
            raise SettingsError(
                f"{path} belongs to user {_user(status.st_uid)}: run the program as that user, or run "
                f"`chown {_user(os.geteuid())} {_quoted(path)}`"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise SettingsError(
                f"{path} is open to other users of this machine: run `chmod 600 {_quoted(path)}`, and "
                "change the secret in it if another user may have read it"
            )
        return os.read(descriptor, LONGEST_SECRET_FILE).decode(errors="replace")
    finally:
        os.close(descriptor)


def refuse_open_database(path: Path) -> None:
    """Check that only the owner and the group of an SQLite database can access it.

    Raises:
        SettingsError: If every user can access or replace one of its files, or one is not a regular file.
    """
    refuse_open_to_change(path.parent)
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with suppress(FileNotFoundError):
            mode = file.stat().st_mode
            if not stat.S_ISREG(mode):
                raise SettingsError(f"{file} is not a regular file")
            if mode & stat.S_IRWXO:
                raise _open_to_all(file)


def refuse_open_to_change(folder: Path) -> None:
    """Check that other users cannot replace files in a folder.

    Raises:
        SettingsError: If every user can.
    """
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise SettingsError(
            f"every user of this machine can replace files in {folder}: run `chmod o-w {_quoted(folder)}`"
        )


def private_folder(path: Path) -> None:
    """Create a folder that only its owner can access, or close an existing one to all but owner and group.

    Raises:
        SettingsError: If it is a link or not a folder, if every user can write to it (which looks
            intentional), or if it is open and belongs to another user.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        path.chmod(0o700)  # the umask may exclude even the owner
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise SettingsError(f"{path} must be a folder, not a link or a file") from None
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
    """Close a file to other users, if possible. A link or a file with several hard links is not changed."""
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
