"""Text as literals of PowerShell."""

from __future__ import annotations

import re

from schemas.labels import printable

# PowerShell takes all of these for a single quote.
_QUOTES = re.compile("['\u2018\u2019\u201a\u201b]")


def literal(text: str) -> str:
    """A PowerShell string literal in single quotes, in which nothing is expanded.

    Control characters become spaces, so that the literal stays on its line.
    """
    return "'" + _QUOTES.sub(r"\g<0>\g<0>", printable(text)) + "'"
