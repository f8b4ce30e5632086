"""Text for users and from users: counts with nouns, and the names of tags and workspaces."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

LONGEST_LABEL = 100
DEFAULT_WORKSPACE = "default"
LABEL_PATTERN = r"^\w[\w .@+-]*$"
LABEL_RULE = "use at most 100 letters, digits, spaces and . @ + - _, starting with a letter or digit"

Label = Annotated[str, Field(min_length=1, max_length=LONGEST_LABEL, pattern=LABEL_PATTERN)]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, such as “1 row” or “2 rows”; the plural defaults to the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    """A text in which nothing steers a terminal: each control character becomes a space."""
    return "".join(char if char.isprintable() else " " for char in text)


def shortened(text: str, longest: int = 500) -> str:
    """A text on one line without control characters, of at most so many characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def is_label(text: str) -> bool:
    """Whether a text may be the name of a tag or a workspace; see `LABEL_RULE`."""
    return len(text) <= LONGEST_LABEL and re.fullmatch(LABEL_PATTERN, text) is not None
