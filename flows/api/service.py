"""What all requests of one server share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from flows.api.known_keys import KnownKeys
from flows.api.rate_limits import Limits
from flows.api.streams import Streams
from schemas.settings import Settings
from tasks.background import BackgroundTests
from tasks.storage.database import Database


@dataclass(frozen=True)
class Service:
    """What a running server has.

    Attributes:
        importers: Threads for imports.
        workers: Threads for reports, hand-overs and changes of many mailboxes.
    """

    settings: Settings
    mailboxes: Database
    keys: KnownKeys
    tests: BackgroundTests
    limits: Limits
    importers: ThreadPoolExecutor
    workers: ThreadPoolExecutor
    streams: Streams


def service_of(request: Request) -> Service:
    """The service of the application that handles a request."""
    found: Service = request.app.state.service
    return found


Here = Annotated[Service, Depends(service_of)]
