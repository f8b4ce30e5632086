"""Find the four fields in the header of a CSV, by the names that common exports use."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from schemas.bounds import DEFAULT_BOUNDS, Bounds
from schemas.labels import printable

FIELDS = ("email", "password", "name", "totpsecret")

# Normalised: lower case, without spaces, underscores and hyphens.
KNOWN_HEADERS = {
    "email": ("email", "emailaddress", "mail", "mailaddress", "userprincipalname", "upn"),
    "password": ("password", "apppassword", "pass", "pwd"),
    "name": ("name", "displayname", "fullname"),
    "totpsecret": ("totpsecret", "totp", "2fasecret", "otpsecret"),
}
FIELD_OF_HEADER = {header: field for field, headers in KNOWN_HEADERS.items() for header in headers}

LONGEST_SHOWN_HEADER = 40


@dataclass(frozen=True)
class Columns:
    """The columns of a file.

    Attributes:
        position: Field name → 0-based column. Has email and password unless there are too many columns.
        width: Number of cells in the header.
        ignored: Headers of the columns that are not used, shortened for display.
        fault: Why the file is refused, or "": two columns have the same name or meaning, or there are too
            many columns.
    """

    position: dict[str, int]
    width: int
    ignored: tuple[str, ...]
    fault: str = ""


def normalise(header: str) -> str:
    """Reduce a header to the form that is compared: `E-Mail Address` and `email_address` become equal."""
    return re.sub(r"[\s_\-\u2010-\u2015\ufeff]+", "", header).casefold()


def find_columns(
    header: Sequence[str], values_of: Callable[[int], list[str]], bounds: Bounds = DEFAULT_BOUNDS
) -> Columns | None:
    """Find the fields in a header row.

    Args:
        header: The cells of the header row.
        values_of: Returns all values of a column, given its 0-based position. Called only to find out
            whether a `user name` column contains addresses.
        bounds: The maximum number of columns. A header that has more is not looked into.

    Returns:
        The columns, or None if there is no email or no password column.
    """
    if len(header) > bounds.columns:
        return Columns({}, len(header), (), bounds.too_many_columns)
    names = [normalise(cell) for cell in header]
    claims: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        if name in FIELD_OF_HEADER:
            claims.setdefault(FIELD_OF_HEADER[name], []).append(at)
    if "email" not in claims and "password" in claims:
        claims.update(_user_name_as_email(names, values_of))
    if "email" not in claims or "password" not in claims:
        return None
    used = {at for places in claims.values() for at in places}
    return Columns(
        position={field: places[0] for field, places in claims.items()},
        width=len(header),
        ignored=tuple(shown(cell) for at, cell in enumerate(header) if at not in used and cell.strip()),
        fault=_fault(header, names, claims),
    )


def _user_name_as_email(names: list[str], values_of: Callable[[int], list[str]]) -> dict[str, list[int]]:
    """Use a `user name` column for the email addresses if all of its values are addresses.

    An `@` is enough here, so that one mistyped address fails its row and not the whole file.
    """
    places = [at for at, name in enumerate(names) if name == "username"]
    if len(places) != 1:
        return {}
    values = [value for value in values_of(places[0]) if value.strip()]
    return {"email": places} if values and all("@" in value for value in values) else {}


def _fault(header: Sequence[str], names: list[str], claims: dict[str, list[int]]) -> str:
    seen: set[str] = set()
    for at, name in enumerate(names):
        if name in seen:
            return f"Two columns are named “{shown(header[at])}”: rename or remove one of them"
        if name:
            seen.add(name)
    for field, places in claims.items():
        if len(places) > 1:
            first, second = (shown(header[at]) for at in places[:2])
            return f"Columns “{first}” and “{second}” both mean {field}: rename or remove one of them"
    return ""


def shown(header: str) -> str:
    """A header on one line, printable and shortened for display."""
    line = " ".join(printable(header).split())
    return line if len(line) <= LONGEST_SHOWN_HEADER else line[: LONGEST_SHOWN_HEADER - 1] + "…"
