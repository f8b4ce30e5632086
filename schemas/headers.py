"""Find the fields in the header of a file, by the names that common exports use or by a person's choice."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import islice, pairwise
from types import MappingProxyType
from typing import TypeAlias

from schemas.bounds import DEFAULT_BOUNDS, Bounds
from schemas.damage import APP_PASSWORD_IN_GROUPS, LIKE_AN_APP_PASSWORD
from schemas.labels import shortened
from schemas.refusals import COLUMNS_REQUIRED, Refusal

FIELDS = ("email", "password", "name", "totpsecret", "login")
# Half of a name: the first and the last name are joined if there is no column with both.
SURNAME = "surname"
FILLS_GAPS = " "  # between a field and a number

# Normalised: lower case, without spaces, underscores and hyphens. Of several optional columns the first of
# these names is used.
KNOWN_HEADERS = {
    "email": (
        *("email", "emailaddress", "mail", "mailaddress", "userprincipalname", "upn", "primarysmtpaddress"),
        *("fromemail", "senderemail", "accountemail", "primaryemail", "workemail", "smtpemail", "imapemail"),
    ),
    "password": (
        *("password", "apppassword", "pass", "pwd", "passwd", "loginpassword", "smtppassword"),
        *("imappassword", "emailpassword", "mailpassword", "accountpassword"),
        *("initialpassword", "temporarypassword", "passwordprofile"),
    ),
    "name": ("displayname", "fullname", "fromname", "sendername", "smtpfromname", "name"),
    "totpsecret": (
        *("totpsecret", "totp", "2fasecret", "otpsecret", "logintotp", "otpauth", "otpauthuri", "totpuri"),
        *("otpurl", "otp"),
    ),
    "login": ("signinname", "signin"),
}
FIRST_NAMES = ("firstname", "givenname", "first")
LAST_NAMES = ("lastname", "surname", "familyname", "last")
FIELD_OF_HEADER = {header: field for field, headers in KNOWN_HEADERS.items() for header in headers}
# They may hold addresses, or other sign-in names.
USER_NAMES = {
    *("username", "loginusername", "login", "loginname", "user", "userid"),
    *("smtpusername", "imapusername", "smtplogin", "imaplogin"),
}
# With one of these columns a file comes from a password manager, and its `name` is the name of a site.
SITE_ADDRESSES = {"url", "uri", "loginuri", "website", "hostname", "origin", "formactionorigin"}
_HELD = {"email": "addresses", "password": "passwords"}
# Names in other languages. They are not used by themselves: the refusal offers them to choose.
_FOREIGN = {
    "email": (
        *("emailadresse", "mailadresse", "benutzerprinzipalname", "adresseemail", "adressemail", "courriel"),
        *("adressedemessagerie", "correo", "correoelectrónico", "correoelectronico", "indirizzoemail"),
        *("endereçodeemail", "emailadres", "epost", "epostadress", "почта", "электроннаяпочта", "邮箱"),
        *("电子邮件", "メールアドレス", "이메일"),
        # Names to sign in with, which often are the addresses.
        *("benutzername", "nomd'utilisateur", "utilisateur", "usuario", "usuário", "nomeutente", "utente"),
        *("gebruikersnaam", "användarnamn", "brugernavn", "имяпользователя", "логин", "用户名", "账号"),
    ),
    "password": (
        *("kennwort", "passwort", "motdepasse", "contraseña", "contrasena", "clave", "senha", "palavrapasse"),
        *("wachtwoord", "lösenord", "passord", "adgangskode", "hasło", "heslo", "parola", "пароль", "密码"),
        *("密碼", "パスワード", "비밀번호", "şifre"),
    ),
}
# The file of a Microsoft 365 migration: `UserName` is the sign-in name, which may differ from the address.
_MIGRATION = {"emailaddress", "username", "password", "userroot"}

NO_CHOICE: Mapping[str, str] = MappingProxyType({})
Rows: TypeAlias = Callable[[], Sequence[tuple[int, Sequence[str]]]]

LONGEST_SHOWN_HEADER = 40
LONGEST_NAME = 100  # a header this long is looked up among the known names


@dataclass(frozen=True)
class Columns:
    """The columns of a file.

    Attributes:
        position: Field name → 0-based column. Has email and password unless there are too many columns. May
            have `surname`, to be joined to the name.
        width: Number of cells in the header.
        also: Field name with a number → 0-based column that fills the gaps of the field's own column.
        unused: 0-based column → header, shortened for display, of the columns that are not used.
        fault: Why the file is refused: two columns have one name or disagree, or there are too many.
    """

    position: dict[str, int]
    width: int
    unused: dict[int, str]
    fault: Refusal | None = None
    also: dict[str, int] = dataclass_field(default_factory=dict)

    @property
    def read(self) -> dict[str, int]:
        """Field name, with a number for a column that fills gaps → 0-based column."""
        return self.position | self.also

    @property
    def ignored(self) -> tuple[str, ...]:
        """The headers of the columns that are not used, in the order of the file."""
        return tuple(self.unused.values())


# What programs add to a name: marks of required columns, and characters that are not visible.
_DECORATION = re.compile(
    r"[\[(](?:required|optional)[\])]|[\s_\-*\u2010-\u2015\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+",
    re.IGNORECASE,
)


# Microsoft Entra's template of new users: `User name [userPrincipalName] Required`.
_PROPERTY = re.compile(r".*\[(?!required\])(\w+)\](?:\s*required)?\s*", re.IGNORECASE | re.DOTALL)


def normalise(header: str) -> str:
    """Reduce a header to the form that is compared: `E-Mail Address` and `email_address` become equal."""
    if "[" in header and (found := _PROPERTY.fullmatch(header)):
        header = found[1]
    return _DECORATION.sub("", header).removesuffix(":").casefold()


def names_a_field(cell: str) -> bool:
    """Whether a cell is one of the known names of columns."""
    return len(cell) <= LONGEST_NAME and ((name := normalise(cell)) in FIELD_OF_HEADER or name in USER_NAMES)


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
        _claim_user_names(header, names, claims, rows)
    if not claims.get("email"):
        return None
    fault = _same_names(header, names, claims) or next(
        filter(None, (_disagreement(header, rows, claims[field], field) for field in _HELD)), None
    )
    position = {field: _chosen(names, places, rows, field) for field, places in claims.items()}
    if "name" not in position:
        position |= _halves_of_a_name(names, {*position.values()})
    # A column that agrees with the chosen one is used as well: nothing of it is lost.
    also = {f"{held}{FILLS_GAPS}{at}": at for held in _HELD for at in claims[held] if at != position[held]}
    used = {*position.values(), *also.values()}
    unused = {at: shown(cell) for at, cell in enumerate(header) if at not in used and cell.strip()}
    return Columns(position, len(header), unused, fault, also)


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


def _claim_user_names(
    header: Sequence[str], names: Sequence[str], claims: dict[str, list[int]], rows: Rows
) -> None:
    """Add the columns that hold addresses, or sign-in names beside the addresses, under a name for both."""
    unclaimed = [at for at, name in enumerate(names) if name in USER_NAMES and at not in _all(claims)]
    migration = {cell.strip().casefold() for cell in header} <= _MIGRATION
    if migration and "email" in claims and "login" not in claims:
        claims |= {"login": unclaimed} if unclaimed else {}
        return
    addresses = [at for at in unclaimed if _mostly_addresses(rows(), at)]
    logins = [at for at in unclaimed if names[at] == "login" and at not in addresses]
    if logins and "email" in claims:
        claims["login"] = claims.get("login", []) + logins
    claims["email"] = claims.get("email", []) + addresses


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
    r"change|expire|never|strong|required|policy|hint|last|strength|age|reset|force|name|url"
)
_BASE32 = re.compile(r"[A-Z2-7 ]{16,}={0,6}")
# `App password: abcd efgh`, as people and programs write it into notes.
_PASSWORD_IN_TEXT = re.compile(
    r"(?:passw(?:ord|ort)|passcode|pwd|kennwort|secret)\s*[:=$]\s*\S", re.IGNORECASE
)
VALUES_LOOKED_AT = 50


def unused_secrets(columns: Columns, rows: Rows) -> list[str]:
    """Notes on columns that are not used although they seem to hold TOTP secrets or passwords.

    Args:
        rows: Returns the rows below the header. Called only if there are unused columns.
    """
    if not columns.unused:
        return []
    notes, below = [], rows()
    for at, header in columns.unused.items():
        filled = (value for _, cells in below if (value := _cell(cells, at)))
        values = list(islice(filled, VALUES_LOOKED_AT))
        if values and (field := _secret_held(normalise(header), values)):
            what = "TOTP secrets" if field == "totpsecret" else "passwords"
            advice = "" if field in columns.position else f"; to use it: {choosing(field, header)}"
            notes.append(f"Column “{header}” is not used, but seems to hold {what}{advice}")
    return notes


def _secret_held(name: str, values: Sequence[str]) -> str:
    """The field whose secrets a column seems to hold, or ""."""
    if any("otpauth://" in value.casefold() for value in values):
        return "totpsecret"
    if 2 * sum(bool(_BASE32.fullmatch(value) and re.search(r"[2-7]", value)) for value in values) >= len(
        values
    ):
        return "totpsecret"
    if any(_PASSWORD_IN_TEXT.search(value) or APP_PASSWORD_IN_GROUPS.fullmatch(value) for value in values):
        return "password"
    if _ABOUT_PASSWORDS.search(name):
        return ""
    flags = all(value.casefold() in ("true", "false", "yes", "no", "0", "1") for value in values)
    return "" if flags else next((f for f, pattern in _SECRET_NAMES.items() if pattern.search(name)), "")


# No character fits two neighbouring parts: otherwise a line of underscores could be matched in 2^n ways.
_PLAIN_HEADER = re.compile(r"[^\W\d_]+(?:[ _./()\[\]*'-]+[^\W\d_]+)*[ _)\]*]*\d?")
_EXAMPLE = "a header line such as email,password,name"
_ONE_COLUMN = "the values are not separated by commas, semicolons, tabs or pipes; separate them, below "


def without_columns(
    cells: Sequence[str], choice: Mapping[str, str] = NO_CHOICE, line: int = 1, *, one_column: bool = False
) -> Refusal:
    """The refusal of a file in which no email or no password column is found.

    Args:
        cells: The cells of the first line. They are named only if it is surely a header.
        choice: Field → header, where a person has chosen.
        line: The number of that line.
        one_column: Whether the cells of the first lines are separated, but by no delimiter.
    """
    if one_column:
        known = _known("email", "password")
        return Refusal(
            COLUMNS_REQUIRED, f"{_ONE_COLUMN}{_EXAMPLE}", line=line, missing=tuple(known), known=known
        )
    if any("@" in cell for cell in cells):
        return Refusal(
            COLUMNS_REQUIRED,
            f"line {line} contains an address, so the file has no header; add {_EXAMPLE}",
            line=line,
            missing=("email", "password"),
            known=_known("email", "password"),
        )
    names = {normalise(cell) for cell in cells}
    lost = [header for header in choice.values() if normalise(header) not in names]
    missing = tuple(field for field in _HELD if field not in choice and not names & _accepted(field))
    if not _surely_header(cells, names):
        named = f"no line has a column “{shown(lost[0])}”; " if lost else ""
        if all(re.fullmatch(r"\s*'.*'\s*", cell) for cell in cells):
            why = f"the values of line {line} are in apostrophes; remove them, and name the columns in "
        else:
            why = "none of the first lines names both; name the columns in "
        return Refusal(COLUMNS_REQUIRED, f"{named}{why}{_EXAMPLE}", missing=missing, known=_known(*missing))
    headers = tuple(shown(cell) for cell in cells if cell.strip())
    found = ", ".join(f"“{header}”" for header in headers[:MOST_HEADERS_NAMED])
    more = f" and {len(headers) - MOST_HEADERS_NAMED} more" if len(headers) > MOST_HEADERS_NAMED else ""
    if lost:
        what = f"line {line} has no column “{shown(lost[0])}”; it has {found}{more}"
    elif missing:
        what = (
            f"line {line} has no {' and no '.join(missing)} column, only {found}{more}; "
            f"rename one, or choose it: {' '.join(_offered(field, headers) for field in missing)}"
        )
    else:  # a user name column without addresses
        what = f"line {line} has {found}{more}, but no column holds addresses; choose one: " + choosing(
            "email", "HEADER"
        )
    return Refusal(
        COLUMNS_REQUIRED, what, line=line, missing=missing, headers=headers, known=_known(*missing)
    )


_MEANS_AN_ADDRESS = re.compile(r"e?mail|upn|principalname")


def _offered(field: str, headers: Sequence[str]) -> str:
    """The option that chooses the column which probably holds a field, or a place for its name."""
    means = _MEANS_AN_ADDRESS if field == "email" else _SECRET_NAMES[field]
    names = {header: normalise(header) for header in headers}
    likely = [h for h in headers if names[h] in _FOREIGN[field]] or [
        h for h in headers if means.search(names[h]) and not _ABOUT_PASSWORDS.search(names[h])
    ]
    return choosing(field, likely[0] if len(likely) == 1 else "HEADER")


MOST_HEADERS_NAMED = 8


def _accepted(field: str) -> set[str]:
    return {*KNOWN_HEADERS[field], *(USER_NAMES if field == "email" else ())}


def _known(*fields: str) -> dict[str, tuple[str, ...]]:
    return {field: KNOWN_HEADERS[field] for field in fields}


def _surely_header(cells: Sequence[str], names: set[str]) -> bool:
    """Whether no cell of a line may be a password or an address, and one is a name that is known."""
    known = {*FIELD_OF_HEADER, *USER_NAMES, *SITE_ADDRESSES, *FIRST_NAMES, *LAST_NAMES}
    known |= {name for foreign in _FOREIGN.values() for name in foreign}
    return bool(names & known) and all(
        normalise(cell) in known
        or not cell.strip()
        or (_PLAIN_HEADER.fullmatch(cell.strip()) and not LIKE_AN_APP_PASSWORD.fullmatch(cell.strip()))
        for cell in cells
    )
