"""The judgement of rows: the Pandera model of a mailbox row, its named checks, and the dedupe rule.

Everything here is pure. Faults of a row are values on that row and never raised past it; Pandera's own
exception quotes cells, so only the row number and the name of the check are taken out of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit, urlunsplit

import pandera.polars as pa
import polars as pl
import pyotp
from email_validator import EmailNotValidError, validate_email
from pandera.errors import SchemaErrors
from pandera.polars import PolarsData

from schemas.csv_file import CsvTable, Plaintext, Refusal

MAX_MAILBOXES = 500
LONGEST = {"email": 254, "password": 256, "name": 200, "totpsecret": 512}

# How Microsoft's pages show an app password: the spaces are for the eye and not part of it.
APP_PASSWORD_AS_SHOWN = r"^[a-z]{4} [a-z]{4} [a-z]{4} [a-z]{4}$"
EDGE_SPACE_WARNING = "Password begins or ends with a space: it was kept as it is"
DUPLICATE = "The same mailbox stands earlier in the file"


class RowReason(StrEnum):
    """Why a row failed. The value is the name of its check; the order is the order in which they speak.

    Cells are counted first: in a row with too many of them nobody knows which cell belongs to which column,
    so that any other word about it would be a guess.
    """

    EXTRA_CELLS = "extra_cells"
    MISSING = "missing"
    EMAIL_TOO_LONG = "email_too_long"
    PASSWORD_TOO_LONG = "password_too_long"  # noqa: S105  the name of a check
    NAME_TOO_LONG = "name_too_long"
    TOTP_TOO_LONG = "totpsecret_too_long"
    INVALID_EMAIL = "invalid_email"
    CONTROL_CHARACTERS = "control_characters"
    INVALID_TOTP = "invalid_totp"

    @property
    def message(self) -> str:
        return ROW_MESSAGES[self][0]

    @property
    def remedy(self) -> str:
        return ROW_MESSAGES[self][1]


ROW_MESSAGES = {
    RowReason.EXTRA_CELLS: (
        "Row has more cells than the header",
        "put values that contain the delimiter in quotes",
    ),
    RowReason.MISSING: ("Missing email or password", "fill in both cells"),
    RowReason.EMAIL_TOO_LONG: ("Email is longer than 254 characters", "check the cell"),
    RowReason.PASSWORD_TOO_LONG: ("Password is longer than 256 characters", "check the cell"),
    RowReason.NAME_TOO_LONG: ("Name is longer than 200 characters", "shorten the name"),
    RowReason.TOTP_TOO_LONG: ("TOTP secret is longer than 512 characters", "check the cell"),
    RowReason.INVALID_EMAIL: ("Invalid email address", "write the whole address, such as ann@example.com"),
    RowReason.CONTROL_CHARACTERS: (
        "Password contains control characters",
        "copy the password again, without line breaks or tabs",
    ),
    RowReason.INVALID_TOTP: (
        "Invalid TOTP secret",
        "use the base32 secret (letters and the digits 2 to 7) or its otpauth://totp/ address",
    ),
}


class RowError(NamedTuple):
    line: int
    email: str  # "unknown" where the row has none that can be shown
    reason: RowReason


class Duplicate(NamedTuple):
    line: int
    email: str


@dataclass(frozen=True, repr=False)
class Judged(Plaintext):
    """The verdict on every row of a table.

    Attributes:
        valid: `line` (UInt32), `email`, `email_key`, `password`, `name`, `totp` (String; `totp` and `name`
            null where the row has none), `warning` (String, "" for none), in the file's order.
        errors: One for each row that failed, in the file's order.
        rows: How many rows there were.
    """

    valid: pl.DataFrame
    errors: tuple[RowError, ...]
    rows: int


class MailboxRow(pa.DataFrameModel):
    """A row that can become a mailbox. Blank cells are "", `email_key` and `totp` are null where invalid."""

    line: pl.UInt32
    extra_cells: bool
    email: str
    email_key: str = pa.Field(nullable=True)
    password: str
    name: str
    totpsecret: str
    totp: str = pa.Field(nullable=True)

    class Config:
        strict = True

    @pa.check("extra_cells", name=RowReason.EXTRA_CELLS)
    @classmethod
    def no_extra_cells(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(~pl.col(data.key))

    @pa.check("email", name=RowReason.MISSING)
    @classmethod
    def has_email(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(_filled(data.key))

    @pa.check("password", name=RowReason.MISSING)
    @classmethod
    def has_password(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(_filled(data.key))

    @pa.check("email", name=RowReason.EMAIL_TOO_LONG)
    @classmethod
    def email_fits(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(_fits(data.key))

    @pa.check("password", name=RowReason.PASSWORD_TOO_LONG)
    @classmethod
    def password_fits(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(_fits(data.key))

    @pa.check("name", name=RowReason.NAME_TOO_LONG)
    @classmethod
    def name_fits(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(_fits(data.key))

    @pa.check("totpsecret", name=RowReason.TOTP_TOO_LONG)
    @classmethod
    def totpsecret_fits(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(_fits(data.key))

    @pa.dataframe_check(name=RowReason.INVALID_EMAIL)
    @classmethod
    def email_is_an_address(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("email_key").is_not_null())

    @pa.check("password", name=RowReason.CONTROL_CHARACTERS)
    @classmethod
    def password_is_printable(cls, data: PolarsData) -> pl.LazyFrame:
        # CR and LF would end the IMAP or SMTP command and let the rest of the cell be one.
        return data.lazyframe.select(~pl.col(data.key).str.contains(r"\p{Cc}"))

    @pa.dataframe_check(name=RowReason.INVALID_TOTP)
    @classmethod
    def totpsecret_gives_a_code(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(~_filled("totpsecret") | pl.col("totp").is_not_null())


def _filled(column: str) -> pl.Expr:
    return pl.col(column).str.strip_chars() != ""


def _fits(column: str) -> pl.Expr:
    return pl.col(column).str.len_chars() <= LONGEST[column]


def judge(table: CsvTable) -> Judged:
    """Judge every row of a table; a row has one verdict, the first of `RowReason` that applies."""
    candidates = _candidates(table.frame)
    verdicts = _first_failed_check(candidates)
    errors = tuple(
        RowError(row["line"], _shown_email(row), verdicts[at])
        for at, row in enumerate(candidates.iter_rows(named=True))
        if at in verdicts
    )
    edge_space = pl.col("password") != pl.col("password").str.strip_chars(" ")
    valid = (
        candidates.with_row_index("at")
        .filter(~pl.col("at").is_in(list(verdicts)))
        .select(
            "line",
            "email",
            "email_key",
            "password",
            pl.col("name").str.strip_chars().replace("", None),
            "totp",
            pl.when(edge_space).then(pl.lit(EDGE_SPACE_WARNING)).otherwise(pl.lit("")).alias("warning"),
        )
    )
    return Judged(valid, errors, candidates.height)


def _candidates(frame: pl.DataFrame) -> pl.DataFrame:
    """Normalise the cells as far as the rules allow and add what the checks look at."""
    frame = frame.with_columns(
        pl.col("email").str.strip_chars(),
        pl.when(pl.col("password").str.contains(APP_PASSWORD_AS_SHOWN))
        .then(pl.col("password").str.replace_all(" ", ""))
        .otherwise(pl.col("password"))
        .alias("password"),
    )
    return frame.select(
        "line",
        "extra_cells",
        "email",
        pl.Series("email_key", [email_key(email) for email in frame["email"]], dtype=pl.String),
        "password",
        "name",
        "totpsecret",
        pl.Series("totp", [normalise_totp(cell) for cell in frame["totpsecret"]], dtype=pl.String),
    )


def _first_failed_check(candidates: pl.DataFrame) -> dict[int, RowReason]:
    try:
        MailboxRow.validate(candidates, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases.select("index", "check")
    else:
        return {}
    if cases["index"].null_count():
        # A fault of the frame's shape is a fault of this program; the original would quote cells.
        raise TypeError("the table of rows has not the shape of MailboxRow") from None
    order = {reason: rank for rank, reason in enumerate(RowReason)}
    verdicts: dict[int, RowReason] = {}
    for at, check in cases.iter_rows():
        reason = RowReason(check)
        if at not in verdicts or order[reason] < order[verdicts[at]]:
            verdicts[at] = reason
    return verdicts


def email_key(address: str) -> str | None:
    """The form under which a mailbox is known: two spellings of one address give one key.

    Returns:
        The case-folded ASCII address, or None when it is no address (syntax only, no DNS).
    """
    if not 0 < len(address) <= LONGEST["email"]:
        return None
    try:
        valid = validate_email(address, check_deliverability=False, allow_smtputf8=False, strict=True)
    except EmailNotValidError:
        return None
    return str(valid.ascii_email).casefold()


def normalise_totp(cell: str) -> str | None:
    """Reduce a TOTP secret to base32, or to an `otpauth://` address where it departs from the defaults.

    Returns:
        A value that `totp_of` opens, or None when the cell is blank or gives no code.
    """
    text = cell.strip()
    if not text or len(text) > LONGEST["totpsecret"]:
        return None
    try:
        if text.lower().startswith("otpauth:"):
            totp = _totp_from_uri(text)
        else:
            totp = pyotp.TOTP(_bare_secret(text))
        totp.now()
    except (ValueError, TypeError, OverflowError):  # binascii.Error is a ValueError
        return None
    if (totp.digits, totp.interval, totp.digest().name) == (6, 30, "sha1"):
        return totp.secret
    return totp.provisioning_uri(name="mailbox")


def totp_of(stored: str) -> pyotp.TOTP:
    """Open what `normalise_totp` made."""
    if stored.startswith("otpauth:"):
        return _totp_from_uri(stored)
    return pyotp.TOTP(stored)


def _bare_secret(text: str) -> str:
    return re.sub(r"[\s-]+", "", text).upper().rstrip("=")


def _totp_from_uri(text: str) -> pyotp.TOTP:
    """Source: the Key URI format of authenticator apps."""
    parts = urlsplit(text)
    if parts.scheme.lower() != "otpauth" or parts.netloc.lower() != "totp":
        raise ValueError("not an otpauth://totp/ address")
    query = {key.lower(): values[-1] for key, values in parse_qs(parts.query).items()}
    digits, interval = int(query.get("digits", "6")), int(query.get("period", "30"))
    algorithm = query.get("algorithm", "SHA1").upper().replace("-", "")
    plain = (
        urlunsplit(
            (
                "otpauth",
                "totp",
                "/mailbox",
                f"secret={_bare_secret(query['secret'])}&digits={digits}&period={interval}&algorithm={algorithm}",
                "",
            )
        )
        if "secret" in query
        else ""
    )
    totp = pyotp.parse_uri(plain)
    if not isinstance(totp, pyotp.TOTP):
        raise TypeError("not a time-based secret")
    return totp


# What an app password looks like in the wrong column: sixteen letters, with or without Microsoft's spaces.
_LIKE_A_PASSWORD = re.compile(r"[a-z]{16}|[a-z]{4}( [a-z]{4}){3}", re.IGNORECASE)


def _shown_email(row: dict[str, str]) -> str:
    """The address to name a failed row by.

    In a row whose cells have slipped, the email cell may hold the password, and an error is shown in many
    places: then the row is `unknown`, and its line number has to do.
    """
    email = row["email"]
    if not email:
        return "unknown"
    if row["email_key"] is not None:
        return email
    slipped = row["extra_cells"] or any("@" in row[field] for field in ("password", "name", "totpsecret"))
    if slipped or email == row["password"] or _LIKE_A_PASSWORD.fullmatch(email):
        return "unknown"
    printable = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in email)
    return printable[: LONGEST["email"]]


def dedupe(valid: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Duplicate, ...]] | Refusal:
    """Keep the first valid row of each mailbox, then hold the rest to the cap.

    Args:
        valid: A frame with at least `line`, `email` and `email_key`, in the file's order.

    Returns:
        The kept rows (same columns) and the duplicates, or the refusal when more than
        `MAX_MAILBOXES` are left.
    """
    first = pl.col("email_key").is_first_distinct()
    kept = valid.filter(first)
    if kept.height > MAX_MAILBOXES:
        return Refusal(
            f"Maximum {MAX_MAILBOXES} mailboxes per import", f"the file has {kept.height:,} different ones"
        )
    later = valid.filter(~first).select("line", "email")
    return kept, tuple(Duplicate(line, email) for line, email in later.iter_rows())
