"""The HTTP API: `POST /v1/mailboxes/import/outlook`, and what its caller needs next.

An import runs the steps of the flow in the flow's order, on a thread, and is answered once its batch is
stored; the tests of its mailboxes go on behind the answer (`tasks.background`). Everything else only reads.

    python -m flows.api [--host HOST] [--port PORT]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import ipaddress
import re
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

import schemas.migrations
from flows.http_edge import (
    FRAME_BYTES,
    Edge,
    Limits,
    Protocol,
    header_text,
    not_ready,
    on_http_error,
    on_invalid_request,
    on_lost_database,
    tidied,
)
from flows.upload import Upload, read_upload
from schemas.csv_file import Refusal, parse, too_large
from schemas.labels import DEFAULT_WORKSPACE, LABEL_RULE, LONGEST_LABEL, is_label
from schemas.responses import (
    KEY_REQUIRED,
    KEY_USED,
    OTHER_WORKSPACE,
    Envelope,
    Import,
    ImportCounts,
    MailboxDetail,
    MailboxPage,
    Status,
    documented,
    success,
)
from schemas.rows import judge
from schemas.sealing import Owner, UnsealError
from schemas.settings import Settings, SettingsError, load_settings
from schemas.summary import MAX_ERRORS_SHOWN
from schemas.verdicts import MailboxStatus
from tasks.api_keys import Holder, find_key
from tasks.background import BackgroundTests
from tasks.crash import leave_no_core_file
from tasks.database import Database, DatabaseLostError, database, revision
from tasks.dedupe import dedupe
from tasks.lookup import Filters, find_import, find_keyed_import, find_mailbox, find_mailboxes
from tasks.store import KeyTakenError, Origin, store
from tasks.validate import validate

IMPORT_THREADS = 4  # more of them only wait for each other: for the interpreter, or for SQLite's one writer
LARGEST_ID = 2**63 - 1
LABEL_IN_ECMASCRIPT = r"^[\p{L}\p{N}_][\p{L}\p{N}_ .@+\-]*$"  # whose \w is ASCII only, unlike Python's
IDEMPOTENCY_KEY = r"^[!-~]{1,255}$"
DRAIN_SECONDS = 30
DONE, USAGE = 0, 2


@dataclass(frozen=True)
class Service:
    """What all requests share, for as long as the server runs."""

    settings: Settings
    mailboxes: Database
    tests: BackgroundTests
    limits: Limits
    importers: ThreadPoolExecutor


@dataclass(frozen=True)
class Answered:
    """An import and its answer; `untested` where there are new mailboxes to test."""

    envelope: dict[str, Any]
    import_id: int
    untested: bool


def create_app(settings: Settings) -> FastAPI:
    """The application; its database is open from start-up to shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        judge_nothing()
        with database(settings) as mailboxes, ThreadPoolExecutor(IMPORT_THREADS) as importers:
            tests = BackgroundTests(mailboxes, settings)
            limits = Limits(settings.api_requests_per_minute, settings.api_imports_at_once)
            app.state.service = Service(settings, mailboxes, tests, limits, importers)
            yield
            await tests.close()

    app = FastAPIOffline(
        title="Outlook mailbox import",
        version="1",
        description=__doc__.partition("\n\n    ")[0],
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            HTTPException: on_http_error,
            RequestValidationError: on_invalid_request,
            DatabaseLostError: on_lost_database,
        },
    )
    app.add_middleware(Edge, limit=settings.max_file_bytes + FRAME_BYTES)
    app.include_router(router)
    document = tidied(get_openapi(title=app.title, version=app.version, routes=app.routes))
    app.openapi = lambda: document  # type: ignore[method-assign]
    return app


def judge_nothing() -> None:
    """Have Polars and Pandera set themselves up, which would take the first import a fifth of a second."""
    table = parse(b"email,password\n,\n,x\n")
    if not isinstance(table, Refusal):
        judge(table)


# Who asks ------------------------------------------------------------


def service_of(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


Here = Annotated[Service, Depends(service_of)]
ApiKey = APIKeyHeader(
    name="X-Api-Key", auto_error=False, description="`sk_…` of a workspace, or `sk_user_…` of the platform"
)


async def holder_of(key: Annotated[str | None, Security(ApiKey)], service: Here) -> Holder:
    """Whose key it is, counted against the key's limit."""
    holder = await asyncio.to_thread(find_key, service.mailboxes, key) if key else None
    if holder is None:
        raise HTTPException(401, KEY_REQUIRED, {"WWW-Authenticate": "ApiKey"})
    service.limits.count_request(holder.key_id)
    return holder


async def caller_of(
    holder: Annotated[Holder, Depends(holder_of)],
    x_workspace: Annotated[
        str | None,
        Header(
            description="With a platform key: whose mailboxes they are (default: `default`).",
            json_schema_extra={"pattern": LABEL_IN_ECMASCRIPT, "maxLength": LONGEST_LABEL},
        ),
    ] = None,
) -> Holder:
    """The holder, with the workspace that the request is about."""
    named = header_text(x_workspace) if x_workspace is not None else None
    if named is not None and not is_label(named):
        raise HTTPException(400, f"X-Workspace: {LABEL_RULE}")
    if holder.workspace is not None and named not in (None, holder.workspace):
        raise HTTPException(403, OTHER_WORKSPACE)
    return holder._replace(workspace=holder.workspace or named or DEFAULT_WORKSPACE)


Caller = Annotated[Holder, Depends(caller_of)]

# What they ask for ---------------------------------------------------

router = APIRouter()
Id = Annotated[int, Path(ge=1, le=LARGEST_ID)]


class Paging(BaseModel, extra="forbid"):
    """Which page; a parameter that nobody knows is refused, because a filter misspelt would go unnoticed."""

    cursor: int = Field(0, ge=0, le=LARGEST_ID, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=200)


class Wanted(Paging):
    status: MailboxStatus | None = None
    tag: str | None = None
    batch: int | None = Field(None, ge=1, le=LARGEST_ID, description="The number of an import.")


UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "The CSV file."},
                        "tag": {
                            "type": "string",
                            "description": "Label for the mailboxes of this import.",
                            "pattern": LABEL_IN_ECMASCRIPT,
                            "maxLength": LONGEST_LABEL,
                        },
                    },
                },
                "example": {
                    "file": "email,password\nann@contoso.com,abcd efgh ijkl mnop\n",
                    "tag": "outreach",
                },
            }
        },
    }
}


@router.post(
    "/v1/mailboxes/import/outlook",
    summary="Import a CSV of Outlook mailboxes",
    responses=documented(
        ImportCounts, 400, 401, 403, 409, 413, 429, 500, 503, X_Import_Id="Of /v1/imports/{id}."
    ),
    openapi_extra=UPLOAD,
)
async def import_outlook(
    request: Request,
    caller: Caller,
    service: Here,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="The same key with the same file and tag gives the same answer and one import.",
            json_schema_extra={"pattern": IDEMPOTENCY_KEY},
        ),
    ] = None,
) -> JSONResponse:
    """Answers once the mailboxes are stored; their logins are tested afterwards."""
    if idempotency_key is not None and not re.fullmatch(IDEMPOTENCY_KEY, idempotency_key):
        raise HTTPException(400, "Idempotency-Key: use 1 to 255 printable ASCII characters without spaces")
    with service.limits.one_import(caller.key_id):
        upload = await read_upload(request)
        if isinstance(upload, Refusal):
            return JSONResponse(upload.envelope(), 400)
        outcome = await asyncio.get_running_loop().run_in_executor(
            service.importers, import_upload, upload, str(caller.workspace), idempotency_key, service
        )
    if isinstance(outcome, Refusal):
        return JSONResponse(outcome.envelope(), 400)
    if outcome.untested:
        service.tests.submit(outcome.import_id)
    return JSONResponse(outcome.envelope, headers={"X-Import-Id": str(outcome.import_id)})


def import_upload(upload: Upload, workspace: str, key: str | None, service: Service) -> Answered | Refusal:
    """Import a file, or answer as before where the caller repeats a request."""
    if key is None:
        return run_steps(upload, Origin(upload.file_name, workspace, upload.tag, test=True), service)
    digest = hashlib.sha256(f"{upload.tag or ''}\n".encode() + upload.data).hexdigest()
    owner = Owner(workspace, key, "fingerprint")
    if answered := answered_before(owner, digest, service.mailboxes):
        return answered
    sealed = service.mailboxes.sealer.seal(digest, owner)
    origin = Origin(
        upload.file_name, workspace, upload.tag, test=True, idempotency_key=key, fingerprint=sealed
    )
    try:
        return run_steps(upload, origin, service)
    except KeyTakenError:  # the same request came twice at once, and the other one was stored first
        answered = answered_before(owner, digest, service.mailboxes)
        if answered is None:
            raise
        return answered


def run_steps(upload: Upload, origin: Origin, service: Service) -> Answered | Refusal:
    """The steps of the flow in the flow's order; no plaintext gets past `validate`."""
    limit = service.settings.max_file_bytes
    table = too_large(limit) if len(upload.data) > limit else parse(upload.data)
    if isinstance(table, Refusal):
        return table
    validated = validate.fn(table, origin.workspace, service.mailboxes.sealer)
    deduped = dedupe.fn(validated.valid)
    if isinstance(deduped, Refusal):
        return deduped
    stored = store.fn(*deduped, validated, origin, service.mailboxes, service.settings)
    return Answered(
        stored.summary.envelope(), int(stored.summary.batch_id or 0), untested=bool(stored.targets)
    )


def answered_before(owner: Owner, digest: str, mailboxes: Database) -> Answered | None:
    """The answer that an idempotency key was given; refused where that was for something else."""
    keyed = find_keyed_import(mailboxes, owner.workspace, owner.email_key)
    if keyed is None:
        return None
    import_id, fingerprint = keyed
    try:
        same = hmac.compare_digest(mailboxes.sealer.open(fingerprint, owner), digest)
    except UnsealError:  # its key is gone since: nobody can say
        same = False
    found = find_import(mailboxes, owner.workspace, import_id, 0, MAX_ERRORS_SHOWN) if same else None
    if found is None:
        raise HTTPException(409, KEY_USED)
    errors = [{"email": error.email, "error": error.error} for error in found.errors]
    counts = {"imported": found.imported, "skipped": found.skipped, "failed": found.failed}
    return Answered(success(counts | {"errors": errors}), import_id, untested=False)


@router.get(
    "/v1/mailboxes", summary="List mailboxes", responses=documented(MailboxPage, 400, 401, 403, 429, 500, 503)
)
def list_mailboxes(
    caller: Caller, service: Here, wanted: Annotated[Wanted, Query()]
) -> Envelope[MailboxPage]:
    """In the order of their ids."""
    if wanted.tag is not None and not is_label(wanted.tag):
        return Envelope(data=MailboxPage(mailboxes=[], next_cursor=None))  # no mailbox has such a tag
    filters = Filters(wanted.status, wanted.tag, wanted.batch)
    workspace = str(caller.workspace)
    return Envelope(data=find_mailboxes(service.mailboxes, workspace, wanted.cursor, wanted.limit, filters))


@router.get(
    "/v1/mailboxes/{mailbox_id}",
    summary="One mailbox, with what each protocol said last",
    responses=documented(MailboxDetail, 400, 401, 403, 404, 429, 500, 503),
)
def show_mailbox(caller: Caller, service: Here, mailbox_id: Id) -> Envelope[MailboxDetail]:
    found = find_mailbox(service.mailboxes, str(caller.workspace), mailbox_id)
    if found is None:
        raise HTTPException(404, "No such mailbox")
    return Envelope(data=found)


@router.get(
    "/v1/imports/{import_id}",
    summary="One import: its counts, how far its tests are, and its row errors by page",
    responses=documented(Import, 400, 401, 403, 404, 429, 500, 503),
)
def show_import(
    caller: Caller, service: Here, import_id: Id, page: Annotated[Paging, Query()]
) -> Envelope[Import]:
    found = find_import(service.mailboxes, str(caller.workspace), import_id, page.cursor, page.limit)
    if found is None:
        raise HTTPException(404, "No such import")
    return Envelope(data=found)


@router.get("/healthz", summary="Is the server live?", responses=documented(Status))
async def healthz() -> Envelope[Status]:
    return Envelope(data=Status(status="live"))


@router.get("/readyz", summary="Does the database answer, up to date?", responses=documented(Status, 503))
def readyz(service: Here) -> Envelope[Status]:
    try:
        ready = revision(service.mailboxes.engine) == schemas.migrations.HEAD
    except SettingsError:
        ready = False
    if not ready:
        raise not_ready()
    return Envelope(data=Status(status="ready"))


# The server ----------------------------------------------------------


LOG_TO_STDERR: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        name: {"handlers": ["stderr"], "level": "INFO", "propagate": False}
        for name in ("uvicorn", "flows", "tasks")
    }
    | {"python_multipart": {"level": "CRITICAL"}},  # it quotes bytes of what is malformed
}


def server(settings: Settings, host: str, port: int, log: dict[str, Any] | None = None) -> uvicorn.Server:
    """The server, ready to run."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=host,
            port=port,
            http=Protocol,
            ws="none",
            log_config=log,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.api", description="Serve the HTTP API.")
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (default: %(default)s).")
    parser.add_argument("--port", type=int, default=8000, help="Port to listen on (default: %(default)s).")
    options = parser.parse_args(argv)
    leave_no_core_file()
    try:
        settings = load_settings()
        with database(settings):
            pass  # whatever is wrong with it is said in a sentence, before the server starts
    except SettingsError as error:
        sys.stderr.write(f"Settings: {error}\n")
        return USAGE
    if not is_loopback(options.host):
        sys.stderr.write(
            "Keys and passwords travel in clear on this address: put a TLS proxy in front of it.\n"
        )
    server(settings, options.host, options.port, LOG_TO_STDERR).run()
    return DONE


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    raise SystemExit(main())
