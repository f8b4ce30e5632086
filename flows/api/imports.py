"""Imports over HTTP: import a file, and read past imports."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.exceptions import HTTPException

from flows.api.auth import Importer, Reader
from flows.api.multipart import Upload, read_upload
from flows.api.openapi import UPLOAD, Id, Paging
from flows.api.service import Here, Service
from schemas.prepare import Prepared, prepare_rows
from schemas.reading import AS_IT_IS
from schemas.refusals import Refusal, too_large
from schemas.responses import (
    KEY_USED,
    NO_SUCH_IMPORT,
    CheckedFile,
    Envelope,
    ImportCounts,
    ImportDetail,
    ImportPage,
    RowPage,
    StoredRow,
    documented,
)
from schemas.sealing import Owner, UnsealError
from schemas.settings import Settings
from schemas.summary import MAX_ERRORS_SHOWN, TAKEN, Warned, import_envelope, results_of
from tasks.storage.database import Database, NoSuchWorkspaceError, require_workspace
from tasks.storage.imports import (
    WARNED_ROWS,
    RowFilters,
    find_import,
    find_imports,
    find_keyed_import,
    find_rows,
)
from tasks.storage.outcomes import who_acts
from tasks.store import KeyTakenError, Origin, store, would_store

router = APIRouter()

IDEMPOTENCY_KEY = r"^[!-~]{1,255}$"
CreateWorkspace = Annotated[
    Literal["true", "false"],
    Header(description="With a platform key: `true` creates the workspace if it does not exist."),
]


@dataclass(frozen=True)
class Answered:
    """A finished import.

    Attributes:
        envelope: The response.
        untested: Whether there are new mailboxes to test.
    """

    envelope: dict[str, Any]
    import_id: int
    untested: bool


@router.post(
    "/v1/mailboxes/import/outlook",
    summary="Import a CSV of Outlook mailboxes",
    responses=documented(
        ImportCounts,
        400,
        401,
        403,
        404,
        408,
        409,
        413,
        429,
        500,
        503,
        X_Import_Id="The id for /v1/imports/{id}.",
    ),
    openapi_extra=UPLOAD,
)
async def import_outlook(
    request: Request,
    caller: Importer,
    service: Here,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Makes retries safe: a repeated request with the same key, file and tag returns the "
            "first response and does not import again.",
            json_schema_extra={"pattern": IDEMPOTENCY_KEY},
        ),
    ] = None,
    x_create_workspace: CreateWorkspace = "false",
) -> JSONResponse:
    """Responds when the mailboxes are stored. Their logins are tested in the background."""
    if idempotency_key is not None and not re.fullmatch(IDEMPOTENCY_KEY, idempotency_key):
        raise HTTPException(400, "Idempotency-Key: use 1 to 255 printable ASCII characters without spaces")
    if x_create_workspace == "false":
        await asyncio.to_thread(require_workspace, service.mailboxes, str(caller.workspace))
    upload = await read_upload(request)
    if isinstance(upload, Refusal):
        return JSONResponse(upload.envelope(), 400)
    with service.limits.one_import(caller.key_id):  # a slow upload must not hold a slot
        outcome = await asyncio.get_running_loop().run_in_executor(
            service.importers, import_upload, upload, str(caller.workspace), idempotency_key, service
        )
    if isinstance(outcome, Refusal):
        return JSONResponse(outcome.envelope(), 400)
    if outcome.untested:
        service.tests.submit(outcome.import_id)
    return JSONResponse(outcome.envelope, headers={"X-Import-Id": str(outcome.import_id)})


def import_upload(upload: Upload, workspace: str, key: str | None, service: Service) -> Answered | Refusal:
    """Import a file, or return the first response if the caller repeats a request.

    Args:
        key: The idempotency key, if any.

    Raises:
        HTTPException: 409 if the key was already used with another file or tag.
    """
    origin = Origin(
        upload.file_name, workspace, upload.tag, test=True, needs=upload.needs, update=upload.update
    )
    if key is None:
        return store_upload(upload, origin, service)
    digest = digest_of(upload)
    owner = Owner(workspace, key, "fingerprint")
    if answered := answered_before(owner, digest, service.mailboxes, update=upload.update):
        return answered
    sealed = service.mailboxes.sealer.seal(digest, owner)
    try:
        return store_upload(upload, origin._replace(idempotency_key=key, fingerprint=sealed), service)
    except KeyTakenError:  # the same request arrived twice at once, and the other one is already stored
        answered = answered_before(owner, digest, service.mailboxes, update=upload.update)
        if answered is None:
            raise
        return answered


def digest_of(upload: Upload) -> str:
    """SHA-256 of what a request asks for: the file, its tag, how to read it and what it is needed for."""
    reading, needs = upload.reading, upload.needs
    # A request without these fields has the digest that it had before they existed.
    chosen = (reading.encoding, sorted(reading.columns.items()), reading.trim, needs and str(needs))
    more = "" if reading == AS_IT_IS and needs is None else repr(chosen)
    more += "update" if upload.update else ""
    return hashlib.sha256(f"{upload.tag or ''}{more}\n".encode() + upload.data).hexdigest()


def store_upload(upload: Upload, origin: Origin, service: Service) -> Answered | Refusal:
    """Prepare and store a file, with the same functions as the flow."""
    prepared = prepare_upload(upload, service.settings)
    if isinstance(prepared, Refusal):
        return prepared
    stored = store.fn(prepared, origin, service.mailboxes, service.settings)
    return Answered(stored.summary.envelope(), stored.import_id, untested=bool(stored.targets))


def prepare_upload(upload: Upload, settings: Settings) -> Prepared | Refusal:
    """The rows of an upload, or the refusal of its file."""
    limit = settings.max_file_bytes
    data = too_large(limit) if len(upload.data) > limit else upload.data
    return prepare_rows(data, upload.reading, settings.bounds, tuple(settings.overrides))


@router.post(
    "/v1/imports/check",
    summary="Check a file: what would its import answer?",
    responses=documented(CheckedFile, 400, 401, 403, 404, 408, 409, 413, 429, 500, 503),
    openapi_extra=UPLOAD,
)
async def check_import(
    request: Request, caller: Importer, service: Here, x_create_workspace: CreateWorkspace = "false"
) -> JSONResponse:
    """Takes the fields of an import, gives its counts, errors and warnings, and stores nothing."""
    workspace = str(caller.workspace)
    with suppress(*[NoSuchWorkspaceError] if x_create_workspace == "true" else []):
        await asyncio.to_thread(require_workspace, service.mailboxes, workspace)
    upload = await read_upload(request)
    if isinstance(upload, Refusal):
        return JSONResponse(upload.envelope(), 400)
    with service.limits.one_import(caller.key_id):
        outcome = await asyncio.get_running_loop().run_in_executor(
            service.importers, check_upload, upload, workspace, service
        )
    return JSONResponse(outcome.envelope(), 400) if isinstance(outcome, Refusal) else JSONResponse(outcome)


def check_upload(upload: Upload, workspace: str, service: Service) -> dict[str, Any] | Refusal:
    """What the import of a file would answer, and where to look in the file."""
    prepared = prepare_upload(upload, service.settings)
    if isinstance(prepared, Refusal):
        return prepared
    origin = Origin(upload.file_name, workspace, upload.tag, test=False, update=upload.update)
    summary = would_store(service.mailboxes, prepared, origin)
    left_out = [one for one in summary.outcomes if one.result not in TAKEN]
    envelope = summary.envelope()
    envelope["data"] |= {
        "causes": [cause._asdict() for cause in summary.causes() + summary.warnings()],
        "rows": [
            {"line": o.line, "email": o.email, "result": o.result, "code": o.code, "error": o.reason}
            for o in left_out[:MAX_ERRORS_SHOWN]
        ],
        "ignored": list(summary.ignored),
    }
    return envelope


def answered_before(
    owner: Owner, digest: str, mailboxes: Database, *, update: bool = False
) -> Answered | None:
    """The first response to an idempotency key, or None if the key is new.

    Args:
        owner: The workspace and the key; the owner of the sealed fingerprint.
        digest: SHA-256 of what the request asks for.
        update: Whether it asks for an update.

    Raises:
        HTTPException: 409 if the key was used with another file or tag.
    """
    keyed = find_keyed_import(mailboxes, owner.workspace, owner.email_key)
    if keyed is None:
        return None
    import_id, fingerprint = keyed
    try:
        same = hmac.compare_digest(mailboxes.sealer.open(fingerprint, owner), digest)
    except UnsealError:  # the encryption key is gone, so the request cannot be compared
        same = False
    found = find_import(mailboxes, owner.workspace, import_id, 0, MAX_ERRORS_SHOWN) if same else None
    if found is None:
        raise HTTPException(409, KEY_USED)
    counts = {result.value: getattr(found, result) for result in results_of(update=update)}
    errors = [(error.email, error.error) for error in found.errors]
    warned = find_rows(mailboxes, import_id, WARNED_ROWS, limit=MAX_ERRORS_SHOWN)
    return Answered(import_envelope(counts, errors, warnings_of(warned)), import_id, untested=False)


def warnings_of(rows: Sequence[StoredRow]) -> list[Warned]:
    """The warnings of stored rows, as the import told them."""
    return [Warned(row.line, row.email, text) for row in rows for text in row.warning.splitlines()]


@router.get(
    "/v1/imports",
    summary="List imports, newest first",
    responses=documented(ImportPage, 400, 401, 403, 429, 500, 503),
)
def list_imports(caller: Reader, service: Here, page: Annotated[Paging, Query()]) -> Envelope[ImportPage]:
    """Each with the counts of its rows and the progress of its tests."""
    found = find_imports(service.mailboxes, str(caller.workspace), page.limit + 1, page.cursor)
    shown = found[: page.limit]
    more = len(found) > page.limit
    return Envelope(data=ImportPage(imports=shown, next_cursor=shown[-1].id if more else None))


@router.get(
    "/v1/imports/{import_id:id}",
    summary="Get an import: its counts, the progress of its tests, and a page of its row errors",
    responses=documented(ImportDetail, 400, 401, 403, 404, 429, 500, 503),
)
def show_import(
    caller: Reader, service: Here, import_id: Id, page: Annotated[Paging, Query()]
) -> Envelope[ImportDetail]:
    found = find_import(service.mailboxes, str(caller.workspace), import_id, page.cursor, page.limit)
    if found is None:
        raise HTTPException(404, NO_SUCH_IMPORT)
    act = who_acts(service.mailboxes, str(caller.workspace), import_id)
    return Envelope(data=ImportDetail(**dict(found), who_has_to_act=act))


class RowsPaging(Paging):
    """Which rows to list."""

    status: Literal["imported", "updated", "skipped", "failed"] | None = Field(
        None, description="Only rows with this result."
    )
    reason: Annotated[str, Field(pattern="^[a-z_]{1,40}$")] | None = Field(
        None, description="Only rows that were not imported for this reason: a `code`."
    )
    warned: Literal["true", "false"] = Field("false", description="`true` for rows with a warning only.")


@router.get(
    "/v1/imports/{import_id:id}/rows",
    summary="List the rows of an import with their results",
    responses=documented(RowPage, 400, 401, 403, 404, 429, 500, 503),
)
def list_rows(
    caller: Reader, service: Here, import_id: Id, page: Annotated[RowsPaging, Query()]
) -> Envelope[RowPage]:
    if find_import(service.mailboxes, str(caller.workspace), import_id, 0, 0) is None:
        raise HTTPException(404, NO_SUCH_IMPORT)
    filters = RowFilters(page.status, page.reason, page.warned == "true")
    rows = find_rows(service.mailboxes, import_id, filters, page.cursor, page.limit + 1)
    shown = rows[: page.limit]
    more = len(rows) > page.limit
    return Envelope(data=RowPage(rows=shown, next_cursor=shown[-1].line if more else None))
