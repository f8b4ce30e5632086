"""The progress of an import as server-sent events.

They are read from the database, so it makes no difference which process tests the mailboxes.

Source: HTML Standard, 9.2 Server-sent events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from flows.api.auth import Reader
from flows.api.openapi import Id
from flows.api.service import Here, Service
from flows.api.streams import Streams
from schemas.responses import NO_SUCH_IMPORT, Mailbox, documented_file
from tasks.storage.api_keys import key_is_active
from tasks.storage.database import DatabaseLostError
from tasks.storage.imports import Followed, find_import, follow_import

router = APIRouter()

KEEP_ALIVE_SECONDS = 15
LOGGER = logging.getLogger(__name__)
RECONNECT_MILLISECONDS = 2000
# Verdicts get their time before they are committed, so one can appear after a later one.
OVERLAP = timedelta(seconds=10)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST_ID = 10**16 - 1  # microseconds since 1970, in the year 2286
EXAMPLE = (
    "event: verdict\n"
    'data: {"id":7,"email":"ann@contoso.com","status":"active","can":"can send and receive"}\n'
    "id: 1795359607000000\n\n"
    "event: progress\n"
    'data: {"mailboxes":20,"tested":20,"active":18,"partial":0,"failed":2,"pending":0}\n\n'
    'event: end\ndata: {"reason":"done"}\n\n'
)


EVENTS = {
    # The keyword of OpenAPI 3.2 for streams; FastAPI uses it too.
    "itemSchema": {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string", "enum": ["verdict", "progress", "end"]},
            "data": {"type": "string", "contentMediaType": "application/json"},
            "id": {"type": "string"},
        },
    },
    "example": EXAMPLE,
}


class End(BaseModel):
    """Why a stream ends: all tests are over for now, the key was revoked, or the client should reconnect."""

    reason: str


class EventStream(EventSourceResponse):
    """A stream that is counted while it is open, even if the client leaves before its first event."""

    def __init__(self, events: AsyncIterator[bytes], streams: Streams, key_id: int) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._streams = streams
        self._key_id = key_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.one(self._key_id):
            await super().__call__(scope, receive, send)


@router.get(
    "/v1/imports/{import_id:id}/events",
    summary="Follow the tests of an import as server-sent events",
    response_class=Response,  # FastAPI would encode the events of an `EventSourceResponse` itself
    responses=documented_file(
        "text/event-stream", "The events.", *(400, 401, 403, 404, 429, 500, 503), shape=EVENTS
    ),
)
def follow_events(
    caller: Reader,
    service: Here,
    import_id: Id,
    last_event_id: Annotated[
        str | None,
        Header(
            description="The id of the last event that the client has seen: microseconds since 1970.",
            json_schema_extra={"pattern": "^[0-9]{1,16}$"},
        ),
    ] = None,
) -> EventStream:
    """Sends `verdict` (a mailbox that was tested, as in `/v1/mailboxes`), `progress` (counts) and `end`.

    A mailbox can come twice after a reconnection: its `tested_at` says whether it is the same verdict. `end`
    has the reason `done` when all tests that are due are over, and `key` when the key was revoked. After the
    reasons `time`, `shutdown` and `database`, reconnect.
    """
    found = find_import(service.mailboxes, str(caller.workspace), import_id, 0, 0)
    if found is None:
        raise HTTPException(404, NO_SUCH_IMPORT)
    since = found.created_at
    if last_event_id is not None:
        since = max(since, _time_of(last_event_id) - OVERLAP)
    follower = _Follower(service, caller.key_id, import_id, since)
    return EventStream(follower.events(), service.streams, caller.key_id)


def _time_of(event_id: str) -> datetime:
    if not (event_id.isascii() and event_id.isdigit() and int(event_id[:20]) <= LATEST_ID):
        raise HTTPException(400, "last-event-id: use the id of an event")
    return EPOCH + timedelta(microseconds=int(event_id))


class _Follower:
    """Follows one import for one client."""

    def __init__(self, service: Service, key_id: int, import_id: int, since: datetime) -> None:
        self._service = service
        self._key_id = key_id
        self._import_id = import_id
        self._since = since
        self._sent: dict[int, datetime | None] = {}  # at most the 500 mailboxes of the import

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the events until the tests are over, the time is up, or the server shuts down."""
        yield format_sse_event(retry=RECONNECT_MILLISECONDS)
        streams, began = self._service.streams, time.monotonic()
        told, spoke, pause = None, began, 0.0
        while await streams.pause(pause):
            try:
                found = await self._read()
            except DatabaseLostError as error:
                LOGGER.error("The events of import %d end: %s", self._import_id, error)
                yield _event("end", End(reason="database"))
                return
            if found is None:
                yield _event("end", End(reason="key"))
                return
            for mailbox in found.verdicts:
                yield _event("verdict", mailbox, _id_of(mailbox))
            moment = time.monotonic()
            news = found.progress != told
            if news or moment >= spoke + KEEP_ALIVE_SECONDS:
                yield _event("progress", found.progress) if news else KEEPALIVE_COMMENT
                told, spoke = found.progress, moment
            if not found.open or moment >= began + streams.seconds:
                yield _event("end", End(reason="time" if found.open else "done"))
                return
            pause = min(streams.interval, streams.seconds)
        yield _event("end", End(reason="shutdown"))

    async def _read(self) -> Followed | None:
        """The state of the import, with the verdicts that were not sent yet; None if the key was revoked.

        Raises:
            DatabaseLostError: If the database goes away and does not come back in time.
        """
        mailboxes = self._service.mailboxes

        def read() -> Followed | None:
            if not key_is_active(mailboxes, self._key_id):
                return None
            return follow_import(mailboxes, self._import_id, self._since)

        found = await asyncio.get_running_loop().run_in_executor(self._service.streams.readers, read)
        if found is None:
            return None
        fresh = [one for one in found.verdicts if self._sent.get(one.id) != one.tested_at]
        for one in fresh:
            self._sent[one.id] = one.tested_at
            if one.tested_at is not None:
                self._since = max(self._since, one.tested_at - OVERLAP)
        return found._replace(verdicts=fresh)


def _id_of(mailbox: Mailbox) -> str | None:
    """The time of a verdict, in microseconds since 1970."""
    at = mailbox.tested_at
    return None if at is None else str((at - EPOCH) // timedelta(microseconds=1))


def _event(name: str, data: BaseModel, event_id: str | None = None) -> bytes:
    return format_sse_event(event=name, data_str=data.model_dump_json(), id=event_id)
