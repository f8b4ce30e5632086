"""Validation of rows: the Pandera model of a mailbox row, its named checks, and the dedupe rule.

Everything here is pure. A row error is a value and is never raised. Pandera's own exception quotes cells, so
this module takes only the row number and the name of the check from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import pandera.polars as pa
import polars as pl
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaErrors
from pandera.polars import PolarsData

from schemas.addresses import domain_of, email_key
from schemas.bounds import LONGEST, MAX_MAILBOXES
from schemas.csv_file import CsvTable
from schemas.damage import (
    LIKE_AN_APP_PASSWORD,
    LONGEST_CLEANED,
    Cell,
    blank,
    clean_email,
    clean_password,
    damage_of,
    is_misread,
)
from schemas.headers import names_a_field
from schemas.labels import counted
from schemas.misspellings import intended_domain
from schemas.other_providers import consumer_provider
from schemas.plaintext import Plaintext
from schemas.refusals import Refusal
from schemas.row_reasons import RowError, RowReason, SkipReason
from schemas.totp import normalise_totp


class Duplicate(NamedTuple):
    """A valid row whose mailbox appears earlier in the file. `line` is where the row starts."""

    line: int
    email: str
    differs: bool = False  # its password is another one than that of the first row

    @property
    def reason(self) -> SkipReason:
        return SkipReason.DUPLICATE_DIFFERS if self.differs else SkipReason.DUPLICATE


@dataclass(frozen=True, repr=False)
class Validated(Plaintext):
    """The rows that passed and the row errors of the others.

    Attributes:
        valid: `line` (UInt32), `email`, `email_key`, `password`, `name`, `totp` (String; `totp` and `name`
            are null if the row has none), `login` (String, null if it is the address), `warning` and
            `password_warning` (String, "" for none), in the order of the file.
        errors: One for each row that failed, in the order of the file.
        notes: What was not taken as it is in more than one row.
    """

    valid: pl.DataFrame
    errors: tuple[RowError, ...]
    notes: tuple[str, ...] = ()


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
    """A row that can become a mailbox. Blank cells are ""; `email_key` and `totp` are null if invalid."""

    line: pl.UInt32
    extra_cells: bool
    fault: str
    is_header: bool
    email: str
    email_key: str = pa.Field(nullable=True)
    elsewhere: bool
    password: str
    damage: str
    email_warning: str
    password_warning: str
    name: str
    totpsecret: str
    totp: str = pa.Field(nullable=True)
    login: str

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

    @pa.check("is_header", name=RowReason.HEADER)
    @classmethod
    def is_no_header(cls, data: PolarsData) -> pl.LazyFrame:
        # Several files were joined into one.
        return data.lazyframe.select(~pl.col(data.key))

    @pa.check("fault", name=RowReason.NOT_TEXT)
    @classmethod
    def cells_are_text(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) != RowReason.NOT_TEXT)

    @pa.check("fault", name=RowReason.FORMULA)
    @classmethod
    def cells_are_no_formulas(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) != RowReason.FORMULA)

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

    @pa.dataframe_check(name=RowReason.NON_ASCII_EMAIL)
    @classmethod
    def email_is_ascii(cls, data: PolarsData) -> pl.LazyFrame:
        local = pl.col("email").str.extract(r"^(.*)@", 1).fill_null("")
        foreign = local.str.contains(r"[\p{L}&&[^\x00-\x7f]]")
        return data.lazyframe.select(pl.col("email_key").is_not_null() | ~foreign)

    @pa.dataframe_check(name=RowReason.INVALID_EMAIL)
    @classmethod
    def email_is_an_address(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("email_key").is_not_null())

    @pa.check("elsewhere", name=RowReason.NOT_AT_MICROSOFT)
    @classmethod
    def may_be_at_microsoft(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(~pl.col(data.key))

    @pa.check("damage", name=RowReason.MASKED)
    @classmethod
    def password_is_not_masked(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) != RowReason.MASKED)

    @pa.check("damage", name=RowReason.SPREADSHEET_ERROR)
    @classmethod
    def password_is_no_spreadsheet_error(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) != RowReason.SPREADSHEET_ERROR)

    @pa.check("damage", name=RowReason.LOST_CHARACTERS)
    @classmethod
    def password_has_all_characters(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) != RowReason.LOST_CHARACTERS)

    @pa.check("password", name=RowReason.CONTROL_CHARACTERS)
    @classmethod
    def password_is_printable(cls, data: PolarsData) -> pl.LazyFrame:
        # CR or LF would end the IMAP or SMTP command, and the rest of the cell would become a command.
        return data.lazyframe.select(~pl.col(data.key).str.contains(r"\p{Cc}"))

    @pa.dataframe_check(name=RowReason.INVALID_TOTP)
    @classmethod
    def totpsecret_gives_a_code(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(~_filled("totpsecret") | pl.col("totp").is_not_null())

    @pa.check("login", name=RowReason.INVALID_LOGIN)
    @classmethod
    def login_is_one_line(cls, data: PolarsData) -> pl.LazyFrame:
        # As with a password: a line break would end the command, and the rest would become another one.
        return data.lazyframe.select(_fits(data.key) & ~pl.col(data.key).str.contains(r"\p{Cc}"))


def _filled(column: str) -> pl.Expr:
    return pl.col(column).str.strip_chars() != ""


def _fits(column: str) -> pl.Expr:
    return pl.col(column).str.len_chars() <= LONGEST[column]


ROWS_AT_ONCE = 2000


def validate(table: CsvTable, served: Collection[str] = (), *, trim: bool = False) -> Validated:
    """Validate every row of a table, or so many that `dedupe` refuses it.

    Args:
        table: The rows as `csv_file.parse` returns them.
        served: Domains with their own servers in the settings. Their mailboxes need not be at Microsoft. `*`
            names no domain.
        trim: Whether to remove spaces around passwords.

    Returns:
        The valid rows and the row errors. A failed row has one reason: the first of `RowReason` that applies.
    """
    faults = dict(table.faults)
    fault = pl.Series("fault", [faults.get(line, "") for line in table.frame["line"]], dtype=pl.String)
    frame = table.frame.with_columns(fault)
    parts: list[tuple[pl.DataFrame, list[RowError]]] = []
    mailboxes: set[str] = set()
    for part in frame.iter_slices(ROWS_AT_ONCE):
        parts.append(_validate_part(part, served, trim=trim))
        mailboxes.update(parts[-1][0]["email_key"])
        if len(mailboxes) > MAX_MAILBOXES:
            break
    valid = pl.concat([valid for valid, _ in parts])
    return Validated(
        valid,
        tuple(error for _, errors in parts for error in errors),
        (
            *_blanked_note(frame),
            *_misread_note(frame["name"]),
            *(() if trim else _spaced_note(frame["password"])),
        ),
    )


def _blanked_note(frame: pl.DataFrame) -> list[str]:
    """A note if cells of optional columns hold a word for “nothing”."""
    fields = ("name", "totpsecret", "login")
    counts = {field: sum(bool(cell) and not blank(cell) for cell in frame[field]) for field in fields}
    found = [f"{field} ({counted(count, 'row')})" for field, count in counts.items() if count]
    return [f"Read as empty because of a word such as N/A or none: {', '.join(found)}"] if found else []


def _misread_note(names: pl.Series) -> list[str]:
    """A note if names look like text read with the wrong encoding. A password has a warning of its own."""
    if not (count := sum(is_misread(name) for name in names)):
        return []
    where = f"in {counted(count, 'row')}"
    return [
        f"Names look damaged by a wrong encoding, such as Ã¼ for ü, {where}; export the file again as UTF-8"
    ]


def _spaced_note(passwords: pl.Series) -> list[str]:
    """A note if all passwords begin with a space: the file has one behind each delimiter."""
    if passwords.len() > 1 and passwords.str.starts_with(" ").all():
        return [f"Every password begins with a space, as if one followed each delimiter; {TRIM_ADVICE}"]
    return []


TRIM_ADVICE = "to remove spaces around passwords: --trim"


def _validate_part(
    frame: pl.DataFrame, served: Collection[str], *, trim: bool
) -> tuple[pl.DataFrame, list[RowError]]:
    candidates = _candidates(frame, served, trim=trim)
    reasons = _first_failed_check(candidates)
    failed = sorted(reasons)
    passed = pl.Series([at not in reasons for at in range(candidates.height)], dtype=pl.Boolean)
    passing = candidates.filter(passed)
    domains = {domain_of(key) for key in passing["email_key"]}
    errors = [
        RowError(row["line"], _shown_email(row, domains), reasons[at])
        for at, row in zip(failed, candidates[failed].iter_rows(named=True), strict=True)
    ]
    domain_warnings = _each(passing["email_key"], partial(_domain_warning, served=served))
    is_address = pl.col("login").str.to_lowercase() == pl.col("email").str.to_lowercase()
    valid = passing.with_columns(domain_warnings.alias("domain_warning")).select(
        "line",
        "email",
        "email_key",
        "password",
        pl.col("name").str.strip_chars().replace("", None),
        "totp",
        pl.when(is_address).then(None).otherwise(pl.col("login").replace("", None)).alias("login"),
        "password_warning",
        pl.concat_str(
            pl.col("password_warning").replace("", None),
            pl.col("email_warning").replace("", None),
            "domain_warning",
            separator="; ",
            ignore_nulls=True,
        ).alias("warning"),
    )
    return valid, errors


def _candidates(frame: pl.DataFrame, served: Collection[str], *, trim: bool) -> pl.DataFrame:
    """Normalise the cells and add the columns that the checks need."""
    emails, email_warnings = _cleaned(frame["email"], clean_email)
    passwords, password_warnings = _cleaned(frame["password"], partial(clean_password, trim=trim))
    keys = _each(emails, partial(email_key, served=served))
    totp_cells = _each(frame["totpsecret"], blank)
    headers = [
        key is None and names_a_field(email) and names_a_field(password)
        for key, email, password in zip(keys, emails, passwords, strict=True)
    ]
    return frame.select(
        "line",
        "extra_cells",
        "fault",
        pl.Series("is_header", headers, dtype=pl.Boolean),
        emails.alias("email"),
        keys.alias("email_key"),
        _each(keys, partial(_provider_elsewhere, served=served)).is_not_null().alias("elsewhere"),
        passwords.alias("password"),
        _each(frame["password"], lambda cell: damage_of(cell) or "").alias("damage"),
        email_warnings.alias("email_warning"),
        password_warnings.alias("password_warning"),
        _each(frame["name"], blank).alias("name"),
        totp_cells.alias("totpsecret"),
        _each(totp_cells, normalise_totp).alias("totp"),
        _each(frame["login"], lambda cell: blank(cell).strip()).alias("login"),
    )


def _cleaned(cells: pl.Series, clean: Callable[[str], Cell]) -> tuple[pl.Series, pl.Series]:
    """The repaired cells, and their warnings."""
    found = {cell: clean(cell) for cell in cells.unique()}
    return _each(cells, lambda cell: found[cell].text), _each(cells, lambda cell: found[cell].warning)


def _each(cells: pl.Series, function: Callable[[str], str | None]) -> pl.Series:
    results = {cell: None if cell is None else function(cell) for cell in cells.unique()}
    return pl.Series([results[cell] for cell in cells], dtype=pl.String)


def _provider_elsewhere(key: str, served: Collection[str]) -> str | None:
    domain = domain_of(key)
    return None if domain in served else consumer_provider(domain)


def _domain_warning(key: str, served: Collection[str]) -> str | None:
    domain = domain_of(key)
    if domain in served:
        return None
    intended = intended_domain(domain)
    return f"{domain}: did you mean {intended}?" if intended else None


def _first_failed_check(candidates: pl.DataFrame) -> dict[int, RowReason]:
    try:
        # Without this, PANDERA_VALIDATION_ENABLED=False in the environment would let every row pass.
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            MailboxRow.validate(candidates, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases.select("index", "check")
    else:
        return {}
    if cases["index"].null_count():
        # A frame of the wrong shape is a fault of this program. Pandera's own text would quote cells.
        raise TypeError("the table of rows does not have the shape of MailboxRow")
    order = {reason: rank for rank, reason in enumerate(RowReason)}
    reasons: dict[int, RowReason] = {}
    for at, check in cases.iter_rows():
        reason = RowReason(check)
        if at not in reasons or order[reason] < order[reasons[at]]:
            reasons[at] = reason
    return reasons


_COMMON_ENDINGS = (".com", ".net", ".org")


def _shown_email(row: dict[str, str], domains: Collection[str]) -> str:
    """The address to show for a failed row.

    If cells are shifted or joined, the email cell may contain the password. Row errors are shown in many
    places, so such a row is "unknown" and only its line number identifies it.

    Args:
        domains: The domains of the valid rows. A cell that ends with one of them is a mistyped address.
    """
    email = row["email"]
    if row["email_key"] is not None:
        return email
    slipped = (
        row["extra_cells"]
        or len(email) > LONGEST_CLEANED
        or any("@" in row[field] for field in ("password", "name", "totpsecret") if row[field])
    )
    # If the password is blank, it may be in the email cell (“ann@example.com;password”).
    if slipped or row["password"].strip() in ("", email) or not _like_an_address(email, domains):
        return "unknown"
    return email[: LONGEST["email"]]


def _like_an_address(cell: str, domains: Collection[str]) -> bool:
    """Whether a cell is a mistyped address, rather than a password or an address followed by a password."""
    # A space beside the @ and a comma for the dot of the last part are slips of typing.
    cell = re.sub(r"\s*@\s*", "@", cell)
    cell = re.sub(r"[,;](?=(?:com|net|org|edu|de|fr|uk|eu)\Z)", ".", cell)
    local, at, domain = cell.partition("@")
    if "--" in cell or re.search(r"[^\w.+'-]", local) or re.search(r"[^\w.@-]", domain):
        return False
    if at:
        return "." in domain or not re.search(r"\d", domain)
    if cell.casefold().endswith((*_COMMON_ENDINGS, *domains)):
        return True
    return bool(cell) and not re.search(r"\d", cell) and not LIKE_AN_APP_PASSWORD.fullmatch(cell)


def dedupe(valid: pl.DataFrame) -> Deduped | Refusal:
    """Keep the first valid row of each mailbox, then apply the limit of `MAX_MAILBOXES`.

    Args:
        valid: A frame with at least `line`, `email`, `email_key` and `password`, in the order of the file.

    Returns:
        The kept rows and the duplicates, or a refusal if more than `MAX_MAILBOXES` mailboxes remain.
    """
    first = pl.col("email_key").is_first_distinct()
    kept = valid.filter(first)
    if kept.height > MAX_MAILBOXES:
        return Refusal(
            f"Maximum {MAX_MAILBOXES} mailboxes per import",
            f"the file has at least {kept.height:,} different mailboxes; split it into smaller files",
        )
    passwords = dict(kept.select("email_key", "password").iter_rows())
    later = valid.filter(~first).select("line", "email", "email_key", "password").iter_rows()
    return Deduped(
        kept, tuple(Duplicate(line, email, passwords[key] != cell) for line, email, key, cell in later)
    )
