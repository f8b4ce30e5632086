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
APP_PASSWORD_IN_GROUPS = re.compile(r"[a-z]{4}(?: [a-z]{4}){3}")
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


# A longer cell fails its row whatever is cleaned, and some of the expressions take the square of its length.
LONGEST_CLEANED = 1000

ADDRESS_CLEANED = "Characters around the address were removed"
FORMULA_UNWRAPPED = 'Password was inside ="…": the text between the quotes was imported'

EDGE_SPACE = "Password begins or ends with a space: imported unchanged"
# UTF-8 read as cp1252: `ü` becomes `Ã¼`, `€` becomes `â‚¬`, an emoji begins with `ðŸ`, and `п` becomes `Ð¿`.
_MISREAD = re.compile(
    r"[\u00c2\u00c3\u00d0\u00d1]"
    r"[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
    r"|\u00e2[\u0080-\u0084\u20ac\u201a\u201e]|\u00f0[\u0178\u009f]"
)
# Possible damage: the password is kept, and the warning names the kind.
_SUSPICIONS = (
    (_MISREAD, "Password looks like text read with the wrong encoding: imported unchanged"),
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
        re.compile(r"\A(?:true|false|null|none|nan|n/a|undefined)\Z", re.IGNORECASE),
        "Password is a word that programs write for a value or for none: imported unchanged",
    ),
    (
        re.compile(r"\A(?:x{4,}|[<[(][a-z ]+[>\])]|System\.Security\.SecureString)\Z", re.IGNORECASE),
        "Password looks like a word in place of the password: imported unchanged",
    ),
    (
        re.compile(
            r"\A(?:\$(?:1|2[abxy]|5|6|y|argon2id?)\$.+|\{[A-Z0-9-]{3,12}\}[\w+/=$.]{16,}"
            r"|01000000d08c9ddf[0-9a-f]+|[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})\Z"
        ),
        "Password looks like a hash or an encrypted value, not the password: imported unchanged",
    ),
    (re.compile(r"(?:…|\.\.\.)\Z"), "Password ends with …, as if it was cut: imported unchanged"),
    (re.compile(r'\A".*"\Z'), "Password is between quotation marks: imported unchanged"),
    (re.compile(r"\A'"), "Password begins with an apostrophe, as spreadsheets mark text: imported unchanged"),
    (
        re.compile(r"\A[a-z]{4}(?:[-\u2010-\u2015][a-z]{4}){3}\Z"),
        "Password looks like an app password with hyphens: imported unchanged",
    ),
    (
        re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d+|#x[0-9a-f]+);", re.IGNORECASE),
        "Password contains an HTML code such as &amp;: imported unchanged",
    ),
    (
        re.compile(r"\\u[0-9a-fA-F]{4}"),
        "Password contains a code such as \\u00fc: imported unchanged",
    ),
    (
        re.compile(r"\A[A-Za-z]{4}(?: [A-Za-z]{4}){3}\Z"),
        "Password looks like an app password with capital letters: imported unchanged",
    ),
    (
        re.compile(r"[\u0300-\u036f]"),
        "Password contains an accent as a character of its own, as macOS writes it: imported unchanged",
    ),
)


def damage_of(password: str) -> Damage | None:
    """Find out whether a cell surely holds no password."""
    text = password.strip()
    if text and re.fullmatch(r"[•●○⬤∙·◦▪∗⁎＊✱*]{3,}", text):
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
    if len(cell) > LONGEST_CLEANED:
        return Cell(cell)
    bare = _EDGES.sub("", cell)
    if _GROUPS.fullmatch(bare):
        return Cell("".join(re.findall(r"[a-z]", bare)))
    if wrapped := _FORMULA.fullmatch(cell.strip()):
        return Cell(wrapped[1], FORMULA_UNWRAPPED)
    for pattern, warning in _SUSPICIONS:
        if pattern.search(cell):
            return Cell(cell, warning)
    return Cell(cell)


_TAG = re.compile(r"</?[a-z]+(?:\s[^<>]*)?/?>", re.IGNORECASE)
# `Ann Bell <ann@contoso.com>`, and the same in other brackets. No other part may be an address.
_IN_BRACKETS = re.compile(r"[^@]*[<(\[{]\s*([^\s@<>()\[\]{}]+@[^\s@<>()\[\]{}]+)\s*[>)\]}][^@]*")
_COMMENT = re.compile(r"\s+\([^()@]*\)\Z")
_PREFIX = re.compile(r"(mailto|smtp|sip|e-?mail):\s*", re.IGNORECASE)
# Links as spreadsheets and Markdown write them; the text has to be the address of the link.
_LINKS = (
    re.compile(r'=HYPERLINK\("(?:mailto:)?([^"]+)"[,;]"\1"\)', re.IGNORECASE),
    re.compile(r"\[([^\[\]]+)\]\((?:mailto:)?\1\)", re.IGNORECASE),
)
# Quotation marks, brackets, bullets and punctuation. `{`, `|` and a backquote may begin an address, so they
# are removed only behind it.
_BEFORE = re.compile(r"""\A[\s'"“”„‟‘’‚‛«»‹›<>()\[\];,:•·\\]+""")
_BEHIND = re.compile(r"""[\s'"`´“”„‟‘’‚‛«»‹›<>()\[\]{}|;,:•·\\./]+\Z""")
# How keyboards for Chinese and Japanese write the signs of an address.
_WIDE = str.maketrans("＠﹫．。｡", "@@...")


def clean_email(cell: str) -> Cell:
    """Reduce `mailto:`, a link, a tag, `Name <address>` and punctuation around it to the address."""
    plain = cell.strip()
    if len(plain) > LONGEST_CLEANED:
        return Cell(plain)
    visible = re.sub(rf"[{_INVISIBLE}]", "", plain).strip()
    if "@" not in (text := visible.translate(_WIDE)):
        return Cell(visible, ADDRESS_CLEANED if visible != plain else "")
    for pattern in _LINKS:
        if found := pattern.fullmatch(text):
            text = found[1].strip()
    text = _TAG.sub("", text).strip()
    if found := _IN_BRACKETS.fullmatch(text):
        text = found[1]
    text = _BEFORE.sub("", _COMMENT.sub("", text))
    if found := _PREFIX.match(text):
        text = text[found.end() :]
        # The fields of a link, such as its subject.
        text = text.partition("?")[0].replace("%20", " ") if found[1].casefold() == "mailto" else text
    if text.startswith("`") and text.endswith("`"):
        text = text.strip("`")
    text = _BEHIND.sub("", _BEFORE.sub("", text))
    return Cell(text, ADDRESS_CLEANED if text != plain else "")


_NO_VALUES = {"n/a", "na", "-", "–", "none", "null", "nil", "#n/a"}


def is_misread(text: str) -> bool:
    """Whether a text looks like UTF-8 that a program has read with another encoding."""
    return _MISREAD.search(text) is not None


def blank(cell: str) -> str:
    """A cell of an optional column, with "" for the words that stand for no value."""
    return "" if cell.strip().casefold() in _NO_VALUES else cell
