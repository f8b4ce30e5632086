"""Keep passwords out of core files and exceptions: an error shows its type and place, but never its text."""

from __future__ import annotations

import resource
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.sealing import UnsealError


class StepError(Exception):
    """A fault in code that handles passwords. The text is the type and place of the original exception."""


def leave_no_core_file() -> None:
    """Turn off core files for this process and its children, because they contain passwords."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def unquoted() -> Iterator[None]:
    """Replace exceptions, because Prefect stores their text and pickles them, and both may contain a cell.

    Raises:
        StepError: Instead of any other exception.
        UnsealError: Unchanged, because its text is safe.
    """
    try:
        yield
    except UnsealError:
        raise
    except Exception as error:  # noqa: BLE001  the outermost edge of code that handles passwords
        raise StepError(outline(error)) from None


def outline(error: BaseException) -> str:
    """The type of an exception and where it was raised, without its text, which may quote user input."""
    if isinstance(error, StepError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    places = (f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__name__} at {' < '.join(reversed(list(places)))}"
