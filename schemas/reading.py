"""How to read a file where the file itself leaves it open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from schemas.headers import FIELDS, normalise, shown
from schemas.refusals import Refusal


@dataclass(frozen=True)
class Reading:
    """The choices of the person who imports a file.

    Attributes:
        encoding: Name of the text encoding to use instead of UTF-8. A byte order mark takes precedence.
        columns: Field → header of its column, for files whose header leaves it open.
        trim: Whether to remove spaces around passwords.
    """

    encoding: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    trim: bool = False


AS_IT_IS = Reading()


def parse_columns(choices: Iterable[str]) -> dict[str, str] | Refusal:
    """Parse choices of columns, each `FIELD=HEADER` such as `email=Login`.

    Returns:
        Field → header, or a refusal if a field is unknown or something is chosen twice.
    """
    found: dict[str, str] = {}
    for choice in choices:
        name, equals, header = (part.strip() for part in choice.partition("="))
        if name not in FIELDS or not equals or not header:
            return Refusal(
                f"Column choice “{shown(choice)}” is not FIELD=HEADER", f"FIELD is one of {', '.join(FIELDS)}"
            )
        if name in found:
            return Refusal(f"Column choice: {name} is chosen twice")
        found[name] = header
    if len({normalise(header) for header in found.values()}) < len(found):
        return Refusal("Column choice: one column is chosen for two fields")
    return found
