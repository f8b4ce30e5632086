"""The responses of the HTTP API: one envelope and its models. No model has a field for a secret."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from schemas.diagnosis import diagnose
from schemas.envelope import failure, success
from schemas.reasons import Protocol, Reason, Stage
from schemas.standing import MailboxStatus, Needs, ProtocolTest, Standing, State

Data = TypeVar("Data", bound=BaseModel)

KEY_REQUIRED = "A valid X-Api-Key is required"
OTHER_WORKSPACE = "This key belongs to another workspace"
TOO_MANY_REQUESTS = "Too many requests with this key"
TOO_MANY_WRONG_KEYS = "Too many wrong keys from this address"
TOO_MANY_IMPORTS = "Too many concurrent imports with this key"
TOO_MANY_JOBS = "Too many concurrent reports and bulk changes with this key"
TOO_MANY_STREAMS = "Too many open event streams"
NO_SUCH_IMPORT = "No such import"
NO_SUCH_MAILBOX = "No such mailbox"
NO_SUCH_WORKSPACE = "No such workspace: to create it, send X-Create-Workspace: true"
KEY_USED = "This Idempotency-Key was already used with another file or tag"
BODY_TOO_LARGE = "The request is larger than the limit"
HEADERS_TOO_SLOW = "The headers arrived too slowly"
BODY_TOO_SLOW = "The body arrived too slowly"
TOO_MANY_CONNECTIONS = "Too many connections"
TOO_MANY_BODIES = "Too many uploads at once"
INTERNAL_ERROR = "Internal error"
NOT_READY = "The database does not respond, or its tables are not up to date"


class Envelope(BaseModel, Generic[Data]):
    """A successful response."""

    success: Literal[True] = True
    data: Data


class Details(BaseModel):
    """What else is known about a refused file. Only what is known is there."""

    explanation: str | None = Field(default=None, description="What to look at, in one sentence.")
    line: int | None = Field(default=None, description="The line at fault; the first line is 1.")
    missing: list[str] | None = Field(default=None, description="The fields that have no column.")
    headers: list[str] | None = Field(default=None, description="The headers that were found.")
    known: dict[str, list[str]] | None = Field(
        default=None,
        description="Names that are recognised for each missing field, without spaces and hyphens.",
    )


class Fault(BaseModel):
    """What went wrong: a value of `envelope.ERROR_CODES` and a message."""

    code: str
    message: str
    details: Details | None = None


class ErrorEnvelope(BaseModel):
    """An error response."""

    success: Literal[False] = False
    error: Fault


class FailedRow(BaseModel):
    """A row that was not imported."""

    email: str = Field(description="`unknown` if the row has no address that is safe to show.")
    error: str


class WarnedRow(BaseModel):
    """A warning about a row, or a note about the file."""

    line: int
    email: str | None = Field(description="null in a note about the file, which has the header's line.")
    warning: str


class ImportCounts(BaseModel):
    """The result of an import. The counts cover all rows.

    `errors` and `warnings` contain only the first 50; all are in `/v1/imports/{id}/rows`.
    """

    imported: int
    skipped: int
    failed: int
    updated: int | None = Field(default=None, description="Left out unless an update was asked for.")
    errors: list[FailedRow]
    warnings: list[WarnedRow] | None = Field(default=None, description="Left out if there are none.")


class NotImported(BaseModel):
    """Why rows are not imported, or what is to be checked in rows that are."""

    reason: str
    rows: int
    remedy: str


class CheckedRow(FailedRow):
    """A row that would not be imported, with its line."""

    line: int = Field(description="Line of the file where the row starts; the first line is 1.")
    result: Literal["skipped", "failed"]
    code: str


class CheckedFile(ImportCounts):
    """What an import of the file would answer now, and where to look in the file."""

    causes: list[NotImported] = Field(
        description="Row errors, skipped rows and warnings, each with its rows."
    )
    rows: list[CheckedRow] = Field(description="The first 50 rows that would not be imported.")
    ignored: list[str] = Field(description="Headers of the columns that are not used.")


class Mailbox(BaseModel):
    """A stored mailbox."""

    id: int
    email: str
    name: str | None
    tag: str | None
    status: MailboxStatus
    diagnosis: str = Field(description="The result of the last connection test, in one line.")
    import_id: int
    smtp: str = Field(description="host:port")
    imap: str = Field(description="host:port")
    attempts: int
    created_at: datetime
    tested_at: datetime | None
    next_attempt_at: datetime | None
    needs: Needs = Field(description="What the mailbox is needed for. Only that is tested.")
    can: str = Field(description="“can send and receive”, “can only send”, …, by what was accepted.")
    smtp_reason: Reason | None = Field(description="Why SMTP is refused or put off.")
    imap_reason: Reason | None = Field(description="Why IMAP is refused or put off.")


class ProtocolResult(BaseModel):
    """The result of the last probe of one protocol."""

    protocol: Protocol
    attempt: int
    at: datetime
    reason: Reason
    title: str
    meaning: str
    remedy: str
    stage: Stage
    server_text: str
    host: str
    milliseconds: int


class MailboxDetail(Mailbox):
    """A stored mailbox, with the last result of each protocol."""

    results: list[ProtocolResult]


class NewPassword(Mailbox):
    """A stored mailbox with a new password."""

    warning: str = Field(description="How the new password may have been damaged by copying, or empty.")


class ConnectionTest(BaseModel):
    """How far the connection test of a mailbox has come. null: the mailbox is not needed for the protocol."""

    id: int
    status: MailboxStatus
    smtp: ProtocolTest | None
    imap: ProtocolTest | None
    diagnosis: str
    tested_at: datetime | None
    next_attempt_at: datetime | None


class Changed(BaseModel):
    """How many mailboxes a request has changed or deleted."""

    mailboxes: int


class MailboxRecord(MailboxDetail):
    """What the command line shows in addition. Not part of the HTTP API."""

    workspace: str
    file: str = Field(description="The file that the mailbox was imported from.")
    has_totp: bool
    login: str | None = Field(description="The sign-in name; null if it is the address.")
    warning: str = Field(description="How the password may have been damaged in the file, or empty.")
    claimed_until: datetime | None = Field(
        description="When the claim of the run that is testing the mailbox expires; null without a claim."
    )


class MailboxPage(BaseModel):
    """One page of mailboxes."""

    mailboxes: list[Mailbox]
    next_cursor: int | None = Field(description="The `cursor` of the next page; null on the last page.")


class Progress(BaseModel):
    """Progress of the connection tests of an import, in mailboxes."""

    mailboxes: int
    tested: int
    active: int
    partial: int = Field(0, description="One protocol works, and the other refuses this password.")
    failed: int
    pending: int


class RowFault(FailedRow):
    """A row that was not imported, with its line."""

    line: int = Field(description="Line of the file where the row starts; the first line is 1.")


class StoredRow(BaseModel):
    """A row of an imported file, or a note about the file."""

    line: int = Field(description="Line of the file where the row starts; the first line is 1.")
    email: str | None = Field(description="`unknown` if no address is safe to show; null in a note.")
    result: Literal["imported", "updated", "skipped", "failed", "note"]
    code: str = Field(description="Why the row was not imported, or empty.")
    message: str = Field(description="The same as a sentence, or empty.")
    warning: str = Field(description="What to check, or empty.")


class RowPage(BaseModel):
    """One page of the rows of an import. Of the failed and the repeated rows, 1,000 each are stored."""

    rows: list[StoredRow]
    next_cursor: int | None = Field(description="The `cursor` of the next page; null on the last page.")


class ImportSummary(BaseModel):
    """An import: the counts of its rows, and the progress of its tests."""

    id: int
    file: str
    tag: str | None
    created_at: datetime
    imported: int
    updated: int = Field(0, description="Stored mailboxes that got a new password.")
    skipped: int
    failed: int
    progress: Progress


class ImportPage(BaseModel):
    """One page of imports, newest first."""

    imports: list[ImportSummary]
    next_cursor: int | None = Field(description="The `cursor` of the next page; null on the last page.")


class Import(ImportSummary):
    """An import with one page of its row errors."""

    errors: list[RowFault]
    errors_stored: int = Field(
        description="How many row errors can be read: at most the first 1,000 of an import, and none when "
        "they are no longer kept. `failed` is the number of all failed rows."
    )
    next_cursor: int | None = Field(
        description="The `cursor` of the next page of errors; null on the last page."
    )


class ImportDetail(Import):
    """An import with one page of its row errors, and what is to be done."""

    who_has_to_act: str = Field(
        description="Who has to act for the mailboxes that do not work, and for how many; empty for no one."
    )


class Status(BaseModel):
    """The response of the health checks."""

    status: Literal["live", "ready"]


_WRONG = Standing(State.REFUSED, Reason.WRONG_CREDENTIALS, 1)
_MAILBOX = {
    "id": 7,
    "email": "ann@contoso.com",
    "name": "Ann",
    "tag": "outreach",
    "status": "failed",
    "diagnosis": diagnose({Protocol.SMTP: _WRONG, Protocol.IMAP: Standing()}),
    "import_id": 3,
    "smtp": "smtp.office365.com:587",
    "imap": "outlook.office365.com:993",
    "attempts": 1,
    "created_at": "2026-11-22T15:00:00Z",
    "tested_at": "2026-11-22T15:00:07Z",
    "next_attempt_at": None,
    "needs": "both",
    "can": "can neither send nor receive",
}
_ROW = {"email": "unknown", "error": "Missing email or password"}
_COUNTS = {"imported": 20, "skipped": 2, "failed": 1}
_PROGRESS = {"mailboxes": 20, "tested": 15, "active": 12, "partial": 0, "failed": 2, "pending": 6}
_IMPORT = {
    "id": 3,
    "file": "mailboxes.csv",
    "tag": "outreach",
    "created_at": "2026-11-22T15:00:00Z",
    **_COUNTS,
    "updated": 0,
    "progress": _PROGRESS,
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "ImportCounts": _COUNTS | {"errors": [_ROW]},
    "CheckedFile": _COUNTS
    | {
        "errors": [_ROW],
        "causes": [{"reason": _ROW["error"], "rows": 1, "remedy": "fill in the missing cell"}],
        "rows": [_ROW | {"line": 17, "result": "failed", "code": "missing"}],
        "ignored": ["phone"],
    },
    "ImportPage": {"imports": [_IMPORT], "next_cursor": 3},
    "Mailbox": _MAILBOX,
    "NewPassword": _MAILBOX | {"status": "pending", "diagnosis": "", "attempts": 0, "warning": ""},
    "ConnectionTest": {
        **{name: _MAILBOX[name] for name in ("id", "status", "diagnosis", "tested_at", "next_attempt_at")},
        "smtp": "failed",
        "imap": "failed",
    },
    "Changed": {"mailboxes": 12},
    "MailboxPage": {"mailboxes": [_MAILBOX], "next_cursor": 7},
    "MailboxDetail": _MAILBOX
    | {
        "results": [
            {
                "protocol": "smtp",
                "attempt": 1,
                "at": "2026-11-22T15:00:07Z",
                "reason": Reason.WRONG_CREDENTIALS.value,
                "title": Reason.WRONG_CREDENTIALS.explanation.title,
                "meaning": Reason.WRONG_CREDENTIALS.explanation.meaning,
                "remedy": Reason.WRONG_CREDENTIALS.explanation.remedy,
                "stage": "login",
                "server_text": "535 5.7.139 Authentication unsuccessful, the user credentials were incorrect",
                "host": "smtp.office365.com:587",
                "milliseconds": 412,
            }
        ]
    },
    "ImportDetail": _IMPORT
    | {"errors": [_ROW | {"line": 17}], "errors_stored": 1, "next_cursor": None}
    | {"who_has_to_act": "1 needs a new app password from its owner"},
    "RowPage": {
        "rows": [
            {
                "line": 17,
                "email": "unknown",
                "result": "failed",
                "code": "missing",
                "message": "Missing email or password",
                "warning": "",
            }
        ],
        "next_cursor": None,
    },
    "Status": {"status": "live"},
}
ERROR_EXAMPLES = {
    400: "limit: Input should be less than or equal to 200",
    401: KEY_REQUIRED,
    403: OTHER_WORKSPACE,
    404: "Not Found",
    408: BODY_TOO_SLOW,
    409: KEY_USED,
    413: BODY_TOO_LARGE,
    429: TOO_MANY_REQUESTS,
    500: INTERNAL_ERROR,
    503: NOT_READY,
}


def documented(data: type[BaseModel], *errors: int, **headers: str) -> dict[int | str, dict[str, Any]]:
    """The responses of an operation for its OpenAPI description, with examples.

    Args:
        data: Model of the data in the successful response.
        errors: HTTP statuses of the error responses.
        headers: Headers of the successful response: name, with _ in place of -, and description.

    Returns:
        The `responses` argument of a FastAPI route.
    """
    answer = {
        "model": Envelope[data],  # type: ignore[valid-type]
        "content": {"application/json": {"example": success(EXAMPLES[data.__name__])}},
        "headers": {name.replace("_", "-"): _header(text) for name, text in headers.items()},
    }
    return {200: answer} | documented_errors(*errors)


BINARY = {"schema": {"type": "string", "format": "binary"}}


def documented_file(
    media_type: str, description: str, *errors: int, shape: Mapping[str, Any] = BINARY
) -> dict[int | str, dict[str, Any]]:
    """The same for an operation that answers with a file or a stream.

    Args:
        shape: Its schema, and an example.
    """
    answer = {"description": description, "content": {media_type: dict(shape)}}
    return {200: answer} | documented_errors(*errors)


def documented_errors(*errors: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of an operation, with examples."""
    answers: dict[int | str, dict[str, Any]] = {}
    for status in errors:
        answers[status] = {
            "model": ErrorEnvelope,
            "content": {"application/json": {"example": failure(status, ERROR_EXAMPLES[status])}},
        }
    for status in {429, 503} & set(errors):
        answers[status]["headers"] = {"Retry-After": _header("Seconds to wait.")}
    return answers


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "integer"}}
