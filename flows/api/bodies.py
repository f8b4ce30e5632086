"""Limit slow request bodies, and the memory of all bodies together."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from flows.api.connections import Bounds
from flows.api.errors import RETRY_LATER
from schemas.responses import BODY_TOO_SLOW, TOO_MANY_BODIES


class BodyClock:
    """Times one body. It needs a minimum rate in each window, so a fast start does not buy time to stall.

    Only the time spent waiting for the client counts, so a busy server costs the client nothing.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._bytes = 0
        self._left = bounds.body_window_seconds
        self._seconds = 0.0

    async def receive(self, receive: Receive) -> Message:
        """The next piece of the body.

        Raises:
            HTTPException: 408 if the body is too slow.
        """
        while True:
            started = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._left):
                    message = await receive()
                    self._left -= time.monotonic() - started
                    self._bytes += len(message.get("body", b""))
                    return message
            self._end_window()

    def _end_window(self) -> None:
        window = self._bounds.body_window_seconds
        self._seconds += window
        if self._bytes < self._bounds.body_rate * window or self._seconds >= self._bounds.body_seconds:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, BODY_TOO_SLOW)
        self._bytes = 0
        self._left = window


class BodyMemory:
    """Counts the bytes of all bodies that are in memory."""

    def __init__(self, size: int) -> None:
        self._free = size

    def take(self, size: int) -> None:
        """Count bytes that have arrived.

        Raises:
            HTTPException: 503 if there are too many.
        """
        if size > self._free:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, TOO_MANY_BODIES, RETRY_LATER)
        self._free -= size

    def give_back(self, size: int) -> None:
        self._free += size
