"""Keep paths inside allowed folders: neither `..` nor a link leads out, even one created during a check."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

# O_PATH, where it exists, also opens folders that this process can traverse but not read.
_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)


class OutsideError(Exception):
    """A path is outside the allowed folders."""

    def __init__(self) -> None:
        super().__init__("The path is outside the folders in OUTLOOK_IMPORT_IMPORT_FOLDERS")


@contextmanager
def folder_of(path: Path, within: Sequence[Path] | None = None) -> Iterator[tuple[int, str]]:
    """Open the folder that contains a path.

    Args:
        within: Folders that may contain it; None for any folder.

    Yields:
        The descriptor of the folder, and the last part of the path, which may still be a link.

    Raises:
        OutsideError: If the path is outside these folders.
        OSError: If a folder cannot be opened.
    """
    folder = _real(path.parent)
    roots = [folder] if within is None else map(_real, within)
    root = next((root for root in roots if folder.is_relative_to(root)), None)
    if root is None or path.name == "..":
        raise OutsideError
    with ExitStack() as opened:
        descriptor = os.open(root, _FOLDER)
        opened.callback(os.close, descriptor)
        # Links are already resolved, so a link found here was created in the meantime.
        for name in folder.relative_to(root).parts:
            descriptor = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
            opened.callback(os.close, descriptor)
        yield descriptor, path.name


def open_to_read(path: Path, within: Sequence[Path] | None = None) -> int:
    """Open a path for reading, without blocking. Never opens a path outside `within`.

    Args:
        within: Folders that may contain the path after links are resolved; None for any folder.

    Returns:
        A file descriptor, which the caller closes.

    Raises:
        OutsideError: If the path is outside these folders.
        OSError: If it cannot be opened.
    """
    # Otherwise a pipe without a writer would block, and a terminal would become the controlling terminal.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    if within is None:
        return os.open(path, flags)
    with folder_of(_real(path), within) as (folder, name):
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve() raises RuntimeError for a loop of links
