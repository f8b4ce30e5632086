"""Reports and hand-overs of imports over HTTP, made by the functions that the command line uses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from flows.api.auth import Reader
from flows.api.openapi import Id
from flows.api.service import Here, Service
from schemas.handover import handover, zipped
from schemas.outcomes import Document, Outcome
from schemas.report_csv import COLUMNS
from schemas.responses import NO_SUCH_IMPORT, documented_file
from tasks.files.report_file import report_content
from tasks.hints import command
from tasks.storage.api_keys import Holder
from tasks.storage.outcomes import find_outcomes

router = APIRouter()

ERRORS = (400, 401, 403, 404, 429, 500, 503)
WORKBOOK = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # Should a browser show the page at this address, it runs no script there. A saved page runs its own.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox",
}
TEXT = {"schema": {"type": "string"}}

Make = Callable[[Document, Iterable[Outcome]], bytes]


@router.get(
    "/v1/imports/{import_id:id}/report.csv",
    summary="Download a report of an import as CSV",
    response_class=Response,
    responses=documented_file(
        "text/csv", "A line for each row.", *ERRORS, shape=TEXT | {"example": ",".join(COLUMNS)}
    ),
)
async def report_csv(caller: Reader, service: Here, import_id: Id) -> Response:
    """The import as it is now, with the columns of the report of a run."""
    return await report(".csv", "text/csv; charset=utf-8", caller, service, import_id)


@router.get(
    "/v1/imports/{import_id:id}/report.xlsx",
    summary="Download a report of an import as an Excel workbook",
    response_class=Response,
    responses=documented_file(WORKBOOK, "The workbook.", *ERRORS),
)
async def report_xlsx(caller: Reader, service: Here, import_id: Id) -> Response:
    """The import as it is now, with a sheet of what to do."""
    return await report(".xlsx", WORKBOOK, caller, service, import_id)


@router.get(
    "/v1/imports/{import_id:id}/report.html",
    summary="Download a report of an import as a page to print",
    response_class=Response,
    responses=documented_file("text/html", "The page.", *ERRORS, shape=TEXT),
)
async def report_html(caller: Reader, service: Here, import_id: Id) -> Response:
    """The import as it is now, in one file that loads nothing else."""
    return await report(".html", "text/html; charset=utf-8", caller, service, import_id)


@router.get(
    "/v1/imports/{import_id:id}/handover.zip",
    summary="Download what each person needs who has to act",
    response_class=Response,
    responses=documented_file("application/zip", "Scripts, letters and lists.", *ERRORS),
)
async def handover_zip(caller: Reader, service: Here, import_id: Id) -> Response:
    """The files of `imports handover`, without a secret. Begin with `README.txt`."""

    def make(document: Document, outcomes: Iterable[Outcome]) -> bytes:
        return zipped(handover(document, outcomes, program=command()))

    return await exported(make, "handover", ".zip", "application/zip", caller, service, import_id)


async def report(suffix: str, media_type: str, caller: Holder, service: Service, import_id: int) -> Response:
    """A report of an import, as `imports report` writes it."""

    def make(document: Document, outcomes: Iterable[Outcome]) -> bytes:
        return report_content(suffix, document, list(outcomes))

    return await exported(make, "report", suffix, media_type, caller, service, import_id)


async def exported(
    make: Make, what: str, suffix: str, media_type: str, caller: Holder, service: Service, import_id: int
) -> Response:
    """A file about an import. Its name has the import's number and nothing that a caller chose.

    Raises:
        HTTPException: 404 if the workspace has no such import, 429 if the key makes too many files at once.
    """

    def work() -> bytes | None:
        found = find_outcomes(service.mailboxes, str(caller.workspace), import_id)
        return make(*found) if found else None

    with service.limits.one_job(caller.key_id):
        content = await asyncio.get_running_loop().run_in_executor(service.workers, work)
    if content is None:
        raise HTTPException(404, NO_SUCH_IMPORT)
    name = f"import-{import_id}-{what}{suffix}"
    headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=media_type, headers=headers)
