"""The event streams of a server: how many are open, and when they end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from flows.api.rate_limits import too_many
from schemas.responses import TOO_MANY_STREAMS

READERS = 2  # threads that read for all streams, apart from those that imports and tests use
READ_SECONDS = 0.5
FULL_SECONDS = 10  # what a client waits if there are too many streams


class Streams:
    """The open streams of all keys, for one event loop in one process.

    Attributes:
        seconds: How long a stream stays open.
        readers: Where streams read the database.
    """

    def __init__(self, most: int, most_per_key: int, seconds: float) -> None:
        self.seconds = seconds
        self.readers = ThreadPoolExecutor(READERS, thread_name_prefix="streams")
        self._most = most
        self._most_per_key = most_per_key
        self._open: Counter[int] = Counter()
        self._closing = asyncio.Event()

    @contextmanager
    def one(self, key_id: int) -> Iterator[None]:
        """Count a stream while it is open.

        Raises:
            HTTPException: 429 if there are too many, of this key or in all.
        """
        if self._open.total() >= self._most or self._open[key_id] >= self._most_per_key:
            raise too_many(TOO_MANY_STREAMS, FULL_SECONDS)
        self._open[key_id] += 1
        try:
            yield
        finally:
            self._open[key_id] -= 1

    @property
    def interval(self) -> float:
        """Seconds between two reads of a stream. All streams together read as often as 8 do."""
        return READ_SECONDS * max(1.0, self._open.total() / 8)

    async def pause(self, seconds: float) -> bool:
        """Wait; returns False at once when the server begins to shut down."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        return not self._closing.is_set()

    def close(self) -> None:
        """End all streams, each after what it is sending. Calling it again changes nothing."""
        self._closing.set()
        self.readers.shutdown(wait=False)
