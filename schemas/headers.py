"""Find the four fields in the header of a CSV, by the names that common exports use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from schemas.bounds import DEFAULT_BOUNDS, Bounds
from schemas.labels import printable

FIELDS = ("email", "password", "name", "totpsecret")

# Normalised: lower case, without spaces, underscores and hyphens. Of several optional columns the first of
# these names is used.
KNOWN_HEADERS = {
    "email": (
        *("email", "emailaddress", "mail", "mailaddress", "userprincipalname", "upn", "primarysmtpaddress"),
        *("fromemail", "senderemail", "accountemail", "primaryemail", "workemail"),
    ),
    "password": (
        *("password", "apppassword", "pass", "pwd", "passwd", "loginpassword", "smtppassword"),
        *("imappassword", "emailpassword", "mailpassword", "accountpassword"),
    ),
    "name": ("displayname", "fullname", "fromname", "sendername", "name"),
    "totpsecret": (
        *("totpsecret", "totp", "2fasecret", "otpsecret", "logintotp", "otpauth", "otpauthuri", "totpuri"),
        "otp",
    ),
}
FIELD_OF_HEADER = {header: field for field, headers in KNOWN_HEADERS.items() for header in headers}
# They may hold addresses, or other sign-in names.
USER_NAMES = {
    *("username", "loginusername", "login", "loginname", "user", "userid"),
    *("smtpusername", "imapusername"),
}
# With one of these columns a file comes from a password manager, and its `name` is the name of a site.
SITE_ADDRESSES = {"url", "uri", "loginuri", "website", "hostname", "origin", "formactionorigin"}
_HELD = {"email": "addresses", "password": "passwords"}

LONGEST_SHOWN_HEADER = 40


@dataclass(frozen=True)
class Columns:
    """The columns of a file.

    Attributes:
        position: Field name → 0-based column. Has email and password unless there are too many columns.
        width: Number of cells in the header.
        ignored: Headers of the columns that are not used, shortened for display.
        fault: Why the file is refused, or "": two columns have one name or disagree, or there are too many.
    """

    position: dict[str, int]
    width: int
    ignored: tuple[str, ...]
    fault: str = ""


# What programs add to a name: marks of required columns, and characters that are not visible.
_DECORATION = re.compile(
    r"\[required\]|\(required\)|[\s_\-*\u2010-\u2015\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+",
    re.IGNORECASE,
)


def normalise(header: str) -> str:
    """Reduce a header to the form that is compared: `E-Mail Address` and `email_address` become equal."""
    return _DECORATION.sub("", header).casefold()


def is_header(cells: Iterable[str]) -> bool:
    """Whether a row names a password column and one for the addresses."""
    names = {normalise(cell) for cell in cells}
    addresses = names & {*KNOWN_HEADERS["email"], *USER_NAMES}
    return bool(addresses and names & {*KNOWN_HEADERS["password"]})


def find_columns(
    header: Sequence[str],
    rows: Callable[[], Sequence[tuple[int, Sequence[str]]]],
    bounds: Bounds = DEFAULT_BOUNDS,
) -> Columns | None:
    """Find the fields in a header row.

    Args:
        header: The cells of the header row.
        rows: Returns the other rows, each with its line. Called only if a `user name` column may contain
            addresses, or if two columns have the same meaning.
        bounds: The maximum number of columns. A header that has more is not looked into.

    Returns:
        The columns, or None if there is no email or no password column.
    """
    if len(header) > bounds.columns:
        return Columns({}, len(header), (), bounds.too_many_columns)
    names = [normalise(cell) for cell in header]
    claims: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        if name in FIELD_OF_HEADER and not (name == "name" and SITE_ADDRESSES & set(names)):
            claims.setdefault(FIELD_OF_HEADER[name], []).append(at)
    if "password" not in claims:
        return None
    user_names = [at for at, name in enumerate(names) if name in USER_NAMES]
    emails = claims.get("email", []) + [at for at in user_names if _mostly_addresses(rows(), at)]
    if not emails:
        return None
    claims["email"] = emails
    fault = _same_names(header, names, claims) or next(
        filter(None, (_disagreement(header, rows, claims[field], field) for field in _HELD)), ""
    )
    position = {field: _chosen(names, places, rows, field) for field, places in claims.items()}
    # A column that agrees with the chosen one is used as well: nothing of it is lost.
    used = {at for field in _HELD for at in claims[field]} | set(position.values())
    return Columns(
        position=position,
        width=len(header),
        ignored=tuple(shown(cell) for at, cell in enumerate(header) if at not in used and cell.strip()),
        fault=fault,
    )


def _cell(cells: Sequence[str], at: int) -> str:
    return cells[at].strip() if at < len(cells) else ""


def _mostly_addresses(rows: Sequence[tuple[int, Sequence[str]]], at: int) -> bool:
    """Whether most values of a column are addresses. An `@` is enough here: a mistyped one fails its row."""
    values = [value for _, cells in rows if (value := _cell(cells, at))]
    return bool(values) and sum("@" in value for value in values) * 2 >= len(values)


def _same_names(header: Sequence[str], names: Sequence[str], claims: dict[str, list[int]]) -> str:
    """A fault if two columns of one field have the same name; two unused ones are none of our business."""
    for places in claims.values():
        for first, second in pairwise(places):
            if names[first] == names[second]:
                return f"Two columns are named “{shown(header[second])}”: rename or remove one of them"
    return ""


def _disagreement(
    header: Sequence[str],
    rows: Callable[[], Sequence[tuple[int, Sequence[str]]]],
    places: Sequence[int],
    field: str,
) -> str:
    """A fault that names the first line on which two columns of a required field differ."""
    for at in places[1:]:
        for line, cells in rows():
            first, second = _cell(cells, places[0]), _cell(cells, at)
            same = first.casefold() == second.casefold() if field == "email" else first == second
            if first and second and not same:
                named = f"“{shown(header[places[0]])}” and “{shown(header[at])}”"
                return f"Line {line}: columns {named} hold different {_HELD[field]}: remove one of them"
    return ""


def _chosen(
    names: Sequence[str],
    places: Sequence[int],
    rows: Callable[[], Sequence[tuple[int, Sequence[str]]]],
    field: str,
) -> int:
    """The column to use: of a required field the one that is filled most, else the best known name."""
    if len(places) == 1:
        return places[0]
    if field in _HELD:
        return max(places, key=lambda at: sum(bool(_cell(cells, at)) for _, cells in rows()))
    return min(places, key=lambda at: KNOWN_HEADERS[field].index(names[at]))


def shown(header: str) -> str:
    """A header on one line, printable and shortened for display."""
    line = " ".join(printable(header).split())
    return line if len(line) <= LONGEST_SHOWN_HEADER else line[: LONGEST_SHOWN_HEADER - 1] + "…"
