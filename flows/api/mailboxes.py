"""Read stored mailboxes over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException

from flows.api.auth import Reader
from flows.api.openapi import Id, Paging
from flows.api.selected import Selected
from flows.api.service import Here
from schemas.responses import (
    NO_SUCH_MAILBOX,
    ConnectionTest,
    Envelope,
    MailboxDetail,
    MailboxPage,
    documented,
)
from tasks.storage.mailboxes import find_connection_test, find_mailbox, find_mailboxes

router = APIRouter()

# How many mailboxes one request may make the database look at; a million take a third of a second.
MOST_SEARCHED = 100_000


class Wanted(Paging, Selected):
    """Which mailboxes to list, and which page."""


@router.get(
    "/v1/mailboxes", summary="List mailboxes", responses=documented(MailboxPage, 400, 401, 403, 429, 500, 503)
)
def list_mailboxes(
    caller: Reader, service: Here, wanted: Annotated[Wanted, Query()]
) -> Envelope[MailboxPage]:
    """Lists mailboxes in the order of their ids.

    In a workspace with very many, a page may have fewer than `limit` mailboxes, or none: go on until
    `next_cursor` is null.
    """
    workspace = str(caller.workspace)
    filters = wanted.filters(workspace)
    if filters is None:
        return Envelope(data=MailboxPage(mailboxes=[], next_cursor=None))
    return Envelope(
        data=find_mailboxes(service.mailboxes, workspace, wanted.cursor, wanted.limit, filters, MOST_SEARCHED)
    )


@router.get(
    "/v1/mailboxes/{mailbox_id:id}",
    summary="Get a mailbox with the last result of each protocol",
    responses=documented(MailboxDetail, 400, 401, 403, 404, 429, 500, 503),
)
def show_mailbox(caller: Reader, service: Here, mailbox_id: Id) -> Envelope[MailboxDetail]:
    found = find_mailbox(service.mailboxes, str(caller.workspace), mailbox_id)
    if found is None:
        raise HTTPException(404, NO_SUCH_MAILBOX)
    return Envelope(data=found)


@router.get(
    "/v1/mailboxes/{mailbox_id:id}/connection-test",
    summary="Get how far the connection test of a mailbox has come",
    responses=documented(ConnectionTest, 400, 401, 403, 404, 429, 500, 503),
)
def show_connection_test(caller: Reader, service: Here, mailbox_id: Id) -> Envelope[ConnectionTest]:
    found = find_connection_test(service.mailboxes, str(caller.workspace), mailbox_id)
    if found is None:
        raise HTTPException(404, NO_SUCH_MAILBOX)
    return Envelope(data=found)
