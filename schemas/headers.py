"""Find the fields in the header of a file, by the names that common exports use or by a person's choice."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from types import MappingProxyType
from typing import TypeAlias

from schemas.bounds import DEFAULT_BOUNDS, Bounds
from schemas.damage import LIKE_AN_APP_PASSWORD
from schemas.labels import shortened
from schemas.refusals import COLUMNS_REQUIRED, Refusal

FIELDS = ("email", "password", "name", "totpsecret", "login")
# Half of a name: the first and the last name are joined if there is no column with both.
SURNAME = "surname"

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
    "login": ("signinname", "signin"),
}
FIRST_NAMES = ("firstname", "givenname", "first")
LAST_NAMES = ("lastname", "surname", "familyname", "last")
FIELD_OF_HEADER = {header: field for field, headers in KNOWN_HEADERS.items() for header in headers}
# They may hold addresses, or other sign-in names.
USER_NAMES = {
    *("username", "loginusername", "login", "loginname", "user", "userid"),
    *("smtpusername", "imapusername"),
}
# With one of these columns a file comes from a password manager, and its `name` is the name of a site.
SITE_ADDRESSES = {"url", "uri", "loginuri", "website", "hostname", "origin", "formactionorigin"}
_HELD = {"email": "addresses", "password": "passwords"}
# The file of a Microsoft 365 migration: `UserName` is the sign-in name, which may differ from the address.
_MIGRATION = {"emailaddress", "username", "password", "userroot"}

NO_CHOICE: Mapping[str, str] = MappingProxyType({})
Rows: TypeAlias = Callable[[], Sequence[tuple[int, Sequence[str]]]]

LONGEST_SHOWN_HEADER = 40


@dataclass(frozen=True)
class Columns:
    """The columns of a file.

    Attributes:
        position: Field name → 0-based column. Has email and password unless there are too many columns. May
            have `surname`, to be joined to the name.
        width: Number of cells in the header.
        unused: 0-based column → header, shortened for display, of the columns that are not used.
        fault: Why the file is refused: two columns have one name or disagree, or there are too many.
    """

    position: dict[str, int]
    width: int
    unused: dict[int, str]
    fault: Refusal | None = None

    @property
    def ignored(self) -> tuple[str, ...]:
        """The headers of the columns that are not used, in the order of the file."""
        return tuple(self.unused.values())


# What programs add to a name: marks of required columns, and characters that are not visible.
_DECORATION = re.compile(
    r"\[required\]|\(required\)|[\s_\-*\u2010-\u2015\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+",
    re.IGNORECASE,
)


def normalise(header: str) -> str:
    """Reduce a header to the form that is compared: `E-Mail Address` and `email_address` become equal."""
    return _DECORATION.sub("", header).casefold()


def is_header(cells: Iterable[str], choice: Mapping[str, str] = NO_CHOICE) -> bool:
    """Whether a row names a password column and one for the addresses.

    Args:
        choice: Field → header, where a person has chosen.
    """
    names = {normalise(cell) for cell in cells}
    if not {normalise(header) for header in choice.values()} <= names:
        return False
    addresses = names & {*KNOWN_HEADERS["email"], *USER_NAMES}
    return ("email" in choice or bool(addresses)) and (
        "password" in choice or bool(names & {*KNOWN_HEADERS["password"]})
    )


def find_columns(
    header: Sequence[str],
    rows: Rows,
    bounds: Bounds = DEFAULT_BOUNDS,
    choice: Mapping[str, str] = NO_CHOICE,
) -> Columns | None:
    """Find the fields in a header row.

    Args:
        header: The cells of the header row.
        rows: Returns the other rows, each with its line. Called only if a `user name` column may contain
            addresses, or if two columns have the same meaning.
        bounds: The maximum number of columns. A header that has more is not looked into.
        choice: Field → header, where a person has chosen. Other columns do not compete with a chosen one.

    Returns:
        The columns, or None if there is no email or no password column, or a chosen header is not there.
    """
    if len(header) > bounds.columns:
        return Columns({}, len(header), {}, Refusal(bounds.too_many_columns))
    names = [normalise(cell) for cell in header]
    claims = _claims(header, names, choice)
    if claims is None or "password" not in claims:
        return None
    if "email" not in choice:
        user_names = [at for at, name in enumerate(names) if name in USER_NAMES and at not in _all(claims)]
        migration = {cell.strip().casefold() for cell in header} <= _MIGRATION
        if migration and "email" in claims and "login" not in claims:
            claims |= {"login": user_names} if user_names else {}
        else:
            claims["email"] = claims.get("email", []) + [
                at for at in user_names if _mostly_addresses(rows(), at)
            ]
    if not claims.get("email"):
        return None
    fault = _same_names(header, names, claims) or next(
        filter(None, (_disagreement(header, rows, claims[field], field) for field in _HELD)), None
    )
    position = {field: _chosen(names, places, rows, field) for field, places in claims.items()}
    if "name" not in position:
        position |= _halves_of_a_name(names, {*position.values()})
    # A column that agrees with the chosen one is used as well: nothing of it is lost.
    used = {at for field in _HELD for at in claims[field]} | set(position.values())
    unused = {at: shown(cell) for at, cell in enumerate(header) if at not in used and cell.strip()}
    return Columns(position, len(header), unused, fault)


def _claims(
    header: Sequence[str], names: Sequence[str], choice: Mapping[str, str]
) -> dict[str, list[int]] | None:
    """Field → the columns that may be it; None if a chosen header is not there."""
    claims: dict[str, list[int]] = {}
    for field, chosen in choice.items():
        exact = [at for at, cell in enumerate(header) if cell.strip() == chosen]
        claims[field] = exact or [at for at, name in enumerate(names) if name == normalise(chosen)]
        if not claims[field]:
            return None
    taken = _all(claims)
    from_a_password_manager = bool(SITE_ADDRESSES & set(names))
    for at, name in enumerate(names):
        field = FIELD_OF_HEADER.get(name, "")
        if at in taken or not field or field in choice or (name == "name" and from_a_password_manager):
            continue
        claims.setdefault(field, []).append(at)
    return claims


def _all(claims: Mapping[str, Sequence[int]]) -> set[int]:
    return {at for places in claims.values() for at in places}


def _halves_of_a_name(names: Sequence[str], taken: set[int]) -> dict[str, int]:
    halves = {"name": FIRST_NAMES, SURNAME: LAST_NAMES}
    found = {
        half: next((at for at, name in enumerate(names) if name in known and at not in taken), None)
        for half, known in halves.items()
    }
    first, last = found["name"], found[SURNAME]
    return {"name": first, SURNAME: last} if first is not None and last is not None else {}


def _cell(cells: Sequence[str], at: int) -> str:
    return cells[at].strip() if at < len(cells) else ""


def _mostly_addresses(rows: Sequence[tuple[int, Sequence[str]]], at: int) -> bool:
    """Whether most values of a column are addresses. An `@` is enough here: a mistyped one fails its row."""
    values = [value for _, cells in rows if (value := _cell(cells, at))]
    return bool(values) and sum("@" in value for value in values) * 2 >= len(values)


def _same_names(header: Sequence[str], names: Sequence[str], claims: dict[str, list[int]]) -> Refusal | None:
    """A fault if two columns of one field have the same name; two unused ones are none of our business."""
    for places in claims.values():
        for first, second in pairwise(places):
            if names[first] == names[second]:
                return Refusal(
                    f"Two columns are named “{shown(header[second])}”: rename or remove one of them"
                )
    return None


def _disagreement(header: Sequence[str], rows: Rows, places: Sequence[int], field: str) -> Refusal | None:
    """A fault that names the first line on which two columns of a required field differ."""
    for at in places[1:]:
        for line, cells in rows():
            first, second = _cell(cells, places[0]), _cell(cells, at)
            same = first.casefold() == second.casefold() if field == "email" else first == second
            if first and second and not same:
                pair = (shown(header[places[0]]), shown(header[at]))
                return Refusal(
                    f"Line {line}: columns “{pair[0]}” and “{pair[1]}” hold different {_HELD[field]}: "
                    "remove one of them",
                    f"or choose one: {choosing(field, pair[0])} or {choosing(field, pair[1])}",
                    line=line,
                    headers=pair,
                )
    return None


def choosing(field: str, header: str) -> str:
    """The option of the command line that chooses a column."""
    return f"--map {shlex.quote(f'{field}={header}')}"


def _chosen(
    names: Sequence[str],
    places: Sequence[int],
    rows: Rows,
    field: str,
) -> int:
    """The column to use: of a required field the one that is filled most, else the best known name."""
    if len(places) == 1:
        return places[0]
    if field in _HELD:
        return max(places, key=lambda at: sum(bool(_cell(cells, at)) for _, cells in rows()))
    return min(places, key=lambda at: _rank(field, names[at]))


def _rank(field: str, name: str) -> int:
    known = KNOWN_HEADERS[field]
    return known.index(name) if name in known else len(known)


def shown(header: str) -> str:
    """A header on one line, printable and shortened for display."""
    return shortened(header, LONGEST_SHOWN_HEADER)


_SECRET_NAMES = {
    "totpsecret": re.compile(r"totp|otp|2fa|mfa|authenticator"),
    "password": re.compile(r"passw|kennwort|motdepasse|contrase|senha|wachtwoord|secret"),
}
# A word that shows that a column is about passwords and holds none.
_ABOUT_PASSWORDS = re.compile(
    r"change|expire|never|strong|required|policy|hint|last|strength|age|reset|force"
)
_BASE32 = re.compile(r"[A-Z2-7 ]{16,}={0,6}")
ROWS_LOOKED_AT = 50


def unused_secrets(columns: Columns, rows: Rows) -> list[str]:
    """Notes on columns that are not used although they seem to hold TOTP secrets or passwords.

    Args:
        rows: Returns the rows below the header. Called only if there are unused columns.
    """
    if not columns.unused:
        return []
    first = [cells for _, cells in islice(rows(), ROWS_LOOKED_AT)]
    notes = []
    for at, header in columns.unused.items():
        values = [value for cells in first if (value := _cell(cells, at))]
        if values and (field := _secret_held(normalise(header), values)):
            what = "TOTP secrets" if field == "totpsecret" else "passwords"
            advice = "" if field in columns.position else f"; to use it: {choosing(field, header)}"
            notes.append(f"Column “{header}” is not used, but seems to hold {what}{advice}")
    return notes


def _secret_held(name: str, values: Sequence[str]) -> str:
    """The field whose secrets a column seems to hold, or ""."""
    if any(value.casefold().startswith("otpauth://") for value in values):
        return "totpsecret"
    if all(_BASE32.fullmatch(value) and re.search(r"[2-7]", value) for value in values):
        return "totpsecret"
    if _ABOUT_PASSWORDS.search(name):
        return ""
    flags = all(value.casefold() in ("true", "false", "yes", "no", "0", "1") for value in values)
    return "" if flags else next((f for f, pattern in _SECRET_NAMES.items() if pattern.search(name)), "")


_PLAIN_HEADER = re.compile(r"[^\W\d_][^\W\d]*(?:[ _./()\[\]*'-]+[^\W\d]+)*[ )\]*]*\d?")
_EXAMPLE = "add a header line such as email,password,name"


def without_columns(cells: Sequence[str], choice: Mapping[str, str] = NO_CHOICE, line: int = 1) -> Refusal:
    """The refusal of a file in which no email or no password column is found.

    Args:
        cells: The cells of the first line. They are named only if it is surely a header.
        choice: Field → header, where a person has chosen.
        line: The number of that line.
    """
    if any("@" in cell for cell in cells):
        return Refusal(
            COLUMNS_REQUIRED,
            f"line {line} contains an address, so the file has no header; {_EXAMPLE}",
            line=line,
            missing=("email", "password"),
            known=_known("email", "password"),
        )
    names = {normalise(cell) for cell in cells}
    lost = [header for header in choice.values() if normalise(header) not in names]
    missing = tuple(field for field in _HELD if field not in choice and not names & _accepted(field))
    if not _surely_header(cells, names):
        named = f"no line has a column “{shown(lost[0])}”; " if lost else ""
        return Refusal(
            COLUMNS_REQUIRED,
            f"{named}none of the first lines names both; {_EXAMPLE}",
            missing=missing,
            known=_known(*missing),
        )
    headers = tuple(shown(cell) for cell in cells if cell.strip())
    found = ", ".join(f"“{header}”" for header in headers[:MOST_HEADERS_NAMED])
    more = f" and {len(headers) - MOST_HEADERS_NAMED} more" if len(headers) > MOST_HEADERS_NAMED else ""
    if lost:
        what = f"line {line} has no column “{shown(lost[0])}”; it has {found}{more}"
    elif missing:
        what = (
            f"line {line} has no {' and no '.join(missing)} column, only {found}{more}; "
            f"rename one, or choose it: {choosing(missing[0], 'HEADER')}"
        )
    else:  # a user name column without addresses
        what = f"line {line} has {found}{more}, but no column holds addresses; choose one: " + choosing(
            "email", "HEADER"
        )
    return Refusal(
        COLUMNS_REQUIRED, what, line=line, missing=missing, headers=headers, known=_known(*missing)
    )


MOST_HEADERS_NAMED = 8


def _accepted(field: str) -> set[str]:
    return {*KNOWN_HEADERS[field], *(USER_NAMES if field == "email" else ())}


def _known(*fields: str) -> dict[str, tuple[str, ...]]:
    return {field: KNOWN_HEADERS[field] for field in fields}


def _surely_header(cells: Sequence[str], names: set[str]) -> bool:
    """Whether no cell of a line may be a password or an address, and one is a name that is known."""
    known = {*FIELD_OF_HEADER, *USER_NAMES, *SITE_ADDRESSES, *FIRST_NAMES, *LAST_NAMES}
    return bool(names & known) and all(
        normalise(cell) in known
        or not cell.strip()
        or (_PLAIN_HEADER.fullmatch(cell.strip()) and not LIKE_AN_APP_PASSWORD.fullmatch(cell.strip()))
        for cell in cells
    )
