"""Who may do what on the page: the session of a request, and forms that only its own pages can send."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from flows.api.page.sessions import BY_LINK, LONGEST_SECONDS, Session, Sessions
from flows.api.service import Here
from schemas.scopes import Scope
from tasks.storage.api_keys import key_is_active

LONGEST_FORM = 64 * 1024
FOREIGN = "This form was sent by another page: open the page again and repeat the step"
STALE = "This form belongs to an earlier session: load the page again and repeat the step"
NOT_A_FORM = "The request is not a form of this page"


def sessions_of(request: Request) -> Sessions:
    """The sessions of the application that handles a request."""
    found: Sessions = request.app.state.sessions
    return found


AllSessions = Annotated[Sessions, Depends(sessions_of)]


def cookie_name(request: Request) -> str:
    """The name of the cookie. Browsers share cookies between ports, so each server has its own name."""
    return f"outlook_import_{request.url.port or 'session'}"


def set_cookie(request: Request, response: Response, cookie: str) -> None:
    response.set_cookie(
        cookie_name(request),
        cookie,
        max_age=int(LONGEST_SECONDS),
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


async def find_session(request: Request, service: Here, sessions: AllSessions) -> Session | None:
    """The session of a request; None without one, or if its key was revoked."""
    cookie = request.cookies.get(cookie_name(request))
    session = sessions.find(cookie) if cookie else None
    if session is None:
        return None
    key_id = session.holder.key_id
    if key_id != BY_LINK and not await asyncio.to_thread(key_is_active, service.mailboxes, key_id):
        sessions.end(session)
        return None
    return session


MaybeSigned = Annotated[Session | None, Depends(find_session)]


async def signed_in(session: MaybeSigned, service: Here) -> Session:
    """The session of a request. Counts the request against the limit of its key.

    Raises:
        HTTPException: 401 without a session, 429 if there are too many requests.
    """
    if session is None:
        raise HTTPException(401, "Sign in first")
    service.limits.count_request(session.holder.key_id)
    return session


Signed = Annotated[Session, Depends(signed_in)]


def refuse_foreign(request: Request) -> None:
    """Refuse a request that changes something and that another site has caused.

    Browsers say where a request comes from, and no page can change what they say.

    Raises:
        HTTPException: 403 if it comes from elsewhere, or nothing says where it comes from.
    """
    if request.method in ("GET", "HEAD"):
        return
    site = request.headers.get("sec-fetch-site")
    host = urlsplit(request.headers.get("origin", "")).netloc
    own = site == "same-origin" if site is not None else host == request.headers.get("host") != ""
    if not own:
        raise HTTPException(403, FOREIGN)


async def read_fields(request: Request) -> dict[str, str]:
    """The fields of a form that is sent as text.

    Raises:
        HTTPException: 400 if it is not such a form, or too long.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    body = await request.body() if kind == "application/x-www-form-urlencoded" else None
    if body is None or len(body) > LONGEST_FORM:
        raise HTTPException(400, NOT_A_FORM)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50))
    except ValueError:
        raise HTTPException(400, NOT_A_FORM) from None


async def own_form(request: Request, session: Signed) -> dict[str, str]:
    """The fields of a form that was made for this session.

    Raises:
        HTTPException: 400 if it is no form, 403 if it was made for another session.
    """
    fields = await read_fields(request)
    refuse_stale(session, fields.get("token", ""))
    return fields


def refuse_stale(session: Session, token: str) -> None:
    """Refuse a form that was not made for this session.

    Raises:
        HTTPException: 403.
    """
    if not session.owns(token):
        raise HTTPException(403, STALE)


def may(scope: Scope) -> Any:
    """The dependency of a route whose requests need a scope. It refuses a key without it: 403."""

    def check(session: Signed) -> None:
        if scope not in session.holder.scopes:
            raise HTTPException(403, scope.missing)

    return Depends(check)


OwnForm = Annotated[dict[str, str], Depends(own_form)]
