"""The pages of past imports: progress, who has to act, the table of mailboxes, reports and the hand-over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Query
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from flows.api.changes import note
from flows.api.exports import WORKBOOK, exported, handover_zip, report
from flows.api.openapi import LARGEST_ID, Id
from flows.api.page.access import OwnForm, Signed, may, refuse_foreign
from flows.api.page.rendering import render
from flows.api.page.sessions import Session
from flows.api.page.views import (
    STATUSES,
    Chip,
    Wanted,
    actor_chips,
    bars,
    each_once,
    rows_of,
    sections,
    status_chips,
)
from flows.api.service import Here, Service
from schemas.handover import handover
from schemas.handover.readme import FIX_PASSWORDS
from schemas.labels import counted
from schemas.outcomes import (
    Document,
    Outcome,
    actions,
    forecast,
    who_has_to_act,
)
from schemas.report_html import kind_of
from schemas.scopes import Scope
from schemas.summary import Result
from tasks.hints import command
from tasks.storage.imports import count_reasons, find_import, find_imports
from tasks.storage.mailbox_changes import delete_mailboxes, make_due
from tasks.storage.mailboxes import Filters, count_waiting
from tasks.storage.outcomes import find_outcomes

router = APIRouter(dependencies=[Depends(refuse_foreign)])

LISTED = 100
MOST_ROWS = 200
STOP_POLLING = 286  # htmx ends a poll with this status
MEDIA = {"csv": "text/csv; charset=utf-8", "xlsx": WORKBOOK, "html": "text/html; charset=utf-8"}
NOTHING_TO_TEST = "Nothing to test: these mailboxes work."
T = TypeVar("T")


Which = Annotated[Wanted, Query()]


def _find(
    service: Service, session: Session, import_id: int, filters: Filters | None = None
) -> tuple[Document, list[Outcome]]:
    found = find_outcomes(service.mailboxes, session.workspace, import_id, filters)
    if found is None:
        raise HTTPException(404, "No such import")
    return found


def _selected(
    service: Service, session: Session, import_id: int, wanted: Wanted
) -> tuple[Document, list[Outcome]]:
    """The mailboxes of an import that a person has selected, each once."""
    document, outcomes = _find(service, session, import_id, wanted.filters(import_id))
    if wanted.actor:
        theirs = {id(one) for act in actions(outcomes) if act.actor == wanted.actor for one in act.outcomes}
        outcomes = [one for one in outcomes if id(one) in theirs]
    return document, each_once(outcomes)


@router.get("/imports")
def list_imports(
    session: Signed, service: Here, before: Annotated[int, Query(ge=0, le=LARGEST_ID)] = 0
) -> Response:
    """The imports, newest first, page by page."""
    found = find_imports(service.mailboxes, session.workspace, LISTED + 1, before)
    more = found[LISTED - 1].id if len(found) > LISTED else None
    return render("imports.html", session, imports=found[:LISTED], before=before, more=more)


@router.get("/imports/{import_id:id}")
def show_import(import_id: Id, session: Signed, service: Here, wanted: Which) -> Response:
    document, outcomes = _find(service, session, import_id)
    return render(
        "import.html",
        session,
        document=document,
        failed=_without_mailbox(outcomes, Result.FAILED),
        skipped=_without_mailbox(outcomes, Result.SKIPPED),
        warned=[one for one in outcomes if one.warning],
        most=MOST_ROWS,
        **_live(service, session, import_id, wanted, outcomes),
        **_table(service, session, import_id, wanted, outcomes),
    )


@router.get("/imports/{import_id:id}/live")
def show_progress(import_id: Id, session: Signed, service: Here, wanted: Which) -> Response:
    """What changes while tests run. The browser asks again until none runs."""
    if running := _running(service, session, import_id):
        return render("live.html", None, polled=True, **running)
    document, outcomes = _find(service, session, import_id)
    values = _live(service, session, import_id, wanted, outcomes)
    answer = render("live.html", None, STOP_POLLING, document=document, polled=True, **values)
    answer.headers["HX-Trigger"] = "tests-ended"
    return answer


def _running(service: Service, session: Session, import_id: int) -> dict[str, Any] | None:
    """The progress of tests that run, from counts alone, because browsers ask for it again and again."""
    database, workspace = service.mailboxes, session.workspace
    waiting = count_waiting(database, workspace, Filters(import_id=import_id))
    found = find_import(database, workspace, import_id, 0, 0) if waiting.running else None
    if found is None:
        return None
    kinds = Counter(fails=found.failed, skipped=found.skipped)
    for status, (kind, _) in STATUSES.items():
        kinds[kind] += getattr(found.progress, status)
    return {
        "running": waiting.running,
        "prefect": service.tests.page_of_run(import_id),
        "mailboxes": found.progress.mailboxes,
        "bars": bars(kinds, kinds.total()),
        "held": 0,
        "sections": [],
    }


@router.get("/imports/{import_id:id}/mailboxes")
def show_table(import_id: Id, session: Signed, service: Here, wanted: Which) -> Response:
    """The table and its filters, after one of them was chosen."""
    document, outcomes = _find(service, session, import_id)
    answer = render(
        "mailboxes.html",
        session,
        document=document,
        **_live(service, session, import_id, wanted, outcomes),
        **_table(service, session, import_id, wanted, outcomes),
    )
    address = f"/imports/{import_id}"
    answer.headers["HX-Push-Url"] = f"{address}?{wanted.query}" if wanted.query else address
    return answer


def _live(
    service: Service, session: Session, import_id: int, wanted: Wanted, outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    """What changes while tests run: the picture, the sentence, what to do, and the filters."""
    whole = Filters(import_id=import_id)
    waiting = count_waiting(service.mailboxes, session.workspace, whole)
    reasons = count_reasons(service.mailboxes, session.workspace, whole)
    found = actions(outcomes)
    mailboxes = sum(1 for one in outcomes if one.status)
    kinds = Counter(map(kind_of, outcomes))
    sentence = who_has_to_act(outcomes)
    return {
        "running": waiting.running,
        "prefect": service.tests.page_of_run(import_id),
        "held": waiting.held,
        "mailboxes": mailboxes,
        "bars": bars(kinds, len(outcomes)),
        "who": f"{sentence[0].upper()}{sentence[1:]}." if sentence else "There is nothing to do.",
        "forecast": forecast(outcomes),
        "sections": [] if waiting.running else sections(found),
        "by_status": status_chips(outcomes, wanted),
        "by_actor": actor_chips(found, wanted),
        "by_reason": [
            Chip(f"reason-{reason}", f"reason={reason}", reason.explanation.title, n, wanted.reason == reason)
            for reason, n in reasons
        ],
        "wanted": wanted,
    }


def _table(
    service: Service, session: Session, import_id: int, wanted: Wanted, every: Sequence[Outcome]
) -> dict[str, Any]:
    """The rows of the table. `every` are all rows of the import, so that no query repeats another."""
    outcomes = _selected(service, session, import_id, wanted)[1] if wanted.query else each_once(every)
    return {"rows": rows_of(outcomes)}


def _without_mailbox(outcomes: Iterable[Outcome], result: Result) -> list[Outcome]:
    return [one for one in outcomes if one.result == result and not one.status]


# Files ---------------------------------------------------------------


@router.get("/imports/{import_id:id}/report.{kind}")
async def download_report(
    import_id: Id, kind: Literal["csv", "xlsx", "html"], session: Signed, service: Here
) -> Response:
    return await report(f".{kind}", MEDIA[kind], session.holder, service, import_id)


@router.get("/imports/{import_id:id}/handover.zip")
async def download_handover(import_id: Id, session: Signed, service: Here) -> Response:
    return await handover_zip(session.holder, service, import_id)


@router.get("/imports/{import_id:id}/fix-passwords.csv")
async def download_fix_passwords(import_id: Id, session: Signed, service: Here) -> Response:
    """The list of wrong passwords, to fill in and import with an update."""

    def make(document: Document, outcomes: Iterable[Outcome]) -> bytes:
        files = handover(document, outcomes, program=command())
        if FIX_PASSWORDS not in files:
            raise HTTPException(404, "No password has to be fixed")
        return files[FIX_PASSWORDS]

    return await exported(make, "fix-passwords", ".csv", MEDIA["csv"], session.holder, service, import_id)


# Changes of many mailboxes -------------------------------------------


@router.post("/imports/{import_id:id}/retest", dependencies=[may(Scope.MANAGE)])
async def retest(import_id: Id, session: Signed, service: Here, wanted: Which, _form: OwnForm) -> Response:
    """Test the selected mailboxes again that do not work."""

    def work() -> list[int]:
        _, outcomes = _selected(service, session, import_id, wanted)
        ids = [one.mailbox_id for one in outcomes if one.mailbox_id is not None and one.status != "active"]
        for _ in make_due(service.mailboxes, ids, wanted.filters(import_id)):
            pass
        return ids

    ids = await _in_worker(work, session, service)
    note(session.holder, "retests", len(ids))
    service.tests.submit_mailboxes(ids)
    session.notice = f"Testing {counted(len(ids), 'mailbox', 'mailboxes')} again." if ids else NOTHING_TO_TEST
    return RedirectResponse(_back(import_id, Wanted()), HTTPStatus.SEE_OTHER)


async def _in_worker(work: Callable[[], T], session: Session, service: Service) -> T:
    with service.limits.one_job(session.holder.key_id):
        return await asyncio.get_running_loop().run_in_executor(service.workers, work)


def _back(import_id: int, wanted: Wanted) -> str:
    return f"/imports/{import_id}" + (f"?{wanted.query}" if wanted.query else "")


@router.get("/imports/{import_id:id}/delete")
def ask_to_delete(import_id: Id, session: Signed, service: Here, wanted: Which) -> Response:
    return _ask(import_id, session, service, wanted)


def _ask(import_id: int, session: Session, service: Service, wanted: Wanted, fault: str = "") -> Response:
    document, outcomes = _selected(service, session, import_id, wanted)
    return render(
        "delete_many.html",
        session,
        HTTPStatus.BAD_REQUEST if fault else HTTPStatus.OK,
        document=document,
        wanted=wanted,
        found=outcomes,
        fault=fault,
        back=_back(import_id, wanted),
    )


@router.post("/imports/{import_id:id}/delete", dependencies=[may(Scope.MANAGE)])
async def delete(import_id: Id, session: Signed, service: Here, wanted: Which, fields: OwnForm) -> Response:
    """Delete the selected mailboxes, if the count that the person gives is still right."""

    def work() -> Response | int:
        _, outcomes = _selected(service, session, import_id, wanted)
        ids = [one.mailbox_id for one in outcomes if one.mailbox_id is not None]
        if fields.get("count", "").strip().replace(",", "") != str(len(ids)):
            found = counted(len(ids), "mailbox", "mailboxes")
            fault = f"The number does not match: {found} would be deleted."
            return _ask(import_id, session, service, wanted, fault)
        return sum(map(len, delete_mailboxes(service.mailboxes, ids, wanted.filters(import_id))))

    done = await _in_worker(work, session, service)
    if isinstance(done, Response):
        return done
    note(session.holder, "deletes", done)
    session.notice = f"Deleted {counted(done, 'mailbox', 'mailboxes')}."
    return RedirectResponse(_back(import_id, Wanted()), HTTPStatus.SEE_OTHER)
