"""Limit the requests and the concurrent imports and jobs of each API key."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from starlette.exceptions import HTTPException

from schemas.responses import (
    TOO_MANY_IMPORTS,
    TOO_MANY_JOBS,
    TOO_MANY_REQUESTS,
)

JOBS_AT_ONCE = 4


class Limits:
    """The limits of all keys, for one event loop in one process."""

    def __init__(self, requests_per_minute: int, imports_at_once: int) -> None:
        self._requests_per_minute = requests_per_minute
        self._imports_at_once = imports_at_once
        self._requests: defaultdict[int, deque[float]] = defaultdict(deque)
        self._imports: Counter[int] = Counter()
        self._jobs: Counter[int] = Counter()

    def count_request(self, key_id: int) -> None:
        """Count a request.

        Raises:
            HTTPException: 429 if the key has sent too many requests in the last minute.
        """
        requests, moment = self._requests[key_id], time.monotonic()
        while requests and requests[0] <= moment - 60:
            requests.popleft()
        if len(requests) >= self._requests_per_minute:
            raise too_many(TOO_MANY_REQUESTS, requests[0] + 60 - moment)
        requests.append(moment)

    @contextmanager
    def one_import(self, key_id: int) -> Iterator[None]:
        """Count an import while it runs.

        Raises:
            HTTPException: 429 if the key runs too many imports.
        """
        with _one_of(self._imports, key_id, self._imports_at_once, TOO_MANY_IMPORTS):
            yield

    @contextmanager
    def one_job(self, key_id: int) -> Iterator[None]:
        """Count a report, a hand-over or a change of many mailboxes while it runs.

        Raises:
            HTTPException: 429 if the key runs too many.
        """
        with _one_of(self._jobs, key_id, JOBS_AT_ONCE, TOO_MANY_JOBS):
            yield


@contextmanager
def _one_of(running: Counter[int], key_id: int, most: int, message: str) -> Iterator[None]:
    if running[key_id] >= most:
        raise too_many(message, 1)
    running[key_id] += 1
    try:
        yield
    finally:
        running[key_id] -= 1


def too_many(message: str, seconds: float) -> HTTPException:
    """429 with the time to wait before the next attempt."""
    headers = {"Retry-After": str(max(math.ceil(seconds), 1))}
    return HTTPException(HTTPStatus.TOO_MANY_REQUESTS, message, headers)
