"""Cells that a program has changed on the way: repaired where that is proven, else failed or warned of.

A password is kept to the byte unless its shape proves what was added. Sources: reports of exports from Excel,
web pages, PDF files, chat programs and password managers.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

# Zero-width and directional characters, soft hyphens and byte order marks: no keyboard types them.
_INVISIBLE = "\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
_EDGES = re.compile(rf"\A[\s{_INVISIBLE}]+|[\s{_INVISIBLE}]+\Z")
# Microsoft shows an app password as four groups of four letters; the spaces are not part of it.
_GROUPS = re.compile(rf"[a-z]{{4}}(?:[\s{_INVISIBLE}]+[a-z]{{4}}){{3}}|[a-z]{{16}}")
# What may be an app password, in any case, where the cell is only suspected to hold one.
LIKE_AN_APP_PASSWORD = re.compile(r"[a-z]{16}|[a-z]{4}( [a-z]{4}){3}", re.IGNORECASE)
_FORMULA = re.compile(r'="([^"]*)"')


class Damage(StrEnum):
    """What surely is no password any more. The value is the name of the row check."""

    MASKED = "masked_password"
    SPREADSHEET_ERROR = "spreadsheet_error"
    LOST_CHARACTERS = "lost_characters"


class Cell(NamedTuple):
    """A repaired cell, and a warning or ""."""

    text: str
    warning: str = ""


ADDRESS_CLEANED = "Characters around the address were removed"
FORMULA_UNWRAPPED = 'Password was inside ="…": the text between the quotes was imported'

EDGE_SPACE = "Password begins or ends with a space: imported unchanged"
# Possible damage: the password is kept, and the warning names the kind.
_SUSPICIONS = (
    (re.compile(rf"[{_INVISIBLE}]"), "Password contains invisible characters: imported unchanged"),
    (re.compile(r"[^\S ]"), "Password contains an unusual space: imported unchanged"),
    (re.compile(r"\A | \Z"), EDGE_SPACE),
    (
        re.compile(r"[\u2018\u2019\u201c\u201d\u201e]"),
        "Password contains typographic quotes: imported unchanged",
    ),
    (
        re.compile(r"\A[+-]?\d[.,]\d+E[+-]?\d+\Z", re.IGNORECASE),
        "Password looks like a number that a spreadsheet has shortened: imported unchanged",
    ),
    (
        re.compile(r"\A(?:true|false|null|none|nan|n/a)\Z", re.IGNORECASE),
        "Password is a word that programs write for a value or for none: imported unchanged",
    ),
    (re.compile(r"\A'"), "Password begins with an apostrophe, as spreadsheets mark text: imported unchanged"),
    (
        re.compile(r"\A[a-z]{4}(?:[-\u2010-\u2015][a-z]{4}){3}\Z"),
        "Password looks like an app password with hyphens: imported unchanged",
    ),
    (
        re.compile(r"&(?:amp|lt|gt|quot|apos|#\d+);"),
        "Password contains an HTML code such as &amp;: imported unchanged",
    ),
    (
        re.compile(
            r"[\u00c2\u00c3][\u0080-\u00bf\u2018-\u203a\u20ac\u0152\u0153\u0160\u0161\u0178\u017d\u017e]"
        ),
        "Password looks like text read with the wrong encoding: imported unchanged",
    ),
)


def damage_of(password: str) -> Damage | None:
    """Find out whether a cell surely holds no password."""
    text = password.strip()
    if text and re.fullmatch(r"[•●∙·◦▪*]{3,}", text):
        return Damage.MASKED
    if re.fullmatch(r"#(?:N/A|NAME\?|VALUE!|REF!|DIV/0!|NUM!|NULL!|SPILL!|CALC!|#+)", text, re.IGNORECASE):
        return Damage.SPREADSHEET_ERROR
    return Damage.LOST_CHARACTERS if "\ufffd" in text else None


def clean_password(cell: str, *, trim: bool = False) -> Cell:
    """Undo what its shape proves, and warn of what may be damage.

    Args:
        trim: Whether to remove spaces around the password first.
    """
    cell = cell.strip(" ") if trim else cell
    bare = _EDGES.sub("", cell)
    if _GROUPS.fullmatch(bare):
        return Cell("".join(re.findall(r"[a-z]", bare)))
    if wrapped := _FORMULA.fullmatch(cell.strip()):
        return Cell(wrapped[1], FORMULA_UNWRAPPED)
    for pattern, warning in _SUSPICIONS:
        if pattern.search(cell):
            return Cell(cell, warning)
    return Cell(cell)


_NAMED = re.compile(r"[^<>]*<([^<>]+)>")
_PREFIX = re.compile(r"(?:mailto|smtp):", re.IGNORECASE)
# Links as spreadsheets and Markdown write them; the text has to be the address of the link.
_LINKS = (
    re.compile(r'=HYPERLINK\("(?:mailto:)?([^"]+)"[,;]"\1"\)', re.IGNORECASE),
    re.compile(r"\[([^\[\]]+)\]\((?:mailto:)?\1\)", re.IGNORECASE),
)


def clean_email(cell: str) -> Cell:
    """Reduce `mailto:`, a link, `Name <address>` and trailing punctuation to the address."""
    plain = cell.strip()
    text = re.sub(rf"[{_INVISIBLE}]", "", plain).strip()
    for pattern in (*_LINKS, _NAMED):
        if found := pattern.fullmatch(text):
            text = found[1].strip()
    text = _PREFIX.sub("", text, count=1).lstrip("'").rstrip(";,./ ")
    return Cell(text, ADDRESS_CLEANED if text != plain else "")


_NO_VALUES = {"n/a", "na", "-", "–", "none", "null", "nil", "#n/a"}


def blank(cell: str) -> str:
    """A cell of an optional column, with "" for the words that stand for no value."""
    return "" if cell.strip().casefold() in _NO_VALUES else cell
