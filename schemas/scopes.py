"""What a key of the HTTP API may do."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Scope(StrEnum):
    """One kind of requests. No scope includes another."""

    READ = "read"
    IMPORT = "import"
    MANAGE = "manage"

    @property
    def missing(self) -> str:
        """The message for a key without this scope."""
        return f"This key lacks the scope “{self}”: create a key with `keys create --scope {self}`"


ALL_SCOPES = frozenset(Scope)


def written(scopes: Iterable[Scope]) -> str:
    """The scopes as they are stored: in their order, separated by commas."""
    chosen = set(scopes)
    return ",".join(scope for scope in Scope if scope in chosen)


def read_scopes(text: str) -> frozenset[Scope]:
    """The scopes that `written` wrote. Unknown ones, of a newer version, grant nothing."""
    names = text.split(",")
    return frozenset(scope for scope in Scope if scope in names)
