"""Turn templates into responses. Every value is escaped."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flows.api.page.sessions import Session
from schemas.labels import counted, shortened
from schemas.outcomes import utc
from schemas.report_html import with_commands

FOLDER = Path(__file__).parent
STATIC = {"page.css": "text/css", "page.js": "text/javascript", "htmx.min.js": "text/javascript"}
# An error replaces nothing of the page: its sentence goes where the page shows messages.
HTMX = {
    "allowEval": False,
    "includeIndicatorStyles": False,
    "selfRequestsOnly": True,
    "historyCacheSize": 0,  # otherwise the browser would store the pages, with the addresses
    "refreshOnHistoryMiss": True,
    "attributesToSettle": ["class", "width", "height"],  # not style: the policy forbids it
    "responseHandling": [
        {"code": "204", "swap": False},
        {"code": "[23]..", "swap": True},
        {"code": "[45]..", "swap": True, "error": True, "target": "#notice", "swapOverride": "innerHTML"},
    ],
}


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "counted": counted,
        "short": shortened,
        "utc": utc,
        "commands": with_commands,
        "on_page": on_page,
    }
    made.globals |= {"htmx": json.dumps(HTMX), "address_of": address_of}
    return made


# The options of the command line in texts that every way in shows, and what to do on the page instead.
_INSTEAD = (
    (
        re.compile("import a file with --update, or use “mailboxes password”"),
        "open the mailbox and type it, or fill in fix-passwords.csv and import it with “Replace passwords”",
    ),
    (
        re.compile(r"its encoding \(usually --encoding (\S+?)( on .*)?\)"),
        r"its encoding under “More options”, usually \1\2",
    ),
    (re.compile(": --trim"), ", open “More options”"),
    (re.compile("(; to use it)?: --map .*"), ""),
)


def on_page(text: str) -> str:
    """A text with the steps of this page instead of the command line's."""
    for pattern, instead in _INSTEAD:
        text = pattern.sub(instead, text)
    return text


@cache
def static_file(name: str) -> bytes:
    return (FOLDER / "static" / name).read_bytes()


@cache
def address_of(name: str) -> str:
    """The address of a static file, which changes with its content."""
    return f"/static/{name}?v={hashlib.sha256(static_file(name)).hexdigest()[:12]}"


def is_fragment(request: Request) -> bool:
    """Whether a part of the page asks, not the browser itself."""
    return "hx-request" in request.headers and "hx-history-restore-request" not in request.headers


def render(
    template: str, session: Session | None = None, status: int = HTTPStatus.OK, **values: Any
) -> HTMLResponse:
    """A page or a part of one.

    Args:
        session: The session that it is for; its notice is shown now, and not again.
    """
    shared: dict[str, Any] = {"signed_in": session is not None, "notice": "", "token": "", "workspace": ""}
    if session is not None:
        shared |= {"notice": session.notice, "token": session.token, "workspace": session.workspace}
        session.notice = ""
    shared["may"] = session.holder.scopes if session is not None else ()
    return HTMLResponse(environment().get_template(template).render(**shared, **values), status)
