"""The base class of whatever holds unsealed secrets."""

from __future__ import annotations

from typing import NoReturn


class Plaintext:
    """Base of what holds unsealed secrets: it cannot be printed, logged or persisted by accident."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: not shown>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds passwords and is never pickled")
