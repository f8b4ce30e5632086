"""What the HTTP API answers: one envelope, and the shapes in it, none of which has room for a secret."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from schemas.diagnosis import diagnose
from schemas.reasons import Protocol, Reason, Stage
from schemas.verdicts import MailboxStatus

Data = TypeVar("Data", bound=BaseModel)

# HTTP status → the code in the envelope.
ERROR_CODES = {
    400: "VALIDATION_ERROR",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    429: "TOO_MANY_REQUESTS",
    500: "INTERNAL_ERROR",
    503: "NOT_READY",
}
KEY_REQUIRED = "A valid X-Api-Key is required"
OTHER_WORKSPACE = "This key belongs to another workspace"
TOO_MANY_REQUESTS = "Too many requests with this key"
TOO_MANY_IMPORTS = "Too many imports at once with this key"
KEY_USED = "This Idempotency-Key was used for another file or tag"
BODY_TOO_LARGE = "The request is larger than the limit"
INTERNAL_ERROR = "The request failed through no fault of yours"
NOT_READY = "The database does not answer, or its tables are not up to date"


class Envelope(BaseModel, Generic[Data]):
    success: Literal[True] = True
    data: Data


class Fault(BaseModel):
    code: str
    message: str


class ErrorEnvelope(BaseModel):
    success: Literal[False] = False
    error: Fault


class FailedRow(BaseModel):
    email: str = Field(description="`unknown` where the row has none.")
    error: str


class ImportCounts(BaseModel):
    """What became of the rows of a file; `errors` holds the first 50, the counts are the true totals."""

    imported: int
    skipped: int
    failed: int
    errors: list[FailedRow]


class Mailbox(BaseModel):
    id: int
    email: str
    name: str | None
    tag: str | None
    status: MailboxStatus
    diagnosis: str = Field(description="What the last connection test found, in a sentence.")
    import_id: int
    smtp: str = Field(description="host:port")
    imap: str = Field(description="host:port")
    attempts: int
    created_at: datetime
    tested_at: datetime | None
    next_attempt_at: datetime | None


class ProtocolResult(BaseModel):
    """What one protocol said in its last attempt."""

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
    results: list[ProtocolResult]


class MailboxRecord(MailboxDetail):
    """What the housekeeping shows besides; no part of the HTTP API."""

    workspace: str
    file: str = Field(description="The file that it was imported from.")
    has_totp: bool
    claimed_until: datetime | None = Field(
        description="A run is testing the mailbox, and it belongs to that run until then at the latest."
    )


class MailboxPage(BaseModel):
    mailboxes: list[Mailbox]
    next_cursor: int | None = Field(description="The `cursor` of the next page; null on the last one.")


class Progress(BaseModel):
    """How far the connection tests of an import's mailboxes are."""

    mailboxes: int
    tested: int
    active: int
    failed: int
    pending: int


class RowFault(FailedRow):
    line: int = Field(description="Line of the file where the row begins; the first line is 1.")


class ImportSummary(BaseModel):
    id: int
    file: str
    tag: str | None
    created_at: datetime
    imported: int
    skipped: int
    failed: int
    progress: Progress


class Import(ImportSummary):
    errors: list[RowFault]
    next_cursor: int | None = Field(description="The `cursor` of the next page of errors.")


class Status(BaseModel):
    status: Literal["live", "ready"]


def failure(status: int, message: str) -> dict[str, Any]:
    code = ERROR_CODES.get(status, "ERROR")
    return {"success": False, "error": {"code": code, "message": message}}


def success(data: object) -> dict[str, Any]:
    return {"success": True, "data": data}


_MAILBOX = {
    "id": 7,
    "email": "ann@contoso.com",
    "name": "Ann",
    "tag": "outreach",
    "status": "failed",
    "diagnosis": diagnose(Reason.WRONG_CREDENTIALS, None),
    "import_id": 3,
    "smtp": "smtp.office365.com:587",
    "imap": "outlook.office365.com:993",
    "attempts": 1,
    "created_at": "2026-11-22T15:00:00Z",
    "tested_at": "2026-11-22T15:00:07Z",
    "next_attempt_at": None,
}
_ROW = {"email": "unknown", "error": "Missing email or password"}
EXAMPLES: dict[str, dict[str, Any]] = {
    "ImportCounts": {"imported": 20, "skipped": 2, "failed": 1, "errors": [_ROW]},
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
    "Import": {
        "id": 3,
        "file": "mailboxes.csv",
        "tag": "outreach",
        "created_at": "2026-11-22T15:00:00Z",
        "imported": 20,
        "skipped": 2,
        "failed": 1,
        "progress": {"mailboxes": 20, "tested": 15, "active": 12, "failed": 2, "pending": 6},
        "errors": [_ROW | {"line": 17}],
        "next_cursor": None,
    },
    "Status": {"status": "live"},
}
ERROR_EXAMPLES = {
    400: "limit: Input should be less than or equal to 200",
    401: KEY_REQUIRED,
    403: OTHER_WORKSPACE,
    404: "Not Found",
    409: KEY_USED,
    413: BODY_TOO_LARGE,
    429: TOO_MANY_REQUESTS,
    500: INTERNAL_ERROR,
    503: NOT_READY,
}


def documented(data: type[BaseModel], *errors: int, **headers: str) -> dict[int | str, dict[str, Any]]:
    """The answers of an operation for its OpenAPI description: the good one and these errors, by example.

    Args:
        headers: Name, with _ for -, and description of the headers of the good answer.
    """
    answers: dict[int | str, dict[str, Any]] = {
        200: {
            "model": Envelope[data],  # type: ignore[valid-type]
            "content": {"application/json": {"example": success(EXAMPLES[data.__name__])}},
            "headers": {name.replace("_", "-"): _header(text) for name, text in headers.items()},
        }
    }
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
