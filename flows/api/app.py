"""The HTTP API: import a CSV of mailboxes, follow the import, then read and change its mailboxes.

An import responds when its mailboxes are stored. Their logins are tested in the background.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

import schemas.migrations
from flows.api import changes, events, exports, imports, mailboxes
from flows.api.connections import Bounds
from flows.api.errors import (
    not_ready,
    on_database_fault,
    on_http_error,
    on_invalid_request,
    on_lost_database,
    on_missing_workspace,
    on_similar_workspace,
)
from flows.api.known_keys import KnownKeys
from flows.api.middleware import FRAME_BYTES, Edge
from flows.api.openapi import schemas_of, tidied
from flows.api.page.site import add_page
from flows.api.rate_limits import Limits
from flows.api.service import Here, Service
from flows.api.streams import Streams
from schemas.prepare import prepare_rows
from schemas.responses import Envelope, Status, documented
from schemas.settings import Settings, SettingsError
from tasks.background import BackgroundTests
from tasks.storage.database import (
    DatabaseLostError,
    NoSuchWorkspaceError,
    SimilarWorkspaceError,
    database,
    revision,
)

WORK_THREADS = 2
IMPORT_THREADS = 4  # more threads would wait for the interpreter, or for SQLite's single writer

health = APIRouter()


def create_app(settings: Settings) -> FastAPI:
    """The application. Its database is open from start-up to shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warm_up()
        with (
            database(settings) as opened,
            ThreadPoolExecutor(IMPORT_THREADS) as importers,
            ThreadPoolExecutor(WORK_THREADS) as workers,
        ):
            tests = BackgroundTests(opened, settings)
            limits = Limits(settings.api_requests_per_minute, settings.api_imports_at_once)
            streams = Streams(settings.api_streams, settings.api_streams_per_key, settings.api_stream_seconds)
            app.state.service = Service(
                settings, opened, KnownKeys(opened), tests, limits, importers, workers, streams
            )
            yield
            streams.close()
            await tests.close()

    app = FastAPIOffline(
        title="Outlook mailbox import",
        version="1",
        description=__doc__,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            HTTPException: on_http_error,
            RequestValidationError: on_invalid_request,
            DatabaseLostError: on_lost_database,
            DBAPIError: on_database_fault,
            PoolTimeoutError: on_database_fault,
            NoSuchWorkspaceError: on_missing_workspace,
            SimilarWorkspaceError: on_similar_workspace,
        },
    )
    app.add_middleware(Edge, limit=settings.max_file_bytes + FRAME_BYTES, bounds=bounds_of(settings))
    for router in (health, imports.router, events.router, exports.router, mailboxes.router, changes.router):
        app.include_router(router)

    @cache  # it takes as long as all the rest of the start, and few ask for it
    def document() -> dict[str, Any]:
        found = tidied(get_openapi(title=app.title, version=app.version, routes=app.routes))
        found["components"]["schemas"] |= schemas_of(changes.BODIES)
        return found

    app.openapi = document  # type: ignore[method-assign]
    add_page(app, settings)
    return app


def bounds_of(settings: Settings) -> Bounds:
    """The limits on clients, from the settings. The largest request fits four times into the memory."""
    return Bounds(
        connections=settings.api_connections,
        connections_per_address=settings.api_connections_per_address,
        header_seconds=settings.api_header_seconds,
        body_rate=settings.api_body_rate,
        body_seconds=settings.api_body_seconds,
        body_memory=max(Bounds.body_memory, 4 * (settings.max_file_bytes + FRAME_BYTES)),
    )


def warm_up() -> None:
    """Initialise Polars and Pandera; otherwise the first import takes 0.2 s longer."""
    prepare_rows(b"email,password\n,\n,x\n")


@health.get("/healthz", summary="Check that the server runs", responses=documented(Status))
async def healthz() -> Envelope[Status]:
    return Envelope(data=Status(status="live"))


@health.get("/readyz", summary="Check that the database is ready", responses=documented(Status, 503))
def readyz(service: Here) -> Envelope[Status]:
    try:
        ready = revision(service.mailboxes.engine) == schemas.migrations.HEAD
    except SettingsError:
        ready = False
    if not ready:
        raise not_ready()
    return Envelope(data=Status(status="ready"))
