"""The pages of past imports: progress, who has to act, the table of mailboxes, reports and the hand-over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from flows.api.changes import note
from flows.api.exports import WORKBOOK, exported, handover_zip, report
from flows.api.openapi import LARGEST_ID, Id
from flows.api.page.access import OwnForm, Signed, may, refuse_foreign
from flows.api.page.rendering import on_page, render
from flows.api.page.sessions import Session
from flows.api.service import Here, Service
from schemas.actors import ORDER
from schemas.handover import handover
from schemas.handover.readme import FIX_PASSWORDS
from schemas.labels import counted
from schemas.outcomes import (
    Action,
    Document,
    Outcome,
    actions,
    filled_in,
    forecast,
    named_domains,
    result_of,
    who_has_to_act,
)
from schemas.reasons import Actor, Reason
from schemas.report_html import HEADINGS, KINDS, kind_of
from schemas.scopes import Scope
from schemas.standing import MailboxStatus
from schemas.summary import Result
from tasks.hints import command
from tasks.storage.imports import count_reasons, find_import, find_imports
from tasks.storage.mailbox_changes import delete_mailboxes, make_due
from tasks.storage.mailboxes import Filters, count_mailboxes, count_waiting
from tasks.storage.outcomes import find_outcomes

router = APIRouter(dependencies=[Depends(refuse_foreign)])

LISTED = 100
MOST_ROWS = 200
STOP_POLLING = 286  # htmx ends a poll with this status
ACTORS = {
    Actor.ADMIN: "Microsoft 365 admin",
    Actor.OWNER: "Owners of the mailboxes",
    Actor.UPLOADER: "Maker of the file",
    Actor.OPERATOR: "Operator of this program",
    Actor.WAIT: "Tested again without you",
    Actor.NOBODY: "No password opens these",
}
STATUSES = {
    MailboxStatus.ACTIVE: ("works", "Work"),
    MailboxStatus.PARTIAL: ("half", "Can only send or only receive"),
    MailboxStatus.PENDING: ("wait", "Wait for a test"),
    MailboxStatus.FAILED: ("fails", "Fail"),
}
MEDIA = {"csv": "text/csv; charset=utf-8", "xlsx": WORKBOOK, "html": "text/html; charset=utf-8"}
NOTHING_TO_TEST = "Nothing to test: these mailboxes work."
T = TypeVar("T")


class Wanted(BaseModel):
    """Which mailboxes of an import to show."""

    status: MailboxStatus | Literal[""] = ""
    reason: Reason | Literal[""] = ""
    actor: Actor | Literal[""] = ""
    q: Annotated[str, Field(max_length=254)] = ""

    def filters(self, import_id: int) -> Filters:
        """The part of it that the database selects by; the rest is the actor."""
        return Filters(
            status=self.status or None,
            import_id=import_id,
            reason=self.reason or None,
            part=self.q.strip().casefold() or None,
        )

    @property
    def query(self) -> str:
        """It as the query of an address; "" for all mailboxes."""
        return urlencode({name: str(value) for name, value in self if value})

    @property
    def words(self) -> str:
        """What it selects, in words; "" for all mailboxes."""
        parts = []
        if self.status:
            parts.append(STATUSES[self.status][1])
        if self.reason:
            parts.append(self.reason.explanation.title)
        if self.actor:
            parts.append(ACTORS[self.actor])
        if self.q.strip():
            parts.append(f"“{self.q.strip()}”")
        return ", ".join(parts)


Which = Annotated[Wanted, Query()]


class Chip(NamedTuple):
    """A filter with the number of its mailboxes."""

    id: str
    query: str
    label: str
    number: int
    chosen: bool
    kind: str = ""


@dataclass(frozen=True)
class Shown:
    """A mailbox as a row of the table."""

    outcome: Outcome
    kind: str
    result: str
    why: str


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
    return document, _each_once(outcomes)


def _each_once(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The rows that have a mailbox, one for each mailbox."""
    return list({one.mailbox_id: one for one in outcomes if one.mailbox_id is not None}.values())


@router.get("/imports")
def list_imports(
    session: Signed, service: Here, before: Annotated[int, Query(ge=0, le=LARGEST_ID)] = 0
) -> Response:
    """The imports, newest first, of which each page lists some."""
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
    """The progress of tests that run, from counts alone, because browsers ask for it each second."""
    database, workspace = service.mailboxes, session.workspace
    waiting = count_waiting(database, workspace, Filters(import_id=import_id))
    found = find_import(database, workspace, import_id, 0, 0) if waiting.running else None
    if found is None:
        return None
    kinds = Counter(fails=found.failed, skipped=found.skipped)
    mailboxes = 0
    for status, (kind, _) in STATUSES.items():
        number = count_mailboxes(database, workspace, Filters(status=status, import_id=import_id))
        kinds[kind] += number
        mailboxes += number
    bars = _bars(kinds, kinds.total())
    return {"running": waiting.running, "mailboxes": mailboxes, "bars": bars, "held": 0, "sections": []}


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
        "held": waiting.held,
        "mailboxes": mailboxes,
        "bars": _bars(kinds, len(outcomes)),
        "who": f"{sentence[0].upper()}{sentence[1:]}." if sentence else "There is nothing to do.",
        "forecast": forecast(outcomes),
        "sections": [] if waiting.running else _sections(found),
        "by_status": _status_chips(outcomes, wanted),
        "by_actor": _actor_chips(found, wanted),
        "by_reason": [
            Chip(f"reason-{reason}", f"reason={reason}", reason.explanation.title, n, wanted.reason == reason)
            for reason, n in reasons
        ],
        "wanted": wanted,
    }


class Bar(NamedTuple):
    """A part of the picture, in thousandths of its width."""

    kind: str
    words: str
    number: int
    at: float
    width: float


def _bars(kinds: Counter[str], rows: int) -> list[Bar]:
    bars, at = [], 0.0
    for kind, words in KINDS.items():
        if kinds[kind]:
            width = 1000 * kinds[kind] / rows
            bars.append(Bar(kind, words, kinds[kind], round(at, 2), round(width, 2)))
            at += width
    return bars


def _status_chips(outcomes: Iterable[Outcome], wanted: Wanted) -> list[Chip]:
    counts = Counter({one.mailbox_id: one.status for one in outcomes if one.status}.values())
    return [
        Chip(f"status-{status}", f"status={status}", words, counts[status], wanted.status == status, kind)
        for status, (kind, words) in STATUSES.items()
        if counts[status]
    ]


def _actor_chips(found: Sequence[Action], wanted: Wanted) -> list[Chip]:
    counts = Counter[Actor]()
    for action in found:
        if not action.of_rows:
            counts[action.actor] += len(action.outcomes)
    return [
        Chip(f"actor-{actor}", f"actor={actor}", ACTORS[actor], counts[actor], wanted.actor == actor)
        for actor in ORDER
        if counts[actor]
    ]


class Section(NamedTuple):
    """What one actor has to do about one reason. `rank` is the actor's place in the order of all lists."""

    rank: int
    actor: str
    title: str
    members: str
    meaning: str
    remedy: str
    whom: str


def _sections(found: Sequence[Action]) -> list[Section]:
    return [
        Section(
            ORDER.index(action.actor),
            HEADINGS[action.actor],
            action.title,
            counted(len(action.outcomes), *(("row", "rows") if action.of_rows else ("mailbox", "mailboxes"))),
            action.meaning,
            on_page(filled_in(action.remedy, action.outcomes[0])),
            "" if action.of_rows else named_domains(action.outcomes),
        )
        for action in found
    ]


def _table(
    service: Service, session: Session, import_id: int, wanted: Wanted, every: Sequence[Outcome]
) -> dict[str, Any]:
    """The rows of the table. `every` are all rows of the import, so that no query repeats another."""
    outcomes = _selected(service, session, import_id, wanted)[1] if wanted.query else _each_once(every)
    titles, ranks = {}, {}
    for rank, action in enumerate(actions(outcomes)):
        for one in action.outcomes:
            titles[one.mailbox_id], ranks[one.mailbox_id] = action.title, rank
    rows = [Shown(one, kind_of(one), result_of(one), titles.get(one.mailbox_id, "")) for one in outcomes]
    order = list(KINDS)
    last = len(ranks)
    rows.sort(key=lambda row: (ranks.get(row.outcome.mailbox_id, last), order.index(row.kind)))
    return {"rows": rows}


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
