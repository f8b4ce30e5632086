"""Why a row failed or was skipped: the codes, their messages and remedies."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from schemas.addresses import domain_of, email_key
from schemas.other_providers import consumer_provider


class RowReason(StrEnum):
    """Why a row failed. The value is the name of the check. A row gets the first reason that applies.

    `EXTRA_CELLS` comes first: if a row has too many cells, it is unclear which cell belongs to which column,
    and any other reason would be a guess.
    """

    EXTRA_CELLS = "extra_cells"
    MISSING = "missing"
    HEADER = "header"
    NOT_TEXT = "not_text"
    FORMULA = "formula"
    EMAIL_TOO_LONG = "email_too_long"
    PASSWORD_TOO_LONG = "password_too_long"  # noqa: S105  the name of a check
    NAME_TOO_LONG = "name_too_long"
    TOTP_TOO_LONG = "totpsecret_too_long"
    NON_ASCII_EMAIL = "non_ascii_email"
    INVALID_EMAIL = "invalid_email"
    NOT_AT_MICROSOFT = "not_at_microsoft"
    MASKED = "masked_password"
    SPREADSHEET_ERROR = "spreadsheet_error"
    LOST_CHARACTERS = "lost_characters"
    CONTROL_CHARACTERS = "control_characters"
    INVALID_TOTP = "invalid_totp"
    INVALID_LOGIN = "invalid_login"

    @property
    def message(self) -> str:
        """The row error to show."""
        return ROW_MESSAGES[self][0]

    @property
    def remedy(self) -> str:
        """What the user can do about it: a short phrase."""
        return ROW_MESSAGES[self][1]


ROW_MESSAGES = {
    RowReason.EXTRA_CELLS: (
        "Row has more cells than the header",
        "quote values that contain the delimiter",
    ),
    RowReason.MISSING: ("Missing email or password", "fill in both cells"),
    RowReason.HEADER: (
        "Line is a header, not a mailbox",
        "delete the line; if the columns below it have another order, import them as a file of their own",
    ),
    RowReason.NOT_TEXT: (
        "A cell is a number, a date or an error: Excel may have changed it",
        "format the column as text and type the value again",
    ),
    RowReason.FORMULA: (
        "A cell is a formula, not text",
        "format the column as text, then type the value itself",
    ),
    RowReason.EMAIL_TOO_LONG: ("Email is longer than 254 characters", "check the cell"),
    RowReason.PASSWORD_TOO_LONG: ("Password is longer than 256 characters", "check the cell"),
    RowReason.NAME_TOO_LONG: ("Name is longer than 200 characters", "shorten the name"),
    RowReason.TOTP_TOO_LONG: ("TOTP secret is longer than 512 characters", "check the cell"),
    RowReason.NON_ASCII_EMAIL: (
        "Address has a letter such as ü before the @, which Microsoft does not allow",
        "enter the address as Outlook shows it",
    ),
    RowReason.INVALID_EMAIL: ("Invalid email address", "enter the full address, such as ann@example.com"),
    RowReason.NOT_AT_MICROSOFT: (
        "Not hosted at Microsoft",
        "remove the row, or name the domain in OUTLOOK_IMPORT_SERVERS",
    ),
    RowReason.MASKED: (
        "Password cell contains dots or stars, not the password",
        "show the password before you copy it",
    ),
    RowReason.SPREADSHEET_ERROR: (
        "Password cell contains an error of the spreadsheet, such as #NAME?",
        "format the column as text and type the password again",
    ),
    RowReason.LOST_CHARACTERS: (
        "Password contains �: characters were lost when the file was saved",
        "copy the password again and save the file as “CSV UTF-8”",
    ),
    RowReason.CONTROL_CHARACTERS: (
        "Password contains control characters",
        "copy the password again, without line breaks or tabs",
    ),
    RowReason.INVALID_TOTP: (
        "Invalid TOTP secret",
        "use the base32 secret (letters and the digits 2 to 7) or its otpauth://totp/ address",
    ),
    RowReason.INVALID_LOGIN: (
        "Sign-in name is longer than 254 characters or contains control characters",
        "check the cell, or leave it empty to sign in with the address",
    ),
}


class SkipReason(StrEnum):
    """Why a valid row was skipped."""

    DUPLICATE = "duplicate"
    DUPLICATE_DIFFERS = "duplicate_differs"
    ALREADY_STORED = "already_stored"
    UNCHANGED = "unchanged"
    REFUSED_BEFORE = "refused_before"

    @property
    def message(self) -> str:
        """Why, as a sentence without its full stop."""
        return SKIP_MESSAGES[self][0]

    @property
    def remedy(self) -> str:
        """What the user can do about it: a short phrase."""
        return SKIP_MESSAGES[self][1]


SKIP_MESSAGES = {
    SkipReason.DUPLICATE: (
        "The same mailbox appears earlier in the file",
        "nothing; the first row of the mailbox is used",
    ),
    SkipReason.DUPLICATE_DIFFERS: (
        "The same mailbox appears earlier in the file, with another password",
        "check that the first row has the right password",
    ),
    SkipReason.ALREADY_STORED: (
        "Already stored in the workspace: credentials not changed",
        "nothing; the mailbox is already there",
    ),
    SkipReason.UNCHANGED: (
        "Already stored with this very password",
        "nothing; the mailbox is already there",
    ),
    SkipReason.REFUSED_BEFORE: (
        "The servers have refused this very password: it is not sent again",
        "create a new app password",
    ),
}


class RowError(NamedTuple):
    """A row that failed.

    Attributes:
        line: Line of the file where the row starts; the first line is 1.
        email: "unknown" if the row has no address that is safe to show.
    """

    line: int
    email: str
    reason: RowReason

    @property
    def message(self) -> str:
        """The row error to show. It names the provider of a mailbox that is not at Microsoft."""
        key = email_key(self.email) if self.reason is RowReason.NOT_AT_MICROSOFT else None
        provider = consumer_provider(domain_of(key)) if key else None
        return f"{self.reason.message}: {provider}" if provider else self.reason.message

    def __str__(self) -> str:
        """All about it on one line: line, error, remedy and code."""
        return f"line {self.line}: {self.message}; {self.reason.remedy} ({self.reason})"


def why_not_imported(line: int, email: str, code: str) -> tuple[str, str]:
    """Message and remedy of a row that was not imported, by its code: a `RowReason` or a `SkipReason`."""
    if code in list(SkipReason):
        return SkipReason(code).message, SkipReason(code).remedy
    error = RowError(line, email, RowReason(code))
    return error.message, error.reason.remedy
