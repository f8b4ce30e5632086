"""Sign in with a key or with a link of this machine, and sign out."""

from __future__ import annotations

import asyncio
import ipaddress
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.responses import Response

from flows.api.connections import address_of
from flows.api.page.access import (
    AllSessions,
    MaybeSigned,
    OwnForm,
    Signed,
    cookie_name,
    read_fields,
    refuse_foreign,
    set_cookie,
)
from flows.api.page.people import RETURN_TO
from flows.api.page.rendering import render
from flows.api.page.sessions import BY_LINK
from flows.api.service import Here
from schemas.labels import LABEL_RULE, is_label
from schemas.scopes import Scope
from tasks.storage.api_keys import Holder
from tasks.storage.database import NoSuchWorkspaceError, SimilarWorkspaceError, require_workspace
from tasks.storage.page_links import use_link

router = APIRouter(dependencies=[Depends(refuse_foreign)])

WRONG_KEY = "This is not a valid key. A key begins with sk_ and works until it is revoked."
NO_WORKSPACE = "This key opens every workspace. Name the one that you want to work in."
OTHER_WORKSPACE = "This key belongs to another workspace. Leave the workspace empty."
USED_LINK = "This link was used already, or it is too old. Make a new one, or sign in with a key."


@router.get("/sign-in")
async def show_sign_in(session: MaybeSigned, to: str = "/") -> Response:
    if session is not None:
        return RedirectResponse(to if RETURN_TO.fullmatch(to) else "/", HTTPStatus.SEE_OTHER)
    return _form(to)


def _form(to: str = "/", fault: str = "", workspace: str = "", status: int = HTTPStatus.OK) -> HTMLResponse:
    return render("sign_in.html", status=status, to=to, fault=fault, named=workspace)


@router.post("/sign-in")
async def sign_in(request: Request, service: Here, sessions: AllSessions, before: MaybeSigned) -> Response:
    """Begin a session. A key that is wrong counts against the limit of its address."""
    fields = await read_fields(request)
    key, named, to = (fields.get(name, "").strip() for name in ("key", "workspace", "to"))
    holder = await service.keys.find(key, address_of(request.client))
    if holder is None:
        return _form(to, WRONG_KEY, named, HTTPStatus.UNAUTHORIZED)
    workspace = holder.workspace or named
    fault = await asyncio.to_thread(_fault_of, holder, named, service)
    if fault:
        return _form(to, fault, named, HTTPStatus.BAD_REQUEST)
    if before is not None:
        sessions.end(before)
    answer = RedirectResponse(to if RETURN_TO.fullmatch(to) else "/", HTTPStatus.SEE_OTHER)
    set_cookie(request, answer, sessions.begin(holder._replace(workspace=workspace)))
    return answer


def _fault_of(holder: Holder, named: str, service: Here) -> str:
    """Why a key cannot open the page of the workspace that was named, or ""."""
    if Scope.READ not in holder.scopes:
        return f"{Scope.READ.missing}."
    if holder.workspace is not None:
        return OTHER_WORKSPACE if named not in ("", holder.workspace) else ""
    if not named:
        return NO_WORKSPACE
    if not is_label(named):
        return f"Workspace: {LABEL_RULE}."
    try:
        require_workspace(service.mailboxes, named)
    except (NoSuchWorkspaceError, SimilarWorkspaceError):
        return "There is no such workspace."
    return ""


@router.get("/open/{token}")
async def open_by_link(
    token: Annotated[str, "43 characters"], request: Request, service: Here, sessions: AllSessions
) -> Response:
    """Begin a session by a link that `outlook-import open` has printed on this machine."""
    workspace = None
    if _is_here(request):
        workspace = await asyncio.to_thread(use_link, service.settings, token)
    if workspace is None:
        return _form(fault=USED_LINK, status=HTTPStatus.UNAUTHORIZED)
    answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
    set_cookie(request, answer, sessions.begin(Holder(BY_LINK, workspace)))
    return answer


def _is_here(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:  # a proxy names its client in its own way
        return False


@router.post("/sign-out")
async def sign_out(request: Request, session: Signed, sessions: AllSessions, _form: OwnForm) -> Response:
    sessions.end(session)
    answer = RedirectResponse("/sign-in", HTTPStatus.SEE_OTHER)
    answer.delete_cookie(cookie_name(request), httponly=True, samesite="strict")
    return answer
