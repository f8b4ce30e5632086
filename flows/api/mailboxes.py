"""Read stored mailboxes over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.exceptions import HTTPException

from flows.api.auth import Caller
from flows.api.openapi import DIGITS, LARGEST_ID, Id, Paging
from flows.api.service import Here
from schemas.labels import is_label
from schemas.responses import Envelope, MailboxDetail, MailboxPage, documented
from schemas.standing import MailboxStatus
from tasks.storage.mailboxes import Filters, find_mailbox, find_mailboxes

router = APIRouter()


class Wanted(Paging):
    """Which mailboxes to list, and which page."""

    status: MailboxStatus | None = None
    tag: str | None = None
    batch: Annotated[int, Field(ge=1, le=LARGEST_ID), DIGITS] | None = Field(
        None, description="The id of an import."
    )


@router.get(
    "/v1/mailboxes", summary="List mailboxes", responses=documented(MailboxPage, 400, 401, 403, 429, 500, 503)
)
def list_mailboxes(
    caller: Caller, service: Here, wanted: Annotated[Wanted, Query()]
) -> Envelope[MailboxPage]:
    """Lists mailboxes in the order of their ids."""
    if wanted.tag is not None and not is_label(wanted.tag):
        return Envelope(data=MailboxPage(mailboxes=[], next_cursor=None))  # no mailbox can have this tag
    filters = Filters(wanted.status, wanted.tag, wanted.batch)
    workspace = str(caller.workspace)
    return Envelope(data=find_mailboxes(service.mailboxes, workspace, wanted.cursor, wanted.limit, filters))


@router.get(
    "/v1/mailboxes/{mailbox_id:id}",
    summary="Get a mailbox with the last result of each protocol",
    responses=documented(MailboxDetail, 400, 401, 403, 404, 429, 500, 503),
)
def show_mailbox(caller: Caller, service: Here, mailbox_id: Id) -> Envelope[MailboxDetail]:
    found = find_mailbox(service.mailboxes, str(caller.workspace), mailbox_id)
    if found is None:
        raise HTTPException(404, "No such mailbox")
    return Envelope(data=found)
