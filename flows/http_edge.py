"""What every request to the HTTP API passes through: the bound on its body, its limits, and the one envelope.

No error body, and no line of the log, holds anything that a caller sent beyond method and path.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

import h11
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from schemas.responses import (
    BODY_TOO_LARGE,
    INTERNAL_ERROR,
    NOT_READY,
    TOO_MANY_IMPORTS,
    TOO_MANY_REQUESTS,
    failure,
)
from tasks.crash import outline

FRAME_BYTES = 64 * 1024  # room around the file: boundaries, part headers, the tag
DISCARD_SECONDS = 2.0
PAUSE_SECONDS = 0.5
RETRY_SECONDS = 5
LOGGER = logging.getLogger(__name__)


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(failure(status, message), status, headers)


async def on_http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  it is registered for these
    return error_response(error.status_code, error.detail, error.headers)


async def on_lost_database(request: Request, _error: Exception) -> JSONResponse:
    return await on_http_error(request, not_ready())


def not_ready() -> HTTPException:
    headers = {"Retry-After": str(RETRY_SECONDS)}
    return HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, NOT_READY, headers)


async def on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    """Name the parameters and their faults; FastAPI's own answer would quote what was sent."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  it is registered for these
    faults = [
        "There is no such parameter"
        if fault["type"] == "extra_forbidden"
        else f"{fault['loc'][-1]}: {fault['msg']}"
        for fault in error.errors()
    ]
    return error_response(HTTPStatus.BAD_REQUEST, "; ".join(faults[:3]))


class Edge:
    """The outermost layer: no body is read beyond the limit, and whatever breaks is a 500 in the envelope."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._limit)
        answer = None
        try:
            if exchange.announced > self._limit:
                answer = error_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, BODY_TOO_LARGE)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001  the outermost edge: the text may quote what was sent
            LOGGER.error("%s %r: %s", scope["method"], scope["path"], outline(error))
            if not exchange.answering:
                answer = error_response(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR)
        if answer is not None:
            await answer(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer, as the server's two channels see them."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        headers = Headers(scope=scope)
        self.announced = int(headers.get("content-length", 0))
        self.answering = False
        self._unread = self.announced > 0 or "transfer-encoding" in headers
        self._size = 0
        self._limit = limit
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._unread = message.get("more_body", False)
            if self._size > self._limit:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, BODY_TOO_LARGE)
        return message

    async def send(self, message: Message) -> None:
        """Pass the answer on; where it comes before the body's end, it ends the connection."""
        if message["type"] == "http.response.start":
            self.answering = True
            if self._unread:
                # Without this the server would read a body of any size to its end, to keep the connection.
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        elif self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        """Let a caller who is still sending read the answer: closing at once would reset the connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while self._unread and self._size <= self._limit:
                    message = await self._receive()
                    self._size += len(message.get("body", b""))
                    self._unread = message.get("more_body", False)
        if self._unread:
            await asyncio.sleep(PAUSE_SECONDS)  # nothing is read any more, so the caller cannot go on either


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, with the envelope as its answer to what is no HTTP at all."""

    def send_400_response(self, msg: str) -> None:
        answer = error_response(HTTPStatus.BAD_REQUEST, msg, {"connection": "close"})
        for event in (
            h11.Response(status_code=answer.status_code, headers=answer.raw_headers, reason=b"Bad Request"),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()


class Limits:
    """How much each key may ask for. Lives on one event loop, in one process."""

    def __init__(self, requests_per_minute: int, imports_at_once: int) -> None:
        self._requests_per_minute = requests_per_minute
        self._imports_at_once = imports_at_once
        self._requests: defaultdict[int, deque[float]] = defaultdict(deque)
        self._imports: Counter[int] = Counter()

    def count_request(self, key_id: int) -> None:
        requests, moment = self._requests[key_id], time.monotonic()
        while requests and requests[0] <= moment - 60:
            requests.popleft()
        if len(requests) >= self._requests_per_minute:
            raise _too_many(TOO_MANY_REQUESTS, requests[0] + 60 - moment)
        requests.append(moment)

    @contextmanager
    def one_import(self, key_id: int) -> Iterator[None]:
        if self._imports[key_id] >= self._imports_at_once:
            raise _too_many(TOO_MANY_IMPORTS, 1)
        self._imports[key_id] += 1
        try:
            yield
        finally:
            self._imports[key_id] -= 1


def _too_many(message: str, seconds: float) -> HTTPException:
    headers = {"Retry-After": str(max(math.ceil(seconds), 1))}
    return HTTPException(HTTPStatus.TOO_MANY_REQUESTS, message, headers)


def header_text(value: str) -> str:
    """A header's text: UTF-8 where it is that, else Latin-1, which is what the server takes it for."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def tidied(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document without what FastAPI puts in and this API never does.

    That is its own answer to an invalid parameter, and parameters that are null, which a URL cannot say.
    """
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            for parameter in operation.get("parameters", ()):
                for choice in parameter["schema"].pop("anyOf", ()):
                    if choice != {"type": "null"}:
                        parameter["schema"] |= choice
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    return document
