"""The log of the HTTP API, which clients cannot flood."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any


class LogThrottle(logging.Filter):
    """Passes a few warnings or errors of a kind per period; the next one that passes counts the others.

    The kind is the logger and the text before its arguments are filled in. Lines below a warning all pass:
    there is at most one per request.
    """

    def __init__(self, most: int = 5, seconds: float = 10) -> None:
        super().__init__()
        self._most = most
        self._seconds = seconds
        self._ends = 0.0
        self._seen: Counter[tuple[str, str]] = Counter()
        self._dropped: Counter[tuple[str, str]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        if record.created >= self._ends:
            self._ends = record.created + self._seconds
            self._dropped = self._seen - Counter(dict.fromkeys(self._seen, self._most))
            self._seen.clear()
        kind = (record.name, str(record.msg))
        self._seen[kind] += 1
        if self._seen[kind] > self._most:
            return False
        if dropped := self._dropped.pop(kind, 0):
            record.msg = f"{record.msg} (and {dropped} more like it)"
        return True


LONGEST_PATH = 200


class WithoutQuery(logging.Filter):
    """Leaves out the query of a request, because a search has a part of an address, and cuts long paths."""

    def filter(self, record: logging.LogRecord) -> bool:
        match record.args:
            case (client, method, str() as target, *rest) if record.name == "uvicorn.access":
                record.args = (client, method, target.partition("?")[0][:LONGEST_PATH], *rest)
        return True


LOG_TO_STDERR: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "filters": {"throttle": {"()": LogThrottle}, "without_query": {"()": WithoutQuery}},
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "line",
            "filters": ["throttle", "without_query"],
        },
    },
    "loggers": {
        name: {"handlers": ["stderr"], "level": "INFO", "propagate": False}
        for name in ("asyncio", "uvicorn", "flows", "tasks")
    }
    | {"python_multipart": {"level": "CRITICAL"}},  # it quotes bytes of malformed requests
}


def log_to_stderr(*, quiet: bool = False) -> dict[str, Any]:
    """The configuration of a log on standard error; if it is quiet, without the lines below a warning."""
    loggers = LOG_TO_STDERR["loggers"]
    if quiet:
        loggers = {
            name: {**one, "level": max(one["level"], "WARNING", key=_RANK.index)}
            for name, one in loggers.items()
        }
    return {**LOG_TO_STDERR, "loggers": loggers}


_RANK = ("INFO", "WARNING", "CRITICAL")
