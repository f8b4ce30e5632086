"""The page for people who work without a terminal, served beside the HTTP API."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response

from flows.api.page import mailbox, past_imports, sign_in, start
from flows.api.page.people import ForPeople
from flows.api.page.rendering import STATIC, static_file
from flows.api.page.sessions import Sessions
from schemas.settings import Settings

static = APIRouter()
KEPT_FILES = 4  # the largest uploads that can wait for their import at one time


def add_page(app: FastAPI, settings: Settings) -> None:
    """Add the page to the application. Its layer has to be the outermost, so this comes last."""
    app.state.sessions = Sessions(KEPT_FILES * settings.max_file_bytes)
    for router in (static, sign_in.router, start.router, past_imports.router, mailbox.router):
        app.include_router(router, include_in_schema=False)
    app.add_middleware(ForPeople)


@static.get("/static/{name}")
async def show_static(name: str) -> Response:
    if name not in STATIC:
        raise HTTPException(404, "Not Found")
    # The address has a digest of the content in it.
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(static_file(name), media_type=STATIC[name], headers=headers)
