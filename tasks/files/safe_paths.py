"""Folders that no path may lead out of: neither by `..` nor by a link, not even one put there meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Where there is O_PATH, a folder that may only be passed through can be opened too.
_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)


class OutsideError(Exception):
    """A path leads out of the folders that it has to stay in."""

    def __init__(self) -> None:
        super().__init__("The path lies outside the folders of OUTLOOK_IMPORT_IMPORT_FOLDERS")


@contextmanager
def folder_of(path: Path, within: Sequence[Path] | None = None) -> Iterator[tuple[int, str]]:
    """Open the folder of a path; yields its descriptor, and the path's last name, which may be a link still.

    Args:
        within: Folders of which one has to hold it; None for any place.

    Raises:
        OutsideError: When none of them does.
        OSError: When a folder cannot be opened.
    """
    folder = _real(path.parent)
    roots = [folder] if within is None else map(_real, within)
    root = next((root for root in roots if folder.is_relative_to(root)), None)
    if root is None or path.name == "..":
        raise OutsideError
    with ExitStack() as opened:
        descriptor = os.open(root, _FOLDER)
        opened.callback(os.close, descriptor)
        # The links are resolved by now: one that is met here was put there since.
        for name in folder.relative_to(root).parts:
            descriptor = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
            opened.callback(os.close, descriptor)
        yield descriptor, path.name


def open_to_read(path: Path, within: Sequence[Path] | None = None) -> int:
    """Open whatever lies at a path, without waiting for it; raises what `folder_of` does.

    Outside `within` nothing is opened, whatever is put in the path's way meanwhile.
    """
    # Opening a pipe that nobody writes to would wait for ever, and a terminal would become ours.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    if within is None:
        return os.open(path, flags)
    with folder_of(_real(path), within) as (folder, name):
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve() raises RuntimeError at a loop of links
