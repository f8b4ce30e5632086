"""Words for people and by people: counts, and the names of tags and workspaces."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

LONGEST_LABEL = 100
DEFAULT_WORKSPACE = "default"
LABEL_PATTERN = r"^\w[\w .@+-]*$"
LABEL_RULE = "use letters, digits, spaces and . @ + - _, 100 at most, a letter or digit first"

Label = Annotated[str, Field(min_length=1, max_length=LONGEST_LABEL, pattern=LABEL_PATTERN)]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, as in “1 row” and “2 rows”."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def is_label(text: str) -> bool:
    return len(text) <= LONGEST_LABEL and re.fullmatch(LABEL_PATTERN, text) is not None
