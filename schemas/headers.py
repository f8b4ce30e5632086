"""Which column of a CSV means what: the names that the usual exports give to the four fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

FIELDS = ("email", "password", "name", "totpsecret")

# In normalised form: lower case, without spaces, underscores and hyphens.
KNOWN_HEADERS = {
    "email": ("email", "emailaddress", "mail", "mailaddress", "userprincipalname", "upn"),
    "password": ("password", "apppassword", "pass", "pwd"),
    "name": ("name", "displayname", "fullname"),
    "totpsecret": ("totpsecret", "totp", "2fasecret", "otpsecret"),
}
FIELD_OF_HEADER = {header: field for field, headers in KNOWN_HEADERS.items() for header in headers}

# Outlook's own exports have about 90; a million of them would be a million columns in memory.
MOST_COLUMNS = 1000

LONGEST_SHOWN_HEADER = 40


@dataclass(frozen=True)
class Columns:
    """Where the fields stand in a file.

    Attributes:
        position: Field name → 0-based column; holds email and password at least.
        width: Number of cells in the header.
        ignored: Headers that mean nothing here, shortened for display.
        fault: One sentence when two columns share a name or a meaning, or when there are far too many
            columns; the file is then refused.
    """

    position: dict[str, int]
    width: int
    ignored: tuple[str, ...]
    fault: str = ""


def normalise(header: str) -> str:
    """Reduce a header to what is compared: `E-Mail Address` and `email_address` are one."""
    return re.sub(r"[\s_\-\u2010-\u2015\ufeff]+", "", header).casefold()


def find_columns(header: Sequence[str], values_of: Callable[[int], list[str]]) -> Columns | None:
    """Match a header row; None when it has no email or no password column.

    Args:
        header: The cells of the header row.
        values_of: Gives all values of one column; asked only to find out whether a bare `user name`
            column holds addresses.
    """
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
    """Claim a bare `user name` column whose values are all addresses.

    An `@` is enough here: a slip in one address is a fault of its row and not of the whole file.
    """
    places = [at for at, name in enumerate(names) if name == "username"]
    if len(places) != 1:
        return {}
    values = [value for value in values_of(places[0]) if value.strip()]
    return {"email": places} if values and all("@" in value for value in values) else {}


def _fault(header: Sequence[str], names: list[str], claims: dict[str, list[int]]) -> str:
    if len(header) > MOST_COLUMNS:
        return f"CSV file has more than {MOST_COLUMNS:,} columns: remove those that are not needed"
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
    """A header as one short printable line."""
    line = " ".join("".join(char if char.isprintable() else " " for char in header).split())
    return line if len(line) <= LONGEST_SHOWN_HEADER else line[: LONGEST_SHOWN_HEADER - 1] + "…"
