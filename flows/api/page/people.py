"""The outermost layer of the page: its headers, and errors as pages for people."""

from __future__ import annotations

import json
import re
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.api.page.rendering import render

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
NOT_OURS = re.compile(r"/(v1|docs|static-offline-docs|openapi\.json|healthz|readyz)(/|$)")
WORDS = {
    400: "That did not work",
    401: "Sign in first",
    403: "Not allowed",
    404: "There is nothing here",
    405: "There is nothing here",
    408: "The upload was too slow",
    413: "The file is too large",
    429: "Too many requests",
    500: "Something went wrong on our side",
    503: "Not ready at the moment",
}
EXPLAINED = {
    401: "Your session has ended, or you have not signed in yet.",
    404: "The address may be mistyped, or what it named was deleted.",
    405: "The address may be mistyped.",
    413: "Split it into files of at most 500 mailboxes.",
    500: "It was logged. Nothing was changed by halves: try again.",
}
RETURN_TO = re.compile(r"/(imports(/[1-9][0-9]{0,17})?|mailboxes/[1-9][0-9]{0,17})")


class ForPeople:
    """ASGI middleware. It adds the page's headers, and turns the API's errors into pages for browsers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or NOT_OURS.match(scope["path"]):
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, _Answer(scope, send).send)


class _Answer:
    """The response to one request. Wraps the `send` function of the server."""

    def __init__(self, scope: Scope, send: Send) -> None:
        headers = Headers(scope=scope)
        self._scope = scope
        self._part = "hx-request" in headers
        self._person = self._part or "text/html" in headers.get("accept", "")
        self._send = send
        self._failed: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            headers.update(HEADERS)
            headers.setdefault("Cache-Control", "no-store")
            message["headers"] = headers.raw
            if self._person and message["status"] >= 400 and headers["content-type"] == "application/json":
                self._failed = message
                return
        elif self._failed is not None:
            # An error arrives in one piece. What may follow it only keeps the connection open.
            message = {**message, "body": await self._begin(self._failed, message["body"])}
            self._failed = None
        await self._send(message)

    async def _begin(self, start: Message, envelope: bytes) -> bytes:
        """Send the head of an error page and return its body."""
        status = start["status"]
        headers = MutableHeaders(raw=start["headers"])
        if status == HTTPStatus.UNAUTHORIZED:
            path = self._scope["path"]
            onward = f"/sign-in?to={path}" if RETURN_TO.fullmatch(path) else "/sign-in"
            if self._part:
                headers["HX-Redirect"] = "/sign-in"
            elif self._scope["method"] == "GET":
                status, headers["Location"] = HTTPStatus.SEE_OTHER, onward
        message = json.loads(envelope)["error"]["message"]
        page = render(
            "error_part.html" if self._part else "error.html",
            title=WORDS.get(status, "That did not work"),
            message=EXPLAINED.get(status, f"{message}."),
        )
        body = bytes(page.body)
        headers["content-type"] = page.headers["content-type"]
        headers["content-length"] = str(len(body))
        await self._send({**start, "status": status, "headers": headers.raw})
        return body
