"""How rows are validated: the Pandera model of a mailbox row, its named checks, and the dedupe rule.

Everything here is pure. Faults of a row are values on that row and never raised past it; Pandera's own
exception quotes cells, so only the row number and the name of the check are taken out of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import pandera.polars as pa
import polars as pl
from email_validator import EmailNotValidError, validate_email
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaErrors
from pandera.polars import PolarsData
from pyotp.totp import TOTP

from schemas.csv_file import CsvTable
from schemas.plaintext import Plaintext
from schemas.refusals import Refusal

MAX_MAILBOXES = 500
LONGEST = {"email": 254, "password": 256, "name": 200, "totpsecret": 512}

# How Microsoft's pages show an app password: the spaces are for the eye and not part of it.
SHOWN_WITH_SPACES = r"^[a-z]{4} [a-z]{4} [a-z]{4} [a-z]{4}$"
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
class Validated(Plaintext):
    """The rows that passed and the faults of the others.

    Attributes:
        valid: `line` (UInt32), `email`, `email_key`, `password`, `name`, `totp` (String; `totp` and `name`
            null where the row has none), `warning` (String, "" for none), in the file's order.
        errors: One for each row that failed, in the file's order.
    """

    valid: pl.DataFrame
    errors: tuple[RowError, ...]


@dataclass(frozen=True, repr=False)
class Deduped(Plaintext):
    """One row per mailbox.

    Attributes:
        kept: The first valid row of each mailbox, with the columns of `Validated.valid`.
        duplicates: The later rows of the same mailboxes.
    """

    kept: pl.DataFrame
    duplicates: tuple[Duplicate, ...]


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


ROWS_AT_ONCE = 50_000  # bounds what Pandera holds for a file in which every row fails


def validate(table: CsvTable) -> Validated:
    """Validate every row of a table; a failed row has one reason, the first of `RowReason` that applies."""
    parts = [_validate_part(part) for part in table.frame.iter_slices(ROWS_AT_ONCE)]
    return Validated(
        pl.concat([valid for valid, _ in parts]),
        tuple(error for _, errors in parts for error in errors),
    )


def _validate_part(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[RowError]]:
    candidates = _candidates(frame)
    verdicts = _first_failed_check(candidates)
    failed = sorted(verdicts)
    errors = [
        RowError(row["line"], _shown_email(row), verdicts[at])
        for at, row in zip(failed, candidates[failed].iter_rows(named=True), strict=True)
    ]
    passed = pl.Series([at not in verdicts for at in range(candidates.height)], dtype=pl.Boolean)
    edge_space = pl.col("password") != pl.col("password").str.strip_chars()
    valid = candidates.filter(passed).select(
        "line",
        "email",
        "email_key",
        "password",
        pl.col("name").str.strip_chars().replace("", None),
        "totp",
        pl.when(edge_space).then(pl.lit(EDGE_SPACE_WARNING)).otherwise(pl.lit("")).alias("warning"),
    )
    return valid, errors


def _candidates(frame: pl.DataFrame) -> pl.DataFrame:
    """Normalise the cells as far as the rules allow and add what the checks look at."""
    frame = frame.with_columns(
        pl.col("email").str.strip_chars(),
        pl.when(pl.col("password").str.contains(SHOWN_WITH_SPACES))
        .then(pl.col("password").str.replace_all(" ", ""))
        .otherwise(pl.col("password"))
        .alias("password"),
    )
    return frame.select(
        "line",
        "extra_cells",
        "email",
        _each(frame["email"], email_key).alias("email_key"),
        "password",
        "name",
        "totpsecret",
        _each(frame["totpsecret"], normalise_totp).alias("totp"),
    )


def _each(cells: pl.Series, function: Callable[[str], str | None]) -> pl.Series:
    results = {cell: function(cell) for cell in cells.unique()}
    return pl.Series([results[cell] for cell in cells], dtype=pl.String)


def _first_failed_check(candidates: pl.DataFrame) -> dict[int, RowReason]:
    try:
        # Said here, or PANDERA_VALIDATION_ENABLED=False in the environment would let every row pass.
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            MailboxRow.validate(candidates, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases.select("index", "check")
    else:
        return {}
    if cases["index"].null_count():
        # A fault of the frame's shape is a fault of this program; the original would quote cells.
        raise TypeError("the table of rows has not the shape of MailboxRow")
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
        totp = totp_of(text)
        totp.now()
    except ValueError:  # binascii.Error is one
        return None
    if (totp.digits, totp.interval, totp.digest) == (6, 30, hashlib.sha1):
        return str(totp.secret)
    return str(totp.provisioning_uri(name="mailbox"))


def totp_of(secret: str) -> TOTP:
    """Open a TOTP secret: what `normalise_totp` made, or what it is made of.

    Raises:
        ValueError: When it cannot be one; the text never quotes it.
    """
    if secret.lower().startswith("otpauth:"):
        return _totp_from_uri(secret)
    return TOTP(_bare_secret(secret))


def _bare_secret(text: str) -> str:
    bare = re.sub(r"[\s-]+", "", text).rstrip("=")
    # Base32, read before it is upper-cased: some letters outside of ASCII become an S or an I there.
    if not re.fullmatch(r"[A-Za-z2-7]+", bare):
        raise ValueError("not base32")
    return bare.upper()


_DIGESTS = {"SHA1": hashlib.sha1, "SHA256": hashlib.sha256, "SHA512": hashlib.sha512}


def _totp_from_uri(text: str) -> TOTP:
    """Source: the Key URI format of authenticator apps."""
    parts = urlsplit(text)
    query = {key.lower(): values[-1] for key, values in parse_qs(parts.query).items()}
    digits, period = query.get("digits", "6"), query.get("period", "30")
    digest = _DIGESTS.get(query.get("algorithm", "SHA1").upper().replace("-", ""))
    if parts.netloc.lower() != "totp" or digest is None:
        raise ValueError("not an otpauth://totp/ address")
    if not re.fullmatch(r"[678]", digits) or not re.fullmatch(r"[1-9][0-9]{0,4}", period):
        raise ValueError("no digits and period of a TOTP secret")
    return TOTP(
        _bare_secret(query.get("secret", "")), digits=int(digits), interval=int(period), digest=digest
    )


# What an app password looks like in the wrong column: sixteen letters, with or without Microsoft's spaces.
_LIKE_A_PASSWORD = re.compile(r"[a-z]{16}|[a-z]{4}( [a-z]{4}){3}", re.IGNORECASE)


def _shown_email(row: dict[str, str]) -> str:
    """The address to name a failed row by.

    In a row whose cells have slipped or stick together, the email cell may hold the password, and an error is
    shown in many places: then the row is `unknown`, and its line number has to do.
    """
    email = row["email"]
    if row["email_key"] is not None:
        return email
    slipped = row["extra_cells"] or any("@" in row[field] for field in ("password", "name", "totpsecret"))
    # A blank password may be the one that stands in the email cell (“ann@example.com;password”).
    if slipped or row["password"].strip() in ("", email) or not _like_an_address(email):
        return "unknown"
    return email[: LONGEST["email"]]


def _like_an_address(cell: str) -> bool:
    """Tell a mistyped address from what may be a password, or an address with one behind it."""
    local, at, domain = cell.partition("@")
    if "--" in cell or re.search(r"[^\w.+'-]", local) or re.search(r"[^\w.@-]", domain):
        return False
    if at:
        return "." in domain or not re.search(r"\d", domain)
    return bool(cell) and not re.search(r"\d", cell) and not _LIKE_A_PASSWORD.fullmatch(cell)


def dedupe(valid: pl.DataFrame) -> Deduped | Refusal:
    """Keep the first valid row of each mailbox, then apply the cap.

    Args:
        valid: A frame with at least `line`, `email` and `email_key`, in the file's order.

    Returns:
        The kept rows and the duplicates, or the refusal when more than `MAX_MAILBOXES` are left.
    """
    first = pl.col("email_key").is_first_distinct()
    kept = valid.filter(first)
    if kept.height > MAX_MAILBOXES:
        return Refusal(
            f"Maximum {MAX_MAILBOXES} mailboxes per import", f"the file has {kept.height:,} different ones"
        )
    later = valid.filter(~first).select("line", "email")
    return Deduped(kept, tuple(Duplicate(line, email) for line, email in later.iter_rows()))
