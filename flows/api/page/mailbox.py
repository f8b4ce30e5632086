"""The page of one mailbox: what the servers said, and what can be done about it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import RedirectResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from flows.api.changes import MailboxChange, change_one, mailbox_of, note
from flows.api.errors import what_is_invalid
from flows.api.openapi import Id
from flows.api.page.access import OwnForm, Signed, may, refuse_foreign
from flows.api.page.past_imports import STOP_POLLING
from flows.api.page.rendering import render
from flows.api.page.sessions import Session
from flows.api.page.views import STATUSES
from flows.api.service import Here, Service
from schemas.addresses import email_key
from schemas.powershell import literal
from schemas.reasons import Protocol, Reason
from schemas.responses import MailboxRecord
from schemas.scopes import Scope
from schemas.standing import MailboxStatus
from tasks.storage.mailbox_changes import delete_mailboxes, edit_mailboxes, make_due
from tasks.storage.mailboxes import Filters, count_waiting, find_mailbox, find_record
from tasks.storage.updates import check_password, replace_one

router = APIRouter(dependencies=[Depends(refuse_foreign)])


def _find(service: Service, session: Session, mailbox_id: int) -> tuple[str, MailboxRecord]:
    """The email key of a mailbox, and what is stored about it.

    Raises:
        HTTPException: 404 if the workspace has no such mailbox.
    """
    mailbox = find_mailbox(service.mailboxes, session.workspace, mailbox_id)
    key = email_key(mailbox.email, tuple(service.settings.overrides)) if mailbox else None
    record = find_record(service.mailboxes, session.workspace, key) if key else None
    if key is None or record is None:
        raise HTTPException(404, "No such mailbox")
    return key, record


def _shown(service: Service, session: Session, mailbox_id: int) -> dict[str, Any]:
    key, record = _find(service, session, mailbox_id)
    results = {result.protocol: result for result in record.results}
    running = count_waiting(service.mailboxes, session.workspace, Filters(key=key)).running > 0
    kind, _ = STATUSES[record.status]
    return {
        "record": record,
        "kind": kind,
        "running": running and record.status is MailboxStatus.PENDING,
        "protocols": [
            (protocol, protocol in record.needs.protocols, results.get(protocol)) for protocol in Protocol
        ],
        "quoted": literal(record.email),
        "ok": Reason.OK,
        "password_fault": "",
        "edit_fault": "",
    }


@router.get("/mailboxes/{mailbox_id:id}")
def show_mailbox(mailbox_id: Id, session: Signed, service: Here) -> Response:
    return render("mailbox.html", session, **_shown(service, session, mailbox_id))


async def _show_fault(service: Service, session: Session, mailbox_id: int, **fault: str) -> Response:
    """The page again, with what is wrong in one of its forms."""
    values = await asyncio.to_thread(_shown, service, session, mailbox_id)
    return render("mailbox.html", session, HTTPStatus.BAD_REQUEST, **{**values, **fault})


@router.get("/mailboxes/{mailbox_id:id}/live")
def show_progress(mailbox_id: Id, session: Signed, service: Here) -> Response:
    """What changes while the mailbox is tested. The browser asks again until the test has ended."""
    values = _shown(service, session, mailbox_id)
    answer = render("mailbox_live.html", None, polled=True, **values)
    if not values["running"]:
        answer.status_code = STOP_POLLING
    return answer


@router.post("/mailboxes/{mailbox_id:id}/retest", dependencies=[may(Scope.MANAGE)])
async def retest(mailbox_id: Id, session: Signed, service: Here, _form: OwnForm) -> Response:
    await change_one(partial(make_due, service.mailboxes), "retests", session.holder, service, mailbox_id)
    return _tested(mailbox_id, session, service, "Testing the mailbox again.")


def _tested(mailbox_id: int, session: Session, service: Service, notice: str) -> Response:
    service.tests.submit_mailboxes([mailbox_id])
    return _back(mailbox_id, session, notice)


def _back(mailbox_id: int, session: Session, notice: str) -> Response:
    session.notice = notice
    return RedirectResponse(f"/mailboxes/{mailbox_id}", HTTPStatus.SEE_OTHER)


@router.post("/mailboxes/{mailbox_id:id}/password", dependencies=[may(Scope.MANAGE)])
async def replace_password(mailbox_id: Id, session: Signed, service: Here, fields: OwnForm) -> Response:
    """Give the mailbox a new password, by the rules for a row of a file, and test it."""
    password = fields.get("password", "")
    fault = await asyncio.to_thread(_replace, service, session, mailbox_id, password)
    if fault:
        return await _show_fault(service, session, mailbox_id, password_fault=fault)
    note(session.holder, "replaces the password of", 1)
    return _tested(mailbox_id, session, service, "The password is replaced. Testing the mailbox.")


def _replace(service: Service, session: Session, mailbox_id: int, password: str) -> str:
    """Replace a password; return why that is not possible, or ""."""
    key, record = _find(service, session, mailbox_id)
    checked = check_password(record.email, password)
    if isinstance(checked, str):
        return f"{checked}. Nothing was changed."
    known = replace_one(service.mailboxes, session.workspace, key, checked)
    if known is None:
        raise HTTPException(404, "No such mailbox")
    return f"{known.reason.message}: {known.reason.remedy}." if known.reason else ""


@router.post("/mailboxes/{mailbox_id:id}/edit", dependencies=[may(Scope.MANAGE)])
async def edit(mailbox_id: Id, session: Signed, service: Here, fields: OwnForm) -> Response:
    """Change tag, name and needs. What the mailbox is newly needed for is tested."""
    _, record = await asyncio.to_thread(_find, service, session, mailbox_id)
    changes = _changes(fields, record)
    if isinstance(changes, str):
        return await _show_fault(service, session, mailbox_id, edit_fault=f"{changes}. Nothing was changed.")
    if not changes:
        return _back(mailbox_id, session, "Nothing was changed.")
    change = partial(edit_mailboxes, service.mailboxes, changes=changes)
    await change_one(change, "edits", session.holder, service, mailbox_id)
    if "needs" in changes:
        return _tested(mailbox_id, session, service, "Saved.")
    return _back(mailbox_id, session, "Saved.")


def _changes(fields: Mapping[str, str], record: MailboxRecord) -> Mapping[str, Any] | str:
    """What a form changes, or what is wrong with it, by the rules of the API.

    They do not apply to what stays as it is: a name from a file may have any characters.
    """
    sent = {field: " ".join(fields.get(field, "").split()) for field in ("tag", "name", "needs")}
    new = {
        field: text or None
        for field, text in sent.items()
        if text != " ".join((getattr(record, field) or "").split())
    }
    try:
        return MailboxChange.model_validate(new).changes() if new else {}
    except ValidationError as error:
        return what_is_invalid(error)
    except HTTPException as error:
        return error.detail


@router.get("/mailboxes/{mailbox_id:id}/delete")
def ask_to_delete(mailbox_id: Id, session: Signed, service: Here) -> Response:
    _, record = _find(service, session, mailbox_id)
    return render("delete_one.html", session, record=record)


@router.post("/mailboxes/{mailbox_id:id}/delete", dependencies=[may(Scope.MANAGE)])
async def delete(mailbox_id: Id, session: Signed, service: Here, _form: OwnForm) -> Response:
    mailbox = await mailbox_of(session.holder, service, mailbox_id)
    change = partial(delete_mailboxes, service.mailboxes)
    await change_one(change, "deletes", session.holder, service, mailbox_id)
    session.notice = f"Deleted {mailbox.email}."
    return RedirectResponse(f"/imports/{mailbox.import_id}", HTTPStatus.SEE_OTHER)
