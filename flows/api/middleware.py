"""The outermost layer of the application: limit every body, and wrap every failure in the envelope.

Error responses and log lines contain nothing that the caller sent, except the method and the path.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.api.bodies import BodyClock, BodyMemory
from flows.api.connections import Bounds
from flows.api.errors import error_response
from schemas.responses import (
    BODY_TOO_LARGE,
    INTERNAL_ERROR,
)
from tasks.crash import outline

FRAME_BYTES = 64 * 1024  # room around the file: boundaries, part headers, the tag
DISCARD_SECONDS = 2.0
PAUSE_SECONDS = 0.5
LOGGER = logging.getLogger(__name__)


class Edge:
    """ASGI middleware. It reads no body beyond the limit, and turns every exception into a 500.

    Args:
        app: The application inside.
        limit: Maximum size of a request body, in bytes.
        bounds: The limits on slow bodies and on the memory of all bodies.
    """

    def __init__(self, app: ASGIApp, limit: int, bounds: Bounds) -> None:
        self._app = app
        self._limit = limit
        self._bounds = bounds
        self._memory = BodyMemory(bounds.body_memory)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._limit, BodyClock(self._bounds), self._memory)
        answer = None
        try:
            if exchange.announced > self._limit:
                answer = error_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, BODY_TOO_LARGE)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except (ClientDisconnect, asyncio.CancelledError):
            return  # the client has left, or the server has cut its connection during the shutdown
        except Exception as error:  # noqa: BLE001  the outermost edge: the text may quote the request
            LOGGER.error("%s %r: %s", scope["method"], scope["path"], outline(error))
            if not exchange.answering:
                answer = error_response(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR)
        finally:
            exchange.release()
        if answer is not None:
            await answer(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its response. Wraps the `receive` and `send` functions of the server."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        limit: int,
        clock: BodyClock,
        memory: BodyMemory,
    ) -> None:
        headers = Headers(scope=scope)
        self.announced = int(headers.get("content-length", 0))
        self.answering = False
        self._unread = self.announced > 0 or "transfer-encoding" in headers
        self._size = self._held = 0
        self._limit = limit
        self._clock = clock
        self._memory = memory
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        # After the body, the only thing to wait for is that the client leaves, which may take any time.
        message = await (self._clock.receive(self._receive) if self._unread else self._receive())
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._memory.take(size)
            self._held += size
            self._size += size
            self._unread = message.get("more_body", False)
            if self._size > self._limit:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, BODY_TOO_LARGE)
        return message

    def release(self) -> None:
        """Give the memory of the body back."""
        self._memory.give_back(self._held)
        self._held = 0

    async def send(self, message: Message) -> None:
        """Send the response. If the request body is not fully read, close the connection afterwards."""
        if message["type"] == "http.response.start":
            self.answering = True
            if self._unread:
                # Otherwise the server reads the whole body, regardless of its size, to keep the connection.
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        elif self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        """Give a caller that is still sending time to read the response. Closing at once would reset it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while self._unread and self._size <= self._limit:
                    message = await self._receive()
                    self._size += len(message.get("body", b""))
                    self._unread = message.get("more_body", False)
        if self._unread:
            await asyncio.sleep(PAUSE_SECONDS)  # the server stops reading, so the caller has to stop sending


def header_text(value: str) -> str:
    """Decode the text of a header: as UTF-8 if possible, otherwise as Latin-1, as the server does."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value
