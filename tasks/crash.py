"""What a process with passwords leaves behind when something breaks: the kind and the place, and no word."""

from __future__ import annotations

import resource
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.sealing import UnsealError


class StepError(Exception):
    """A fault of this program amid passwords, as the kind and the place of what was raised."""


def leave_no_core_file() -> None:
    """Have this process, and whatever it starts, end without an image of its memory on disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def unquoted() -> Iterator[None]:
    """Let no exception out as it is: Prefect stores its text, and pickles the object, which may hold a cell.

    Raises:
        StepError: In the place of any other exception.
        UnsealError: As it is; its text is ours.
    """
    try:
        yield
    except UnsealError:
        raise
    except Exception as error:  # noqa: BLE001  the outermost edge of what holds passwords
        raise StepError(outline(error)) from None


def outline(error: BaseException) -> str:
    """What kind of exception, and where: never its text, which may quote what a caller sent."""
    if isinstance(error, StepError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    places = (f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__name__} at {' < '.join(reversed(list(places)))}"
