"""The base class for objects that hold unsealed secrets."""

from __future__ import annotations

from typing import NoReturn


class Plaintext:
    """Base class for objects that hold unsealed secrets: you cannot print, log or pickle them by accident.

    Raises:
        TypeError: When an instance is pickled.
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: not shown>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds passwords and cannot be pickled")
