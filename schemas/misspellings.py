"""Misspelled forms of Microsoft's consumer domains, such as hotmial.com and outlook.con."""

from __future__ import annotations

import re
from collections.abc import Iterator

from schemas.providers import COUNTRY_FORM

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-"


def _one_edit_away(word: str) -> Iterator[str]:
    """All words that differ by one inserted, removed, replaced or transposed character."""
    for at in range(len(word) + 1):
        before, after = word[:at], word[at:]
        yield from (before + letter + after for letter in _LETTERS)
        if after:
            yield before + after[1:]
            yield from (before + letter + after[1:] for letter in _LETTERS)
        if len(after) > 1:
            yield before + after[1] + after[0] + after[2:]


def _transposed_or_doubled(word: str) -> Iterator[str]:
    for at in range(len(word)):
        yield word[: at + 1] + word[at:]
        yield word[:at] + word[at : at + 2][::-1] + word[at + 2 :]


# One edit away from “live” and “msn” are words and companies (love, five, olive). For these two, only slips
# that make no word count.
_INTENDED_LABEL = {
    **dict.fromkeys(_transposed_or_doubled("live"), "live"),
    **{typo: label for label in ("outlook", "hotmail", "windowslive") for typo in _one_edit_away(label)},
    **{label: label for label in ("outlook", "hotmail", "live", "msn", "windowslive")},
}
# .cam is a top-level domain that people use. .co, .cm and .om are too, but Microsoft has no mailboxes there.
_MISSPELLED_COM = set(_one_edit_away("com")) - {"com", "cam"}


def intended_domain(domain: str) -> str | None:
    """The consumer domain of Microsoft's that a misspelled domain probably means.

    Args:
        domain: The domain of an address, case-folded ASCII.

    Returns:
        The probable domain; None if the domain is correct, or not like one of Microsoft's.

    Example:
        >>> intended_domain("hotmial.com"), intended_domain("outlook.con"), intended_domain("hotmail.co.uk")
        ('hotmail.com', 'outlook.com', None)
    """
    label, _, suffix = domain.partition(".")
    intended = _INTENDED_LABEL.get(label)
    if intended is None:
        return None
    if suffix in _MISSPELLED_COM:
        return f"{intended}.com"
    if intended != label and re.fullmatch(COUNTRY_FORM, suffix):
        return f"{intended}.{suffix}"
    return None
